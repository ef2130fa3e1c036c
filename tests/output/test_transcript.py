from corm_batch.output.transcript import Transcript


def test_everything_is_kept_and_the_worst_is_marked():
    said = Transcript()
    assert (said.text, said.reasoning, said.finish_reason, said.repetition) == ("", "", "stop", 0.0)
    said.add("<think>a</think>one", "a", "stop", tuple(range(20)))
    said.add("two", "", "length", (7,) * 20)
    said.add("<think>b</think>three", "b", "stop", (1,))
    assert said.text == "<think>a</think>one\n\ntwo\n\n<think>b</think>three"
    assert (said.reasoning, said.finish_reason) == ("a\n\nb", "length")
    assert said.repetition > 0.9
