"""An evaluation from cases to figures: paired, with a floor, gone on with where it ended, nothing left out unsaid."""

import dataclasses
import gc
import json
import weakref

import pytest

from corm_batch.errors import SpecError
from corm_batch.evaluation.answers import AnswerStore
from corm_batch.evaluation.asking import lay_out
from corm_batch.evaluation.base import Case, Suite
from corm_batch.evaluation.result import Evaluation
from corm_batch.evaluation.run import Plan, job_texts, run_evaluation
from corm_batch.policies.base import KVPolicy
from corm_batch.text.tokenize import PromptTokenizer

SHORT = {"name": "snapkv", "recent": 8, "budget": {"name": "uniform", "max_kept": 24}}


class Sums(Suite):
    """Small sums, of two sizes."""

    shares = ("exact",)

    def cases(self, tokenizer, lengths, count, seed="evaluation", texts=()):
        for number in range(count):
            for task in ("small", "large"):
                text = f"Mr. {number} has a {task} boat. " * (4 + 8 * (task == "large"))
                yield Case("sums", task, text, "Who?", (str(number),), 4)

    def score(self, case, text):
        return {"exact": float(text == case.answers[0]), "letters": float(len(text))}


@pytest.fixture
def plan(job, tiny_model):
    spec = job({"a": "Nobody came to the river that year, and the boat lay there. " * 60}, model={"name": tiny_model})
    full = under(spec, {"name": "full"})
    candidates = {"short": under(spec, SHORT), "long": under(spec, {"name": "corm", "preset": "paper"})}
    return Plan(full, "hash", candidates, {"mine": Sums()}, [512], 3, "evaluation", "corm-batch eval")


def under(job, policy):
    """The job under another policy."""
    return job.model_copy(update={"policy": KVPolicy.from_spec(policy)})


@pytest.fixture
def run(plan, chat, load, tmp_path):
    """Call with changes to the plan; `run.told` holds what was told on the way."""

    def call(load=load, **changes):
        store = AnswerStore(str(tmp_path / "answers"))
        return run_evaluation(dataclasses.replace(plan, **changes), chat, load, store, call.told.append)

    call.told = []
    return call


def test_every_policy_is_compared_case_by_case_with_the_floor_beside_it(run, load):
    found = run()
    assert [job.policy.name for job in load.jobs] == ["full", "full", "snapkv", "corm"]
    assert [job.engine.max_sequences for job in load.jobs] == [256, 128, 256, 256]
    names = [(one.task, one.score, one.candidate) for one in found.figures]
    tasks, scores = ("all", "small", "large"), ("exact", "letters")
    assert names == [(task, score, label) for task in tasks for score in scores for label in ("short", "long")]
    for one in found.figures:
        assert (one.suite, one.group, one.position) == ("mine", "sums", "question after the document")
        assert one.against.cases == (6 if one.task == "all" else 3)
        assert one.against.interval.startswith("exact" if one.score == "exact" else "Student")
        assert (one.floor.cases, one.floor.difference, one.floor_same_text) == (one.against.cases, 0, one.against.cases)
        assert one.model == found.model["name"]
    short, long = found.figures[2:4]
    assert short.cost.kept_ratio < 0.6 < long.cost.kept_ratio == 1  # no prompt is longer than the paper's window
    assert short.cost.peak_ratio < short.cost.full_peak_ratio
    assert short.same_text < long.same_text == 6
    assert short.policy == KVPolicy.from_spec(SHORT).to_spec()
    assert not found.failures
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["schema_version"] == "corm-batch eval 1"


def test_a_policy_that_pins_instructions_is_told_them_or_says_that_they_do_not_fit(run, plan):
    pinned = SHORT | {"pin_instruction": True}
    tight = pinned | {"recent": 20}
    found = run(candidates={"pinned": under(plan.reference, pinned), "tight": under(plan.reference, tight)})
    assert {(one.candidate, one.against.cases) for one in found.figures if one.task == "all"} == {("pinned", 6)}
    assert {failure.candidate for failure in found.failures} == {"tight"}
    assert all("tokens of the prompt are pinned" in failure.reason for failure in found.failures)


