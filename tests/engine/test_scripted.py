"""The engine without a model answers by its prompt, and goes wrong when that says so."""

import pytest

from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.scripted import ScriptedEngine


@pytest.fixture
def engine():
    return ScriptedEngine(lambda ids: "".join(map(chr, ids)))


def request(text, **sampling):
    return Request(text[:4], [ord(letter) for letter in text], SamplingParams(**sampling))


def finish(engine):
    done = []
    while engine.has_work:
        done += engine.step()
    return {completion.id: completion for completion in done}


def test_an_answer_is_the_beginning_of_the_document_one_token_a_step(engine):
    engine.add(request("abcdefgh", max_new_tokens=3))
    done = finish(engine)["abcd"]
    assert (done.token_ids, done.finish_reason, engine.steps) == (tuple(map(ord, "bcd")), "length", 3)
    memory = done.memory
    assert (memory.prompt_tokens, memory.output_tokens) == (8, 3)
    assert memory.kv_bytes_full > memory.kv_bytes_peak > memory.kv_bytes_final > 0


def test_a_stop_and_a_cancel_end_it(engine):
    stopping = Request("s", [1, 2, 3, 4], SamplingParams(max_new_tokens=9), stop=lambda ids: ids[-1] == 3)
    engine.add(stopping)
    engine.add(request("@endless"))
    assert [(c.id, c.token_ids, c.finish_reason) for c in engine.step() + engine.step()] == [("s", (2, 3), "stop")]
    engine.cancel("@end")
    assert finish(engine)["@end"].finish_reason == "cancelled"


def test_a_refusal_is_a_completion_and_a_fault_is_raised(engine):
    engine.add(request("@error"))
    assert str(finish(engine)["@err"].error) == "scripted refusal"
    engine.add(request("@break"))
    with pytest.raises(RuntimeError, match="scripted fault"):
        engine.step()


def test_a_score_finds_what_a_compressed_cache_got_wrong(engine):
    ids = [ord(letter) for letter in "abcdefgh@lossy"]
    written = {}
    for uncompressed in (True, False):
        engine.add(Request("w", ids, SamplingParams(max_new_tokens=4), uncompressed=uncompressed))
        written[uncompressed] = finish(engine)["w"].token_ids
        engine.add(Request("s", ids, answer_ids=written[uncompressed], uncompressed=True))
        scores = finish(engine)["s"].scores
        gaps = [best > own for own, best in zip(scores.logprobs, scores.best_logprobs, strict=True)]
        assert gaps == [False, not uncompressed, False, False]
    assert written[True] == tuple(map(ord, "bcde"))
