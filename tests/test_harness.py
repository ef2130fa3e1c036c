"""lm-evaluation-harness asks a job's model: texts, likelihoods and whole texts, one by one and of local tasks."""

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from corm_batch.errors import DocumentError, SpecError
from tests.evaluation.suites.files import write_lines

lm_eval = pytest.importorskip("lm_eval", reason="not installed: pip install corm-batch[lm-eval]")
harness = pytest.importorskip("corm_batch.harness")
instance = pytest.importorskip("lm_eval.api.instance")
registry = pytest.importorskip("lm_eval.api.registry")
tasks = pytest.importorskip("lm_eval.tasks")

TEXT = "On the third day the ship went on over a quiet sea, and nobody wrote a word of it in the log."
SHORT = {"name": "snapkv", "recent": 4, "window": 4, "budget": {"name": "uniform", "max_kept": 8}}


def asked(kind, *arguments):
    return [instance.Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.fixture
def spec(job, tiny_model, tmp_path):
    found = job({"a": "Noon."}, model={"name": tiny_model, "device": "cpu"}, engine={"max_model_len": 256})
    (tmp_path / "job.yaml").write_text(found.to_yaml())
    return str(tmp_path / "job.yaml")


@pytest.fixture
def model(spec):
    return harness.CormBatchLM(spec)


@pytest.fixture(scope="module")
def reference(tiny_model):
    """Token ids of a text, and by transformers the log-probabilities of its tokens behind the first."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)

    def logprobs(ids):
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        return found.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], logprobs


def test_a_continuation_is_as_likely_as_transformers_says(model, reference):
    encode, logprobs = reference
    pairs = [(TEXT, " Then came the storm."), ("Noon.", " Night fell"), ("", "Noon.")]
    found = model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for (context, text), (total, is_greedy) in zip(pairs, found, strict=True):
        before = encode(context) or [model.prefix_token_id]
        ids = [*before, *encode(context + text)[len(encode(context)) :]]
        assert total == pytest.approx(sum(logprobs(ids)[len(before) - 1 :]), abs=1e-3)
        assert is_greedy is False
    (likeliest,) = model.generate_until(asked("generate_until", (TEXT, {"until": [], "max_gen_toks": 1})))
    assert likeliest


def test_a_policy_scores_what_it_left_of_the_context(spec, model):
    one = asked("loglikelihood", (TEXT * 3, " Then came the storm."))
    ((full, _),) = model.loglikelihood(one, disable_tqdm=True)
    ((short, _),) = harness.CormBatchLM(spec, policy=SHORT).loglikelihood(one, disable_tqdm=True)
    assert abs(full - short) > 1e-2


def test_a_context_leaves_the_room_that_a_policy_reads_behind_it(spec):
    kvzip = harness.CormBatchLM(spec, policy={"name": "kvzip", "budget": {"name": "adakv", "max_kept": 0.5}})
    ((total, _),) = kvzip.loglikelihood(asked("loglikelihood", (TEXT * 14, " Noon.")), disable_tqdm=True)
    assert total < 0


def test_a_whole_text_is_scored_in_windows_where_it_is_longer(model, reference):
    encode, logprobs = reference
    short, long = encode(TEXT), encode(TEXT * 14)
    assert len(short) < 255 < len(long)
    found = model.loglikelihood_rolling(asked("loglikelihood_rolling", (TEXT,), (TEXT * 14,)))
    assert found[0] == pytest.approx(sum(logprobs([model.prefix_token_id, *short])), abs=1e-2)
    windows = list(model._windows(TEXT * 14))
    assert [token for _, scored in windows for token in scored] == long
    parts = [sum(logprobs([*read, *scored])[len(read) - 1 :]) for read, scored in windows]
    assert found[1] == pytest.approx(sum(parts), abs=5e-2)


def test_answers_end_before_a_stop_text_and_settings_are_checked(model):
    (whole,) = model.generate_until(asked("generate_until", (TEXT, {"max_gen_toks": 8})))
    middle = whole.split()[1] if len(whole.split()) > 1 else whole[len(whole) // 2]
    (cut,) = model.generate_until(asked("generate_until", (TEXT, {"until": middle, "max_gen_toks": 8})))
    assert whole.startswith(cut)
    assert middle not in cut
    with pytest.raises(SpecError, match="generation_kwargs: unknown key num_beams; known here: until, max_gen_toks"):
        model.generate_until(asked("generate_until", (TEXT, {"num_beams": 2})))
    with pytest.raises(DocumentError, match="the context is 256"):
        model.generate_until(asked("generate_until", (TEXT * 20, {"max_gen_toks": 8})))


def test_a_local_task_is_run_by_the_models_name(spec, tmp_path):
    rows = [{"question": f"What is {number} and {number}?", "answer": str(2 * number)} for number in range(3)]
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": write_lines(tmp_path / "t.jsonl", rows)}}}
    shared = data | {"test_split": "test", "doc_to_text": "{{question}}"}
    written = {
        "task": "sums", "output_type": "generate_until", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    }  # fmt: skip
    chosen = {
        "task": "choices", "output_type": "multiple_choice", "doc_to_choice": ["0", "2", "4"],
        "doc_to_target": "{{answer}}",
    }  # fmt: skip
    for task in (written, chosen):
        (tmp_path / f"tasks_{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
    assert registry.get_model("corm_batch") is harness.CormBatchLM
    found = lm_eval.simple_evaluate(
        model="corm_batch", model_args={"spec": spec, "policy": "snapkv"}, tasks=["sums", "choices"], bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False), apply_chat_template=True,
    )  # fmt: skip
    assert {"sums", "choices"} == set(found["results"])
    assert 0 <= found["results"]["choices"]["acc,none"] <= 1
    assert len(found["samples"]["sums"]) == 3
    prompt = found["samples"]["sums"][0]["arguments"]
    assert "<|question|>" in str(prompt) or "<|answer|>" in str(prompt)