def test_a_hidden_question_is_asked_over_what_was_kept_without_it(run, plan):
    candidates = {
        "pinned": under(plan.reference, SHORT | {"recent": 4, "pin_first": 2, "pin_instruction": True}),
        "kvzip": under(plan.reference, {"name": "kvzip", "budget": {"name": "adakv", "max_kept": 0.5, "floor": 0}}),
    }
    found = run(suites={"mine": Sums(position="hidden")}, candidates=candidates, cases=1)
    assert not found.failures
    assert {one.position for one in found.figures} == {"question hidden until the document was compressed"}
    pinned, kvzip = (one for one in found.figures if (one.task, one.score) == ("all", "letters"))
    assert pinned.floor_same_text == pinned.against.cases == 2
    assert pinned.cost.kept_ratio < 0.7
    assert 0.5 < kvzip.cost.kept_ratio < 0.7  # question and answer come on top of the document's half
    assert kvzip.cost.peak_ratio > 1


def test_a_hidden_question_that_has_to_be_seen_first_is_refused(chat, tmp_path, tiny_model):
    first = PromptTokenizer.from_pretrained(tiny_model)
    first._tokenizer.chat_template = (
        "{% set parts = messages[-1]['content'].split('\n\n') %}{{ parts[-1] }}\n{{ parts[:-1] | join('\n\n') }}\n"
    )
    hidden = Sums(position="hidden")
    (asked, *_) = lay_out({"mine": hidden}, chat, [512], 1)
    (read, other) = (
        chat.spelled(ids) for ids in (asked.prompt[: asked.num_read_first], asked.prompt[asked.num_read_first :])
    )
    assert "Mr. 0 has a small boat." in read
    assert "Who?" not in read
    assert "Who?" in other
    assert asked.key != next(lay_out({"mine": Sums()}, chat, [512], 1)).key
    with pytest.raises(SpecError, match="suite mine: position: hidden: the model's chat template puts the question"):
        list(lay_out({"mine": hidden}, first, [512], 1))

    class Within(Sums):
        """The document says what is asked."""

        def cases(self, tokenizer, lengths, count, seed="evaluation", texts=()):
            yield Case("sums", "small", "A boat. Who has it?", "", ("0",), 4)

    with pytest.raises(SpecError, match="suite mine: position: hidden: there is no question to hide"):
        list(lay_out({"mine": Within(position="hidden")}, chat, [512], 1))


def test_what_was_answered_is_not_answered_again(run, quick_load):
    first = run(load=quick_load)
    del quick_load.jobs[:], run.told[:]
    again = run(load=quick_load)
    assert not quick_load.jobs
    assert again.figures == first.figures
    assert {(one.done, one.before) for one in run.told} == {(6, 6)}

    more = run(load=quick_load, cases=4)
    assert [job.policy.name for job in quick_load.jobs] == ["full", "full", "snapkv", "corm"]
    assert {one.before for one in run.told if one.cases == 8} == {6}
    assert more.figures[0].against.cases == 8


def test_a_run_that_is_ended_keeps_what_it_answered(run, quick_load):
    def ends(job):
        engine, tokenizer = quick_load(job)
        all_of_them = engine.run

        def some(requests):
            for number, done in enumerate(all_of_them(requests)):
                if number == 4:
                    raise KeyboardInterrupt
                yield done

        engine.run = some
        return engine, tokenizer

    with pytest.raises(KeyboardInterrupt):
        run(load=ends)
    del run.told[:]
    run(load=quick_load)
    assert next(one.before for one in run.told if one.label == "full") == 4
    assert {one.before for one in run.told if one.label != "full"} == {0}


def test_a_case_that_does_not_fit_is_counted_and_named(run, plan):
    class Long(Sums):
        """One of them is longer than the context."""

        def cases(self, tokenizer, lengths, count, seed="evaluation", texts=()):
            yield from super().cases(tokenizer, lengths, count)
            yield Case("sums", "large", "word " * 2000, "Who?", ("0",), 4)

    found = run(suites={"mine": Long()}, candidates={"short": plan.candidates["short"]})
    assert {(one.task, one.against.cases, one.failed) for one in found.figures} == {
        ("all", 6, 1), ("small", 3, 0), ("large", 3, 1)
    }  # fmt: skip
    assert [one.candidate for one in found.failures] == ["full", "full, again", "short"]
    for one in found.failures:
        assert (one.suite, one.task, one.question) == ("mine", "large", "Who?")
        assert "the context is 1024" in one.reason


