import asyncio
from copy import copy
from dataclasses import replace

import pytest

from corm_batch.audit.config import VerifyConfig
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Completion, SamplingParams
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.errors import AnswerError, BrokenEngineError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.engine_thread import EngineThread
from corm_batch.pipeline.verifier import Verifier
from corm_batch.tasks.base import Answer, Ask, Prompt
from corm_batch.tasks.messages import Message
from corm_batch.text.reasoning import ReasoningMarks
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL
from tests.until import until

TOKENIZER = PromptTokenizer.from_pretrained(MODEL, document_role="document")
SAMPLING = SamplingParams(max_new_tokens=6)
LIMIT = 64
KING = "Once upon a time there was a king."


def prompt(text):
    return Prompt(text, "Summarize.")


def asked(test):
    async def main():
        engine = EngineThread(ScriptedEngine(TOKENIZER.decode), asyncio.get_running_loop())
        asker = EngineAsker("doc", TOKENIZER, engine, LIMIT)
        await test(asker)
        return asker

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_answer_and_its_memory():
    async def test(asker):
        first = await asker.ask(prompt(KING), SAMPLING)
        second = await asker.ask(prompt(KING), SAMPLING, ["time"])
        assert first.text.startswith("Once upon a time")
        assert (second.text, second.finish_reason) == ("Once upon a", "stop")

    asker = asked(test)
    assert [item.prompt_tokens for item in asker.memory] == [len(TOKENIZER.encode(prompt(KING)))] * 2
    assert asker.memory[0].output_tokens == 6


def test_an_empty_answer_is_none():
    async def test(asker):
        with pytest.raises(AnswerError, match=r"^the answer is empty$") as empty:
            await asker.ask(prompt(KING), SAMPLING, ["Once"])
        assert empty.value.finish_reason == "stop"
        (missing, given) = await asker.ask_all([Ask(prompt(KING), SAMPLING, [stop]) for stop in ("Once", "time")])
        assert (str(missing), given.text) == ("the answer is empty", "Once upon a")

    assert asked(test).transcript.answers == ["", "", "Once upon a"]


def test_a_form_is_the_requests_and_begins_behind_reasoning_that_the_prompt_begins():
    form = Grammar.of_choices(["a", "b"])
    thinking = copy(TOKENIZER)
    thinking.__dict__["reasoning"] = ReasoningMarks("<think>", "</think>", is_open=True)

    async def test(asker):
        await asker.ask_all([Ask(prompt(KING), SAMPLING, (), form), Ask(prompt(KING), SAMPLING)])
        thinker = EngineAsker("thinker", thinking, asker._engine, LIMIT)
        with pytest.raises(AnswerError, match="nothing but its reasoning"):
            await thinker.ask(prompt(KING), SAMPLING, (), form)
        assert thinker.answered[0][0].grammar == replace(form, after="</think>")

    assert [request.grammar for request, _ in asked(test).answered] == [form, None]


def test_refusals_are_errors_of_the_document():
    async def test(asker):
        with pytest.raises(DocumentError, match=r"do not fit the model's context of 64"):
            await asker.ask(prompt("long " * 100), SAMPLING)
        with pytest.raises(DocumentError, match="scripted refusal"):
            await asker.ask(prompt("@error"), SAMPLING)

    asked(test)


def test_several_are_asked_at_once_and_an_error_is_its_own_entry():
    async def test(asker):
        asks = [Ask(prompt(text), SAMPLING, stop) for text, stop in ((KING, ["time"]), ("@error", ()), (KING, ()))]
        cut, refused, whole = await asker.ask_all(asks)
        assert (cut.text, whole.text[:16]) == ("Once upon a", "Once upon a time")
        assert isinstance(refused, DocumentError)
        with pytest.raises(BrokenEngineError, match="scripted"):
            await asker.ask_all([Ask(prompt(KING), SAMPLING), Ask(prompt("@break"), SAMPLING)])

    assert len(asked(test).memory) == 2


LONG = "Once upon a time there was a king who had three daughters and a garden full of apples. " * 8
QUESTIONS = ("Who was there?", "How many daughters did the king have?", "Summarize.", "Summarize.")


