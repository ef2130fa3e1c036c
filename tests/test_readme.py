"""What the README shows and says is true: its examples run, its figures are those on disk, its sentences have tests."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from corm_batch import Budget, Engine, KVPolicy, Request, SamplingParams, load_plugin
from corm_batch.bench.workload import WORKLOADS
from corm_batch.cli.answers import print_answers
from corm_batch.cli.console import output_console
from corm_batch.evaluation.expected import Expected
from corm_batch.evaluation.paired import Difference
from corm_batch.report.evaluation import difference_text
from corm_batch.report.job_report import read_report
from corm_batch.report.totals import expected_rows, totals_rows
from corm_batch.spec import JobSpec
from infra.measure.performance_table import beside_vllm, read_results, read_vllm, replaced
from tests.outputs import answered, commit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "infra/measure/results"
HELD = yaml.safe_load((ROOT / "tests/readme.yaml").read_text(encoding="utf-8"))
"""What the README says, by how it begins, and the tests that hold it."""
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language):
    return [block for found, block in FENCED if found == language]


def said(text):
    """Sentences, tables by their heads, lines of shell blocks and other blocks by their first lines."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for language, block in fence.findall(text):
        yield from block.splitlines() if language == "sh" else block.splitlines()[:1]
    prose = re.sub(r"<!--.*?-->", "", fence.sub("", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=\* )", prose):
        if paragraph.startswith("|"):
            yield paragraph.splitlines()[0]
        elif paragraph.strip() and not paragraph.startswith("#"):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)|\*\*(.*?)\*\*", r"\1\2", " ".join(paragraph.split()))
            yield from re.split(r"(?<=[.:;]) +(?=[A-Z`])", plain.removeprefix("* "))


def test_everything_that_is_said_is_held_by_tests_that_are_there():
    everything = list(said(README))
    assert len(everything) == len(set(everything)) > 40
    for one in everything:
        assert [beginning for beginning in HELD if one.startswith(beginning)], one
    for beginning, tests in HELD.items():
        assert sum(one.startswith(beginning) for one in everything) == 1, beginning
        for file, _, name in (test.partition("::") for test in tests):
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M), name


def test_it_fits_on_two_pages():
    lines = README.splitlines()
    assert len(lines) <= 182
    assert max(len(line) for line in lines if not line.startswith("|")) <= 122


def test_the_versions_of_python_are_those_that_are_installed_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r"Python ([\d., or]+\d) ", README)[1]
    versions = [int(minor) for minor in re.findall(r"3\.(\d+)", named)]
    assert project["requires-python"] == f">=3.{versions[0]},<3.{versions[-1] + 1}"
    script = (ROOT / "infra/install.sh").read_text()
    assert f"(3, {versions[0]}) <= sys.version_info[:2] <= (3, {versions[-1]})" in script
    assert versions == list(range(versions[0], versions[-1] + 1))


def test_the_printout_is_what_is_printed_today(tmp_path, capsys):
    """The columns of the table and the names of the totals; the figures are of a run of the quick start."""
    documents, _, totals = next(block for block in blocks("") if block.startswith("Documents")).partition(
        "\n\nTotals\n"
    )
    row = dict.fromkeys(("kv_bytes_full", "kv_bytes_peak", "output")) | answered("a")
    print_answers(output_console(), [row], Expected("right", {"a": "17"}))
    heads = [head.strip() for head in capsys.readouterr().out.splitlines()[1].split("|")]
    _, head, _, *rows = documents.splitlines()
    assert re.split(r" {2,}", head.strip()) == heads
    assert {re.split(r" {2,}", line)[4] for line in rows} <= {"exact", "ok"}
    names = [name for name, _ in totals_rows(read_report(commit(tmp_path, [answered("a")])))] + ["answers"]
    shown = [re.split(r" {2,}", line)[0] for line in totals.splitlines()]
    assert shown == [name for name in names if name in shown]
    ((_, verdict),) = expected_rows(Expected("expected", {"a": "answer to a"}).scores(str(tmp_path)))
    assert totals.splitlines()[-1].endswith(verdict.replace("1 of 1", "27 of 27").replace(" 1 contain", " 27 contain"))


def test_the_example_job_loads(tmp_path):
    (spec,) = blocks("yaml")
    path = tmp_path / "job.yaml"
    path.write_text(spec)
    job = JobSpec.load(str(path))
    assert job.task.name == "extract"
    assert job.policy.budget.max_kept == 2048
    assert (job.cluster.replicas.min, job.cluster.replicas.max) == (1, 8)


