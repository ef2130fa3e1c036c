"""The evaluation runs on a tiny model and leaves a record; what it computes is right."""

import json
import re

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from corm_batch.evaluation.suites.needles import Needles
from infra.training import evaluate

GROUP = "facts 512"
SHORT = {"name": "snapkv", "recent": 16, "window": 16, "budget": {"name": "uniform", "max_kept": 64}}
ASKED = Needles.makers[:4]  # their answers are short; test_cases.py draws them all


@pytest.fixture(scope="module")
def evaluated(tiny_model, tmp_path_factory):
    """The record's path, after a run of the command without its perplexity."""
    output = tmp_path_factory.mktemp("evaluation") / "made/record.json"
    asked = ["--cases", "1", "--lengths", "512", "--policies", "full", "paper", "--groups", GROUP]
    asked += ["--policy", 'short={"name": "corm", "preset": "paper", "window": 16, "recent": 16}']
    asked += ["--suites", "needles", "--device", "cpu", "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evaluate", tiny_model, *asked])
        patch.setattr(evaluate, "WINDOWS", ())
        patch.setattr(Needles, "makers", ASKED)
        evaluate.main()
    return output


@pytest.fixture
def results(evaluated):
    return json.loads(evaluated.read_text(encoding="utf-8"))["results"]


def test_the_record_says_what_was_run_on_what(evaluated):
    record = json.loads(evaluated.read_text(encoding="utf-8"))
    assert record["command"].startswith("python -m infra.training.evaluate ")
    assert "--groups 'facts 512'" in record["command"]
    assert record["policies"]["full"] == {"name": "full"}
    assert record["policies"]["paper"] == {"name": "corm", "preset": "paper"}
    assert record["policies"]["short"] == {"name": "corm", "preset": "paper", "window": 16, "recent": 16}
    assert (record["dtype"], record["model"]["num_hidden_layers"]) == ("float32", 2)


def test_every_policy_answers_the_asked_groups_and_no_others(results):
    assert list(results["policies"]) == ["full", "paper", "short"]
    for groups in results["policies"].values():
        assert list(groups) == [GROUP]
        scores = groups[GROUP]["scores"]
        assert set(scores) == {task.__name__ for task in ASKED} | {"all"}
        assert scores["all"]["exact"]["cases"] == len(ASKED)
        single = [scores[task.__name__]["exact"] for task in ASKED]
        assert [share["cases"] for share in single] == [1] * len(ASKED)
        assert scores["all"]["exact"]["hits"] == sum(share["hits"] for share in single)


def test_the_full_cache_keeps_all_and_a_budget_keeps_less(results):
    full, paper, short = (groups[GROUP] for groups in results["policies"].values())
    assert full["memory"]["kept_ratio"] == 1
    assert full["memory"]["evicted_attention_mass"] == 0
    assert short["memory"]["kept_ratio"] < 0.5 < paper["memory"]["kept_ratio"] <= 1
    assert short["memory"]["freed_at_peak"] > paper["memory"]["freed_at_peak"]
    for found in (full, paper, short):
        layers = found["memory"]["kept_by_layer"]
        assert len(layers) == 2
        assert sum(layers) / 2 == pytest.approx(found["memory"]["kept_ratio"])


def test_the_tables_show_every_policy_and_task(results, capsys):
    print(*evaluate.tables(results), sep="\n")  # noqa: T201
    printed = capsys.readouterr().out
    for policy, groups in results["policies"].items():
        (rows,) = re.findall(rf"## Facts: {policy}\n\n((?:\|.*\n)+)", printed)
        assert [line.split("|")[1].strip() for line in rows.splitlines()[2:]] == list(groups[GROUP]["scores"])
        assert f"| {policy} | {GROUP} | {groups[GROUP]['memory']['kept_ratio']:.1%} |" in printed


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tokenizer):
    config = LlamaConfig(
        vocab_size=8192, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.lm_head.weight.data.zero_()
    found = evaluate.perplexity(model, tokenizer, 1, 4096)
    assert found["perplexity"] == pytest.approx(8192, rel=1e-4)
    books = [row["text"] for row in evaluate.read("books") if row["kind"] == "perplexity"][:1]
    lengths = [len(tokenizer.encode(book, add_special_tokens=False).ids) for book in books]
    assert found["windows"] == sum(length // 4095 for length in lengths)