def ask_questions(engine, tokenizer=TOKENIZER, limit=512, **fields):
    """Four questions about one text, one of them twice; the asker, and what it found."""

    async def main():
        asker = EngineAsker("doc", tokenizer, EngineThread(engine, asyncio.get_running_loop()), limit, **fields)
        found = await asker.ask_all([Ask(Prompt(LONG, question), SAMPLING) for question in QUESTIONS])
        await asker._engine.check(5)  # what was closed is closed
        return asker, found

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("pins", [True, False])
def test_what_prompts_begin_with_alike_is_read_once_and_each_has_its_place_in_the_whole(pins):
    engine = ScriptedEngine(TOKENIZER.decode)
    asker, found = ask_questions(engine, pins_instruction=pins)
    prompts = [TOKENIZER.encode(Prompt(LONG, question)) for question in QUESTIONS]
    (reading,) = engine.readings
    shared = len(reading.token_ids)
    assert reading.is_closed
    assert all(prompt[:shared] == reading.token_ids for prompt in prompts)
    assert shared > len(prompts[0]) - 20
    assert [answer.text for answer in found] == [TOKENIZER.decode(prompt[1:7]) for prompt in prompts]
    requests = [request for request, _ in asker.answered]
    assert [request.token_ids for request in requests] == prompts  # as whoever verifies them reads them
    assert [request.id for request in requests] == [f"doc#{number}" for number in (1, 2, 3, 4)]
    assert {request.reading for request in requests} == {None}
    for request, question in zip(requests, QUESTIONS, strict=True):
        whole = asyncio.run(alone_request(question, pins))
        assert joined(request.instruction) == joined(whole.instruction)
    (memory,) = asker.memory
    assert memory.prompt_tokens == shared + sum(len(prompt) - shared for prompt in prompts)
    assert memory.kv_bytes_full == 256 * (memory.prompt_tokens + 4 * 6)
    assert (memory.output_tokens, memory.read_apart) == (24, None)
    assert asker.spent().kv_bytes_peak == memory.kv_bytes_peak


def joined(spans):
    return None if spans is None else {index for span in spans for index in span}


async def alone_request(question, pins):
    thread = EngineThread(ScriptedEngine(TOKENIZER.decode), asyncio.get_running_loop())
    asker = EngineAsker("doc", TOKENIZER, thread, 512, pins_instruction=pins)
    await asker.ask(Prompt(LONG, question), SAMPLING)
    return asker.answered[0][0]


def test_prompts_that_begin_otherwise_are_read_by_themselves_and_the_figures_say_why():
    """A template that puts the question first; and a text too short to be worth it."""
    first = PromptTokenizer.from_pretrained(MODEL)
    first.encode_all = lambda prompts: [
        TOKENIZER.encode(Prompt(f"{prompt.instruction}\n\n{prompt.text}", "")) for prompt in prompts
    ]
    engine = ScriptedEngine(TOKENIZER.decode)
    asker, found = ask_questions(engine, first)
    assert [type(one) for one in found] == [Answer] * 4
    assert engine.readings == []
    assert len(asker.memory) == 4
    assert asker.spent().prompt_tokens == sum(
        map(len, first.encode_all([Prompt(LONG, question) for question in QUESTIONS]))
    )
    assert "does the template put the text first?" in asker.spent().read_apart

    async def test(asker):
        await asker.ask_all([Ask(prompt(KING), SAMPLING)] * 2)
        assert "these must be 64 or more" in asker.spent().read_apart
        alone = await asker.ask_all([Ask(prompt(KING), SAMPLING)])
        assert [type(one) for one in alone] == [Answer]

    asked(test)


def test_a_question_that_fails_is_its_own_and_a_time_that_is_up_closes_the_reading():
    engine = ScriptedEngine(TOKENIZER.decode)

    async def main():
        asker = EngineAsker("doc", TOKENIZER, EngineThread(engine, asyncio.get_running_loop()), 512)
        asks = [Ask(Prompt(LONG, question), SAMPLING) for question in ("Who?", "@error", "word " * 500)]
        found = await asker.ask_all(asks)
        assert [type(one) for one in found] == [Answer, DocumentError, DocumentError]
        asks[1] = Ask(Prompt(LONG, "@endless"), SAMPLING)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asker.ask_all(asks)
        await asker._engine.check(5)
        return asker

    asker = asyncio.run(asyncio.wait_for(main(), 20))
    assert [reading.is_closed for reading in engine.readings] == [True, True]
    until(lambda: not engine.has_work, 10)  # gives up in its next step
    assert len(asker.answered) == len(asker.memory) == 2  # what was paid for is counted