@pytest.mark.usefixtures("leave_no_plugin")
def test_the_example_policy_keeps_what_it_says(tmp_path, tiny_llama):
    (tmp_path / "sinks.py").write_text(next(block for block in blocks("python") if "class Sinks" in block))
    load_plugin(str(tmp_path / "sinks.py"))
    policy = yaml.safe_load(re.search(r"`policy: (\{name: sinks.*?\})`", README)[1])
    engine = Engine.from_pretrained(
        tiny_llama, policy=policy | {"recent": 5}, dtype="float32", device="cpu", kv_memory="4MiB", compact_every=1
    )
    sampling = SamplingParams(max_new_tokens=9)
    (done,) = engine.run([Request("a", list(range(40)), sampling, return_kept_positions=True)])
    last = 40 + 8  # the last token is never fed
    assert policy["first"] == 2
    for head in (head for layer in done.kept_positions for head in layer):
        assert list(head) == [0, 1, *range(last - 5, last)]


def test_every_folder_of_the_tree_exists():
    (tree,) = [block for block in blocks("") if "corm_batch/" in block and "pipeline/" in block]
    package, _, others = tree.partition("jobs/ ")
    named = set(re.findall(r"(?<=\s)(\w+)/", package)) - {"kernels"}
    assert named == {path.parent.name for path in (ROOT / "corm_batch").glob("*/__init__.py")}
    assert all((ROOT / "infra" / name).is_dir() for name in re.findall(r"(\w+)/", others.partition("infra/ ")[2])[:4])


def test_policies_and_budgets_are_as_many_as_it_says_and_say_where_they_deviate():
    assert "lists the fifteen policies\nand four budgets" in README
    for kind, count, exact in ((KVPolicy, 15, set()), (Budget, 4, {"headkv"})):
        shipped = {name: one for name, one in kind.registered().items() if one.__module__.startswith("corm_batch.")}
        assert len(shipped) == count
        papers = {name: one.__doc__ for name, one in shipped.items() if "Based on" in one.__doc__}
        assert {name for name, text in papers.items() if "Deviation" not in text} == exact


def test_figures_of_policies_are_those_recorded():
    """Each row from both models' records, over all lengths: facts of all tasks, and meetings."""
    labels = {
        "`corm`, `tau: 72`": "corm",
        "`corm`, `preset: paper`": "paper",
        "`snapkv`, half, pooled": "snapkv-pooled-63-50",
    }
    table = README[README.index("| policy |") :].partition("\n\n")[0].splitlines()[2:]
    found = dict(line.strip("| ").split(" | ", 1) for line in table)
    assert found.keys() == labels.keys()
    full = []
    for model in ("smollm2", "reference"):
        record = json.loads((RESULTS / f"policy_table-{model}.json").read_text())
        assert (record["device"], record["model"]["dtype"]) == ("NVIDIA H200", "bfloat16")
        assert record["lengths"] == [1024, 2048, 4096, 7000]
        rows = {(row["candidate"], row["suite"], row["task"]): row for row in record["rows"]}
        for policy, label in labels.items():
            facts, meetings = rows[label, "needles", "all"], rows[label, "meetings", "likelihood"]
            assert (facts["against"]["cases"], meetings["against"]["cases"]) == (300, 100)
            told = [
                f"{100 * facts['cost']['peak_ratio']:.1f} %",
                difference_text(Difference(**facts["against"]), share=True).removesuffix(" points"),
                difference_text(Difference(**meetings["against"]), share=False),
            ]
            start = 3 * (model == "reference")
            assert found[policy].split(" | ")[start : start + 3] == told
        full.append(f"{100 * facts['against']['here']:.1f} %")
    said = f"the full cache says {full[0]} of the facts on SmolLM2, {full[1]} on the small model"
    assert said in README.replace("\n", " ")


def test_what_propagation_gains_beside_vllm_is_what_is_recorded():
    beside = json.loads((RESULTS / "h200-vllm-fp8.json").read_text())
    hours, times = [], []
    streaming = (("32k", "-32k-streaming"), ("128k", "-128k-streaming"))
    for length, name in (("4k", ""), ("16k", "-16k"), *streaming):
        record = json.loads((RESULTS / f"h200-llama3.1-8b-fp8{name}.json").read_text())
        assert beside["device"] == record["device"]
        workload = f"llama3.1-8b-{length}"
        (ours,) = [
            row["figures"]["documents_per_hour"] for row in record["rows"]
            if (row["workload"], row["propagation"]) == (workload, "attention")
        ]  # fmt: skip
        (theirs,) = [row["documents_per_hour"] for row in beside["rows"] if row["workload"] == workload]
        hours.append(f"{ours:,.0f} ({length})")
        times.append(round(ours / theirs, 2))
    said = f"{hours[0]}, {hours[1]}, streaming {hours[2]} and {hours[3]}, {times[0]} to {times[3]} times"
    assert times == sorted(times)
    assert said in README.replace("\n", " ")


