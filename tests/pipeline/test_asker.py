import asyncio
from copy import copy
from dataclasses import replace

import pytest

from corm_batch.engine.request import Completion, SamplingParams
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.errors import AnswerError, BrokenEngineError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.engine_thread import EngineThread
from corm_batch.tasks.base import Ask, Prompt
from corm_batch.text.reasoning import ReasoningMarks
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

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


def test_long_texts_are_cut_to_fit():
    text = "\n\n".join(f"Paragraph {index} has two sentences. This <|end|> is one." for index in range(40))

    async def test(asker):
        assert not asker.fits(prompt(text), 6)
        pieces = asker.windows(text, [prompt], 6)
        assert "".join(pieces) == text
        assert all(asker.fits(prompt(piece), 6) for piece in pieces)
        assert sum(piece.endswith("\n\n") for piece in pieces) > len(pieces) // 2
        beginning = asker.truncate(text, [prompt], 6)
        assert text.startswith(beginning)
        used = len(TOKENIZER.encode(prompt(beginning))) + 6
        assert LIMIT - 2 <= used <= LIMIT

    asked(test)


def test_windows_fit_every_prompt_that_is_put_to_them():
    text = "A sentence of six words, again. " * 30
    prompts = [prompt, lambda piece: Prompt(piece, "Summarize, and say who the king was.")]

    async def test(asker):
        pieces = asker.windows(text, prompts, 6)
        assert "".join(pieces) == text
        assert all(asker.fits(one(piece), 6) for piece in pieces for one in prompts)
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
        answer = await asker.ask(prompt("A draft.</think> Final words."), SamplingParams(max_new_tokens=40))
        assert answer.text.startswith("Final words.")
        with pytest.raises(AnswerError, match=r"nothing but its reasoning, which </think> ends \(cut off"):
            await asker.ask(prompt("<think> A draft without an end."), SAMPLING)

    asker = asked(test)
    assert asker.transcript.answers[0].startswith("A draft.</think> Final words.")
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
            return Completion(request.id, (1,), "length")

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