def test_a_model_reads_a_document_once_and_its_answers_are_verified():
    corm = {"name": "corm", "window": 16, "recent": 16, "tau": 4.0}
    engine = Engine.from_pretrained(MODEL, policy=corm, dtype="float32", device="cpu", kv_memory=1 << 26)
    asks = [Ask(Prompt(LONG, question), SAMPLING) for question in QUESTIONS]

    async def main():
        thread = EngineThread(engine, asyncio.get_running_loop())
        asker = EngineAsker("doc", TOKENIZER, thread, 512)
        found = await asker.ask_all(asks)
        read = engine.stats.prompt_tokens
        verified = await Verifier(VerifyConfig(share=1.0, min_gap=0.0), thread, 60).verify(asker, suspect=False)
        again = asker.without_eviction()
        await again.ask_all(asks)
        await thread.check(5)
        return asker, found, read, verified, again

    asker, found, read, verified, again = asyncio.run(main())
    prompts = [TOKENIZER.encode(Prompt(LONG, question)) for question in QUESTIONS]
    memory, uncompressed = asker.memory
    assert memory.prompt_tokens == uncompressed.prompt_tokens == read < 1.5 * len(prompts[0])
    assert memory.output_tokens == sum(len(completion.token_ids) for _, completion in asker.answered)
    assert found[2].text == found[3].text  # one question, asked twice
    assert found[2].mean_logprob == pytest.approx(found[3].mean_logprob, abs=1e-5)  # some CPUs add rows up unlike
    assert verified.verify_error is None
    assert [one.prompt_tokens for one in asker.passes] == list(map(len, prompts))
    assert memory.kept_ratio < uncompressed.kept_ratio == 1.0
    assert len(again.answered) == 4
    assert engine.pool_bytes_used == 0


def test_long_texts_are_cut_to_fit():
    text = "\n\n".join(f"Paragraph {index} has two sentences. This <|end|> is one." for index in range(40))

    async def test(asker):
        assert not asker.fits([prompt(text)], 6)
        pieces = asker.windows(text, [prompt], 6)
        assert "".join(pieces) == text
        assert asker.fits(list(map(prompt, pieces)), 6)
        assert sum(piece.endswith("\n\n") for piece in pieces) > len(pieces) // 2
        beginning = asker.truncate(text, [prompt], 6)
        assert text.startswith(beginning)
        used = len(TOKENIZER.encode(prompt(beginning))) + 6
        assert LIMIT - 2 <= used <= LIMIT

    asked(test)


def test_texts_are_cut_to_leave_the_room_that_a_policy_reads_behind_them():
    """A document as long as the context, and a short answer: kvzip reads more behind a prompt than the answer takes."""
    kvzip = {"name": "kvzip", "budget": {"name": "adakv", "max_kept": 0.5, "floor": 0.0}}
    limits = {"max_model_len": 256, "kv_memory": 1 << 26}
    engine = Engine.from_pretrained(MODEL, policy=kvzip, dtype="float32", device="cpu", **limits)
    assert 4 < engine.least_room < 128

    async def main(least_room):
        thread = EngineThread(engine, asyncio.get_running_loop())
        asker = EngineAsker("doc", TOKENIZER, thread, engine.max_model_len, least_room=least_room)
        prompts = [lambda piece, question=question: Prompt(piece, question) for question in QUESTIONS[:2]]
        text = asker.truncate("A sentence of six words, again. " * 100, prompts, 4)
        found = await asker.ask_all([Ask(one(text), SamplingParams(max_new_tokens=4)) for one in prompts])
        await thread.check(5)
        return found, asker.spent().kept_ratio

    found, kept = asyncio.run(main(engine.least_room))
    assert not [one for one in found if isinstance(one, DocumentError)]
    assert kept < 0.7
    failed, _ = asyncio.run(main(0))
    assert "policy kvzip has a prompt repeated behind it" in str(failed[0])


def test_windows_fit_every_prompt_that_is_put_to_them():
    text = "A sentence of six words, again. " * 30
    prompts = [prompt, lambda piece: Prompt(piece, "Summarize, and say who the king was.")]

    async def test(asker):
        pieces = asker.windows(text, prompts, 6)
        assert "".join(pieces) == text
        assert asker.fits([one(piece) for piece in pieces for one in prompts], 6)
        assert pieces == asker.windows(text, prompts[::-1], 6)
        assert len(pieces) < len(text) / 40

    asked(test)


def test_instruction_that_fills_the_context():
    async def test(asker):
        with pytest.raises(DocumentError, match="no room"):
            asker.windows("text", [lambda text: Prompt(text, "word " * 100)], 6)

    asked(test)


def test_time_of_a_document_is_that_of_all_its_prompts():
    async def test(asker):
        assert asker.spent().prompt_tokens == 0
        await asker.ask(prompt(KING), SAMPLING)
        first = asker.spent().elapsed_s
        await asker.ask(prompt(KING), SAMPLING)
        assert asker.spent().elapsed_s > first > 0

    asked(test)


