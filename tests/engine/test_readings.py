"""A document is read once for several questions: answers are those of a reading of one's own, pages are counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corm_batch.engine import question_pass
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.work import Prefill
from corm_batch.errors import CapacityError, DocumentError
from tests.conftest import llama_config, save_random_model
from tests.engine.test_scheduler import KVZIP, make_engine

ANSWER = SamplingParams(max_new_tokens=6, ignore_eos=True)
DOCUMENT = [(i * i * 7 + 3 * i) % 199 for i in range(43)]  # no whole number of pages
QUESTIONS = {str(i): [(i * 5 + j * j) % 199 for j in range(1 + 7 * i)] for i in range(3)}
SNAPKV = {"name": "snapkv", "window": 4, "recent": 4, "budget": {"name": "adakv", "max_kept": 12}}
CORM = {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5}
BY_LAYER = {"name": "lorc", "key_share": 0.6, "value_share": 0.6, "progression": 0.6}  # pages of 5 and 9 entries
CASES = [
    ({"name": "full"}, "exact", "model"),
    (CORM, "exact", "fp8"),
    (CORM | {"window": 6, "recent": 6, "budget": {"name": "uniform", "max_kept": 9}}, "streaming", "int4"),
    ({"name": "streaming_llm", "pin_first": 2, "recent": 9}, "exact", BY_LAYER),
    (SNAPKV, "exact", "think"),
    ({"name": "expected_attention", "ahead": 8, "budget": {"name": "uniform", "max_kept": 0.5}}, "streaming", "model"),
    ({"name": "keydiff", "recent": 3, "budget": {"name": "uniform", "max_kept": 10}}, "exact", "int8"),
    (KVZIP, "exact", BY_LAYER),
    (CORM | {"reach": 7}, "exact", BY_LAYER),
    (CORM | {"reach": 2, "threshold": "cache"}, "streaming", BY_LAYER),
    ({"name": "random", "keep_ratio": 0.5, "recent": 5}, "exact", "model"),
]
POLICIES = [policy for policy, *_ in CASES]


def finish(engine):
    """What is still to come of an engine, by id."""
    done = {}
    while engine.has_work:
        done |= {completion.id: completion for completion in engine.step()}
    return done


def assert_nothing_is_held(engine):
    pool = engine.cache.pool
    assert (engine.pool_bytes_used, engine.cache.num_free_slots) == (0, len(engine.cache.peak_pages))
    assert sorted(pool._free.tolist()) == list(range(1, pool.num_pages + 1))
    assert not pool._num_holders.any()


def ask(engine, questions=QUESTIONS, **fields):
    """One reading of the document, and the questions over it."""
    reading = engine.read(DOCUMENT)
    for name, ids in questions.items():
        engine.add(Request(name, ids, ANSWER, return_kept_positions=True, reading=reading, **fields))
    return reading


def answers_alone(folder, policy, **fields):
    """Each question over a reading of its own, in an engine of its own."""
    found = {}
    for name, ids in QUESTIONS.items():
        engine = make_engine(folder, policy, chunk_size=16, **fields)
        ask(engine, {name: ids}).close()
        found |= finish(engine)
        assert_nothing_is_held(engine)
    return found


@pytest.mark.parametrize(
    ("policy", "prefill", "storage"), CASES, ids=lambda case: case if isinstance(case, str) else case["name"]
)
def test_answers_over_a_shared_reading_are_those_of_a_reading_of_ones_own(policy, prefill, storage, tiny_llama):
    assert_shared_readings_change_nothing(tiny_llama, policy, prefill, storage)


@pytest.mark.parametrize(
    ("policy", "prefill", "storage"),
    [({"name": "full"}, "exact", "model"), (CORM, "streaming", "int4"), (KVZIP, "exact", "int8")],
    ids=lambda case: case if isinstance(case, str) else case["name"],
)
def test_what_a_question_copies_of_a_page_brings_values_of_other_layers_along(policy, prefill, storage, tiny_groups):
    assert_shared_readings_change_nothing(tiny_groups, policy, prefill, storage)


def assert_shared_readings_change_nothing(model, policy, prefill, storage):
    """Beside each other, beside a prompt that has nothing to do with them, and preempted every other step."""
    alone = answers_alone(model, policy, prefill=prefill, storage=storage)
    engine = make_engine(model, policy, prefill=prefill, chunk_size=16, storage=storage)
    engine.add(Request("other", DOCUMENT[::-1], ANSWER))
    reading, done, steps = ask(engine), {}, 0
    while engine.has_work:
        done |= {completion.id: completion for completion in engine.step()}
        steps += 1
        while steps % 3 == 0 and engine.scheduler.running:
            engine.scheduler.preempt()
        if steps % 3 == 0:
            engine.scheduler.resting.rest()
    assert sum(done[name].memory.preemptions for name in QUESTIONS) > 2
    for name, expected in alone.items():
        assert done[name].token_ids == expected.token_ids
        assert done[name].kept_positions == expected.kept_positions
        assert done[name].memory.kv_bytes_peak == expected.memory.kv_bytes_peak
    assert engine.stats.prompt_tokens == 2 * len(DOCUMENT) + sum(map(len, QUESTIONS.values()))
    reading.close()
    assert reading.memory.preemptions > 1
    assert_nothing_is_held(engine)


def spans_of_passes(engine):
    """What each pass over prompts reads from now on, noted as it is scheduled."""
    passes, schedule = [], engine.scheduler.schedule

    def noted(num_steps):
        work = schedule(num_steps)
        if isinstance(work, Prefill):
            passes.append([(span.sequence.request.id, span.start) for span in work.spans])
        return work

    engine.scheduler.schedule = noted
    return passes


@pytest.mark.parametrize("at_a_time", [1 << 19, 1])
@pytest.mark.parametrize("policy", [CORM, SNAPKV, CASES[3][0]], ids=lambda policy: policy["name"])
def test_questions_over_several_readings_share_a_pass_with_prompts(policy, at_a_time, tiny_llama, monkeypatch):
    """However few entries are copied at a time, and in whatever order they came."""
    monkeypatch.setattr(question_pass, "GATHERED_ENTRIES", at_a_time)
    documents, alone = {"a": DOCUMENT, "b": DOCUMENT[7::-1], "c": DOCUMENT[::2]}, {}
    engine = make_engine(tiny_llama, policy)
    for label, document in documents.items():
        reading = engine.read(document)
        for name, ids in QUESTIONS.items():
            engine.add(Request(label + name, ids, ANSWER, return_kept_positions=True, reading=reading))
            alone |= finish(engine)
    alone |= {one.id: one for one in engine.run([Request("prompt", DOCUMENT[3:], ANSWER)])}
    engine = make_engine(tiny_llama, policy, step_token_budget=300, max_sequences=12)
    readings = {label: engine.read(document) for label, document in documents.items()}
    engine.step()
    passes = spans_of_passes(engine)
    for name, ids in QUESTIONS.items():
        for label, reading in readings.items():
            engine.add(Request(label + name, ids, ANSWER, return_kept_positions=True, reading=reading))
    engine.add(Request("prompt", DOCUMENT[3:], ANSWER))
    done = finish(engine)
    starts = {label: len(document) for label, document in documents.items()}
    expected = [(label + name, starts[label]) for label in documents for name in QUESTIONS]
    assert passes == [[("prompt", 0), *expected]]
    for name, completion in alone.items():
        assert done[name].token_ids == completion.token_ids
        assert done[name].kept_positions == completion.kept_positions
        lost = [one.memory.evicted_attention_mass or 0.0 for one in (done[name], completion)]
        assert lost[0] == pytest.approx(lost[1], rel=1e-3, abs=1e-6)
    for reading in readings.values():
        reading.close()
    assert_nothing_is_held(engine)


def test_few_questions_wait_for_those_over_the_readings_behind_them(tiny_llama):
    """Readings that fill a pass: questions over three share the next. In a pool without room for that they do not."""
    answers, passes = [], []
    for pages in (10_000, 110):
        engine = make_engine(tiny_llama, {"name": "full"}, pages, step_token_budget=43, max_sequences=40)
        passes.append(spans_of_passes(engine))
        for number in range(4):
            reading = engine.read(DOCUMENT[number:] + DOCUMENT[:number], id=str(number))
            for name in "ab":
                engine.add(Request(f"{number}{name}", [number], ANSWER, reading=reading))
            reading.close()
        answers.append({name: done.token_ids for name, done in finish(engine).items()})
        assert_nothing_is_held(engine)
    assert answers[0] == answers[1]
    names = [[name for name, _ in spans] for spans in passes[0]]
    assert names == [["0"], ["1"], ["2"], ["0a", "0b", "1a", "1b", "2a", "2b"], ["3"], ["3a", "3b"]]
    assert [name for name, _ in passes[1][1]] == ["0a", "0b"]


@pytest.mark.parametrize(
    ("policy", "prefill"),
    [({"name": "full"}, "exact"), ({"name": "streaming_llm", "pin_first": 2, "recent": 19}, "streaming")],
)
def test_where_nobody_votes_answers_are_those_of_the_whole_prompt(policy, prefill, tiny_llama):
    requests = [Request(name, DOCUMENT + ids, ANSWER, return_kept_positions=True) for name, ids in QUESTIONS.items()]
    whole = {c.id: c for c in make_engine(tiny_llama, policy, prefill=prefill, chunk_size=16).run(requests)}
    engine = make_engine(tiny_llama, policy, prefill=prefill, chunk_size=16)
    ask(engine)
    for name, completion in finish(engine).items():
        assert completion.token_ids == whole[name].token_ids
        seen = [
            [position for position in head if policy["name"] == "full" or position in set(other)]
            for layer, others in zip(completion.kept_positions, whole[name].kept_positions, strict=True)
            for head, other in zip(layer, others, strict=True)
        ]
        assert seen == [list(head) for layer in whole[name].kept_positions for head in layer]


def test_layers_with_a_window_of_their_own_keep_to_it(tmp_path):
    from transformers import MistralConfig

    config = llama_config(num_hidden_layers=3).to_dict() | {"sliding_window": 9, "model_type": "mistral"}
    folder = save_random_model(MistralConfig(**config), tmp_path)
    engine = make_engine(folder, {"name": "full"})
    whole = {c.id: c.token_ids for c in engine.run([Request(n, DOCUMENT + q, ANSWER) for n, q in QUESTIONS.items()])}
    ask(engine).close()
    assert {name: completion.token_ids for name, completion in finish(engine).items()} == whole
    assert_nothing_is_held(engine)


def test_tokens_of_a_reading_leave_later_layers_and_those_of_a_question_all_go_on(tiny_llama):
    leaving = {"name": "attention", "share": 0.4, "pooling": 3, "window": 6, "first": 2, "recent": 5}
    fields = {"prefill": "streaming", "propagation": leaving}
    alone = answers_alone(tiny_llama, {"name": "full"}, **fields)
    engine = make_engine(tiny_llama, {"name": "full"}, chunk_size=16, **fields)
    reading, done = ask(engine), finish(engine)
    first, second = reading.memory.kept_per_layer
    assert first == 2 * len(DOCUMENT) > 1.5 * second
    for name, ids in QUESTIONS.items():
        assert done[name].token_ids == alone[name].token_ids
        assert done[name].kept_positions == alone[name].kept_positions
        assert done[name].memory.kept_per_layer == (2 * (len(ids) + 5),) * 2


def test_what_a_reading_and_its_answers_hold_adds_up_to_what_is_held(tiny_llama):
    engine = make_engine(tiny_llama, CORM)
    page_bytes, reading = engine.cache.pool.page_bytes, ask(engine)
    peaks = []
    while engine.has_work:
        done = engine.step()
        held = [engine.cache.pages_held(one.slot) for one in engine.scheduler.running]
        assert engine.pool_bytes_used == reading.memory.kv_bytes_final + page_bytes * sum(held)
        assert reading.memory.kv_bytes_final > 0
        peaks.append(engine.pool_bytes_used)
        for completion in done:
            memory, num_cached = completion.memory, len(QUESTIONS[completion.id]) + len(completion.token_ids) - 1
            assert (memory.prompt_tokens, memory.output_tokens) == (len(QUESTIONS[completion.id]), 6)
            assert memory.kv_bytes_full == num_cached * 2 * 2 * 2 * 16 * 4  # layers, heads, key and value, floats
            assert sum(memory.kept_per_layer) + memory.evicted_entries == num_cached * 2 * 2
    assert engine.pool_bytes_used == reading.memory.kv_bytes_final == reading.memory.kv_bytes_after_prefill
    assert (reading.memory.prompt_tokens, reading.memory.output_tokens) == (len(DOCUMENT), 0)
    assert sum(reading.memory.kept_per_layer) + reading.memory.evicted_entries == len(DOCUMENT) * 2 * 2
    assert reading.memory.evicted_entries > 0
    reading.close()
    assert_nothing_is_held(engine)


def test_what_cannot_be_asked_over_a_reading_says_why(tiny_llama):
    engine, other = make_engine(tiny_llama, CORM, pages=40), make_engine(tiny_llama, CORM)

    def asked(reading, engine=engine, **fields):
        engine.add(Request("q", fields.pop("token_ids", [1, 2]), ANSWER, reading=reading, **fields))
        completion = finish(engine)["q"]
        assert (completion.finish_reason, type(completion.error)) == ("error", DocumentError)
        return str(completion.error)

    closed = engine.read(DOCUMENT)
    closed.close()
    assert "is closed" in asked(closed)
    assert "another engine's" in asked(other.read(DOCUMENT))
    wrong = engine.read([1, 2, 1000])
    assert isinstance(wrong.error, DocumentError)
    assert "the reading failed: the prompt has a token id outside 0..198" in asked(wrong)
    assert "the prompt is empty" in str(engine.read([]).error)
    assert "the context is 512" in str(engine.read([1] * 512).error)
    good = engine.read(DOCUMENT)
    assert "uncompressed=True" in asked(good, uncompressed=True)
    assert "the prompt is empty" in asked(good, token_ids=[])
    assert "513 prompt tokens and up to 6 new ones make 519" in asked(good, token_ids=[1] * 470)
    large = engine.read([5] * 300, uncompressed=True, id="large")
    with pytest.raises(ValueError, match="'large' is still open"):
        engine.read([5], id="large")
    engine.add(Request("waits", [1], ANSWER, reading=large))
    failed = finish(engine)["waits"]
    assert isinstance(failed.error, CapacityError)
    assert failed.error is large.error
    assert "the reading failed: 300 prompt tokens need at least" in asked(large)
    good.close()
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_a_score_over_a_reading_is_what_the_answer_said_of_itself(prefill, tiny_llama):
    engine = make_engine(tiny_llama, CORM, prefill=prefill, chunk_size=16)
    reading = ask(engine)
    done = finish(engine)["2"]
    as_written = engine.score(QUESTIONS["2"], done.token_ids, uncompressed=False, reading=reading)
    assert as_written.logprobs == as_written.best_logprobs
    assert sum(as_written.logprobs) / 6 == pytest.approx(done.mean_logprob)
    whole = engine.score(DOCUMENT + QUESTIONS["2"], done.token_ids)
    assert engine.score(QUESTIONS["2"], done.token_ids, reading=reading) == whole
    assert whole.logprobs != as_written.logprobs


def test_a_pool_that_is_dry_moves_readings_that_nobody_runs_over_and_fails_nobody(tiny_llama):
    """Room for one reading and its questions: the other one is in host memory."""
    roomy = answers_alone(tiny_llama, CORM)
    engine = make_engine(tiny_llama, CORM, pages=60, max_sequences=2)
    readings = [engine.read(DOCUMENT) for _ in range(2)]
    for turn in range(2):
        for number, reading in enumerate(readings):
            for name, ids in QUESTIONS.items():
                engine.add(Request(f"{turn}{number}{name}", ids, ANSWER, reading=reading))
    engine.add(Request("alone", DOCUMENT, ANSWER))
    done = finish(engine)
    assert {completion.error for completion in done.values()} == {None}
    assert len(done) == 2 * 2 * len(QUESTIONS) + 1
    for turn in range(2):
        for number in range(2):
            assert [done[f"{turn}{number}{name}"].token_ids for name in QUESTIONS] == [
                roomy[name].token_ids for name in QUESTIONS
            ]
    for reading in readings:
        reading.close()
    assert sum(reading.memory.preemptions for reading in readings) >= 2
    assert_nothing_is_held(engine)


def test_what_a_reading_holds_counts_once_for_all_that_is_asked_over_it(tiny_llama):
    """A pool that holds two prompts as they are takes eight questions over one of them at a time."""
    engine, apart = (make_engine(tiny_llama, {"name": "full"}, pages=240, max_sequences=9) for _ in range(2))
    document, sampling = DOCUMENT * 2, SamplingParams(max_new_tokens=3, ignore_eos=True)
    reading = engine.read(document)
    for number in range(8):
        engine.add(Request(str(number), [number] * 5, sampling, reading=reading))
        apart.add(Request(str(number), document + [number] * 5, sampling))
    done, whole = finish(engine), finish(apart)
    assert {name: one.token_ids for name, one in whole.items()} == {name: one.token_ids for name, one in done.items()}
    assert [one.memory.preemptions for one in done.values()] == [0] * 8
    assert (engine.stats.most_in_flight, apart.stats.most_in_flight) == (8, 2)
    assert engine.stats.prompt_tokens == len(document) + 8 * 5
    reading.close()
    assert_nothing_is_held(engine)


def test_a_reading_that_is_closed_early_stays_for_what_has_been_asked(tiny_llama):
    engine = make_engine(tiny_llama, CORM)
    reading = ask(engine)
    reading.close()
    assert {c.error for c in finish(engine).values()} == {None}
    assert reading.memory.prompt_tokens == len(DOCUMENT)
    reading.close()
    assert_nothing_is_held(engine)
    unread = ask(engine)
    for name in QUESTIONS:
        engine.cancel(name)
    unread.close()
    assert {c.finish_reason for c in finish(engine).values()} == {"cancelled"}
    assert engine.stats.prompt_tokens == len(DOCUMENT) + sum(map(len, QUESTIONS.values()))
    assert_nothing_is_held(engine)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 60)),
        st.tuples(st.just("ask"), st.integers(1, 30)),
        st.tuples(st.just("ask"), st.integers(1, 9)),
        st.tuples(st.just("add"), st.integers(1, 50)),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("preempt"), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, policy=st.sampled_from(POLICIES), pages=st.integers(10, 150), data=st.data())
def test_no_page_and_no_reference_leaks_under_any_schedule(tiny_llama, tiny_groups, events, policy, pages, data):
    config = {
        "prefill": data.draw(st.sampled_from(["exact", "streaming"])),
        "chunk_size": data.draw(st.integers(1, 30)),
        "compact_every": data.draw(st.integers(1, 9)),
        "max_sequences": data.draw(st.integers(1, 4)),
        "sharing": data.draw(st.sampled_from([{}, {1: 0}])),
    }
    model = tiny_llama if config["sharing"] else data.draw(st.sampled_from([tiny_llama, tiny_groups]))
    engine, readings, finished, added = make_engine(model, policy, pages, **config), [], [], 0
    kinds = [{}, {"answer_ids": [5, 6, 7], "uncompressed": True}, {"answer_ids": [8] * 5}, {}]

    def held():
        size = engine.cache.pool.num_pages + 1
        lists = [engine.cache.table.get_lists(slot) for slot in range(len(engine.cache.peak_pages))]
        counts = torch.bincount(torch.tensor([int(page) for ids in lists for page in ids] or [0]), minlength=size)
        assert counts[1:].tolist() == engine.cache.pool._num_holders[1:].tolist()
        own = sum(engine.cache.pages_held(slot) for slot in range(len(engine.cache.peak_pages)))
        assert own == engine.cache.pool.num_pages - engine.cache.pool.num_free

    for kind, number in events:
        if kind == "read":
            readings.append(engine.read([(len(readings) + 3 * i) % 199 for i in range(number)]))
        elif kind in ("ask", "add"):
            reading = readings[number % len(readings)] if readings and kind == "ask" else None
            ids = [(added * 7 + i) % 199 for i in range(number)]
            fields = kinds[added % len(kinds)]
            engine.add(Request(str(added), ids, SamplingParams(max_new_tokens=7), reading=reading, **fields))
            added += 1
        elif kind == "step":
            for _ in range(number):
                finished += engine.step()
                held()
        elif kind == "cancel":
            engine.cancel(str(number))
        elif kind == "close" and number < len(readings):
            readings[number].close()
        elif kind == "preempt" and engine.scheduler.running:
            engine.scheduler.preempt()
    for _ in range(3000):
        if not engine.has_work:
            break
        finished += engine.step()
    held()
    for reading in readings:
        reading.close()
    assert sorted(completion.id for completion in finished) == sorted(str(i) for i in range(added))
    assert_nothing_is_held(engine)