def test_what_the_default_frees_is_what_is_recorded():
    assert KVPolicy.from_spec({"name": "corm"}).tau == 36
    by = {}
    for name in ("default_int8-smollm2", "default_int8-smollm2-texts"):
        record = json.loads((RESULTS / f"{name}.json").read_text())
        assert record["model"]["storage"] == "model"  # of the full cache
        assert {(one["label"], one["storage"], one["policy"]["tau"]) for one in record["candidates"]} >= {
            ("t36", "int8", 36)
        }
        by |= {(one["suite"], one["task"], one["score"]): one for one in record["figures"] if one["candidate"] == "t36"}
    facts, summaries = by["needles", "all", "said"], by["meetings", "likelihood", "logprob"]
    points, low, high = (100 * facts["against"][name] for name in ("difference", "low", "high"))
    held, nats = 100 * facts["cost"]["peak_ratio"], summaries["against"]["difference"]
    said = f"SmolLM2 has {held:.1f} % of the bytes, {points:+.1f} points ({low:+.1f}..{high:+.1f}) and {nats:+.3f}"
    assert said in README.replace("\n", " ")


def test_what_pins_change_is_what_is_recorded():
    policies = (ROOT / "corm_batch/policies/README.md").read_text(encoding="utf-8").replace("\n", " ")
    changes = {"needles": [], "books": [], "meetings": []}
    for evaluation in json.loads((RESULTS / "pins.json").read_text())["evaluations"]:
        rows = [one for one in evaluation["rows"] if one["task"] in ("all", "likelihood")]
        lost = {(one["suite"], one["candidate"]): one["against"]["difference"] for one in rows}
        for (suite, label), pinned in lost.items():
            changes[suite].append(pinned - lost[suite, label.partition("-")[0]])
    facts, books, meetings = ((min(one), max(one)) for one in changes.values())
    assert f"{100 * facts[0]:+.1f} to {100 * facts[1]:+.1f} points" in policies
    for low, high in (books, meetings):
        assert f"{low:+.3f} to {high:+.3f}" in policies


def test_what_one_reading_gains_is_what_is_recorded():
    short, long = json.loads((RESULTS / "h200-readings-16k.json").read_text())["rows"]
    (streamed,) = json.loads((RESULTS / "h200-readings-32k-streaming.json").read_text())["rows"]
    hours = [f"{row['shared']['documents_per_hour']:,.0f}" for row in (short, long, streamed)]
    for said in (
        f"{hours[0]} documents of 16k with answers of 64 tokens ({short['over_vllm']:.2f} times vLLM, "
        f"{short['shared_over_apart']:.1f} times asking them apart)",
        f"{hours[1]} with 256 ({long['over_vllm']:.2f} times)",
        f"{hours[2]} of 32k read in streaming ({streamed['over_vllm']:.2f} times)",
    ):
        assert said in README.replace("\n", " ")


def test_what_streaming_costs_is_what_is_recorded():
    lost = []
    for model in ("smollm2", "reference"):
        rows = json.loads((RESULTS / f"settings_table-{model}.json").read_text())["beside"]["full"]
        facts = {row["candidate"]: row["against"]["difference"] for row in rows if row["suite"] == "needles"
                 and row["task"] == "all"}  # fmt: skip
        assert min(facts, key=facts.get).startswith("streaming")
        lost.append(f"{-100 * facts['streaming']:.1f}")
    assert f"most: {lost[0]} and {lost[1]} points" in README.replace("\n", " ")


def test_documents_an_hour_are_those_recorded():
    """The table, and of what it is, as its caption says."""
    records = read_vllm(RESULTS).values()
    assert {(record["engine"], record["device"]) for record in records} == {("vllm 0.22.1", "NVIDIA H200")}
    for name in (row["workload"] for record in records for row in record["rows"]):
        workload = WORKLOADS[name]
        assert (workload.output_tokens, workload.dtype) == (256, "bfloat16")
        assert workload.max_kept == (1024 if name.endswith("-4k") else 2048)
    assert replaced(README, beside_vllm(read_results(RESULTS), read_vllm(RESULTS))) == README