def test_other_settings_are_other_answers(run, quick_load, plan):
    def asked_with(**changes):
        def changed(job):
            return job.model_copy(update={"engine": job.engine.model_copy(update=changes)})

        candidates = {label: changed(job) for label, job in plan.candidates.items()}
        run(load=quick_load, reference=changed(plan.reference), candidates=candidates)

    run(load=quick_load)
    for changes in ({"prefill": "streaming"}, {"max_model_len": 512}):
        del quick_load.jobs[:]
        asked_with(**changes)
        assert len(quick_load.jobs) == 4
    del quick_load.jobs[:]
    run(load=quick_load, model_hash="other weights")
    assert len(quick_load.jobs) == 4
    del quick_load.jobs[:]
    asked_with(max_sequences=7)
    assert not quick_load.jobs


def test_texts_are_the_jobs_documents(plan, run):
    (text,) = job_texts(plan.reference)
    assert text.startswith("Nobody came to the river")

    class Nothing(Sums):
        """No case."""

        def cases(self, tokenizer, lengths, count, seed="evaluation", texts=()):
            return iter(())

    with pytest.raises(SpecError, match="--suite: mine: no case at all comes of it"):
        run(suites={"mine": Nothing()})


def test_the_full_caches_own_answers_and_given_texts_are_scored(run, load):
    """Of a policy that keeps everything nothing is lost; of one that does not, the loss is in nats a token."""
    names = {"likelihood": {"question": "Who?", "max_new_tokens": 8}, "perplexity": {"scored_tokens": 16}}
    suites = {name: Suite.from_spec({"name": name} | fields) for name, fields in names.items()}
    found = run(suites=suites, cases=2, lengths=[256])
    assert [job.policy.name for job in load.jobs] == ["full", "full", "full", "snapkv", "corm"]
    by_name = {(one.suite, one.score, one.candidate): one for one in found.figures}
    assert len(by_name) == 8
    for suite in suites:
        for label in ("short", "long"):
            one = by_name[suite, "logprob", label]
            assert (one.share, one.same_text, one.floor.difference) == (False, None, pytest.approx(0, abs=1e-5))
        assert by_name[suite, "logprob", "long"].against.difference == pytest.approx(0, abs=1e-5)
        assert by_name[suite, "logprob", "short"].against.difference < -1e-3
        assert by_name[suite, "logprob", "short"].against.here < 0
    assert by_name["likelihood", "agreement", "long"].against.here == 1
    assert by_name["likelihood", "agreement", "short"].against.there < 1
    assert {one.position for one in found.figures} == {"question after the document", "no question"}
    del load.jobs[:]
    assert run(suites=suites, cases=2, lengths=[256]).figures == found.figures
    assert not load.jobs


def test_any_settings_are_compared_with_any_reference_on_one_authors_answers(run, plan, load):
    """As fp8 is with bfloat16 under one policy, on what the full cache has answered."""
    suites = {"likelihood": Suite.from_spec({"name": "likelihood", "question": "Who?", "max_new_tokens": 8})}
    first = run(suites=suites, cases=2, lengths=[256])
    short = plan.candidates["short"]
    streaming = short.engine.model_copy(update={"prefill": "streaming", "chunk_size": 64})
    candidates = {"same": short, "streaming": short.model_copy(update={"engine": streaming})}
    del load.jobs[:], run.told[:]
    found = run(
        suites=suites, cases=2, lengths=[256], reference=short, candidates=candidates, author=plan.reference
    )  # fmt: skip
    assert [(job.policy.name, job.engine.prefill) for job in load.jobs[-2:]] == [
        ("snapkv", "exact"), ("snapkv", "streaming")
    ]  # fmt: skip
    assert "snapkv, again" in {one.label for one in run.told}
    by_label = {one.candidate: one.against for one in found.figures if one.score == "logprob"}
    (before,) = (one.against for one in first.figures if (one.candidate, one.score) == ("short", "logprob"))
    assert by_label["same"].here == by_label["same"].there == before.there  # the same tokens were scored
    assert by_label["streaming"].here == before.there
    assert by_label["streaming"].difference != 0


def test_an_engine_is_gone_before_the_next_one_comes(run, load):
    alive = []

    def watched(job):
        assert not [one for one in alive if one() is not None]
        engine, tokenizer = load(job)
        alive.append(weakref.ref(engine))
        return engine, tokenizer

    gc.disable()
    try:
        run(load=watched, cases=1)
    finally:
        gc.enable()
    assert len(alive) == 4