def test_reasoning_is_no_answer_and_is_kept():
    async def test(asker):
        answer = await asker.ask(prompt("<think> A draft.</think> Final words."), SamplingParams(max_new_tokens=40))
        assert answer.text.startswith("Final words.")
        with pytest.raises(AnswerError, match=r"nothing but its reasoning, which </think> ends \(cut off"):
            await asker.ask(prompt("<think> A draft without an end."), SAMPLING)

    asker = asked(test)
    assert asker.transcript.answers[0].startswith("<think> A draft.</think> Final words.")
    assert asker.transcript.reasoning.startswith("A draft.\n\n")
    assert asker.transcript.answers[1].startswith("<think> A")
    assert len(asker.memory) == 2


@pytest.mark.parametrize("pins", [True, False])
def test_a_request_names_its_instruction_where_the_policy_pins_it(pins):
    class Recording:
        def __init__(self):
            self.requests = []

        async def answer(self, request):
            self.requests.append(request)
            return Completion(request.id, (300,), "length")

    engine = Recording()
    asker = EngineAsker("doc", TOKENIZER, engine, 512, pins_instruction=pins)

    async def ask():
        await asyncio.gather(*(asker.ask(prompt(text), SAMPLING) for text in (KING, KING * 5)))
        await asker.without_eviction().ask(prompt(KING), SAMPLING)

    asyncio.run(ask())
    first, second, again = sorted(engine.requests, key=lambda one: (one.uncompressed, one.id))
    assert [one.token_ids for one in (first, second)] == [TOKENIZER.encode(prompt(t)) for t in (KING, KING * 5)]
    assert again.instruction is None
    for one in (first, second):
        spans = one.instruction
        assert (spans is None) == (not pins)
        if pins:
            assert "Summarize." in TOKENIZER.spelled(one.token_ids[spans[-1].start : spans[-1].stop])
            assert sum(map(len, spans)) < 12


def test_answers_to_one_prompt_share_a_reading_and_are_drawn_apart_the_same_in_every_batch(tiny_model):
    engine = Engine.from_pretrained(tiny_model, policy={"name": "full"}, dtype="float32", device="cpu")
    drawn = SamplingParams(max_new_tokens=8, temperature=1.5, seed=7, logprobs=1)
    several, other = [Ask(Prompt(LONG, "Who?"), drawn)] * 4, Ask(Prompt(LONG * 2, "What?"), drawn)

    async def main():
        thread = EngineThread(engine, asyncio.get_running_loop())
        askers = [EngineAsker(name, TOKENIZER, thread, 1024) for name in ("doc", "doc", "other", "doc")]
        first = await askers[0].ask_all(several)
        again, _ = await asyncio.gather(askers[1].ask_all(several), askers[2].ask_all([other] * 3))
        return askers[0].memory, first, again, await askers[3].ask(*vars(several[0]).values())

    (memory,), first, again, alone = asyncio.run(asyncio.wait_for(main(), 60))
    assert memory.prompt_tokens == len(TOKENIZER.encode(several[0].prompt)) - 1 + 4
    assert {one.prompt_tokens for one in first} == {len(TOKENIZER.encode(several[0].prompt))}
    assert len({one.text for one in first}) == 4
    assert [one.text for one in first] == [one.text for one in again]
    assert alone.text == first[0].text  # the first of several is the one that would be the only one
    for one in first:
        assert sum(token.logprob for token in one.logprobs) / 8 == pytest.approx(one.mean_logprob)
        assert [len(token.top_logprobs) for token in one.logprobs] == [1] * 8


def test_a_form_begins_behind_the_reasoning_that_a_prompt_of_its_own_begins():
    thinking = copy(TOKENIZER)
    thinking.reasoning_of = lambda prompt: ReasoningMarks("<think>", "</think>", is_open=bool(prompt.messages))
    form, chat = Grammar.of_choices(["a"]), Prompt("", "", messages=(Message("user", KING),))

    async def main():
        engine = EngineThread(ScriptedEngine(TOKENIZER.decode), asyncio.get_running_loop())
        asker = EngineAsker("doc", thinking, engine, LIMIT)
        found = await asker.ask_all([Ask(chat, SAMPLING, (), form), Ask(prompt(KING), SAMPLING, (), form)])
        return found, [request.grammar for request, _ in asker.answered]

    (thought, said), grammars = asyncio.run(asyncio.wait_for(main(), 20))
    assert isinstance(thought, AnswerError)
    assert isinstance(said, Answer)
    assert grammars == [replace(form, after="</think>"), form]
