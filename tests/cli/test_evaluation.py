"""corm-batch eval."""

import json

import pytest

from corm_batch.cli import evaluation
from corm_batch.cli.console import output_console
from corm_batch.cli.evaluation import print_evaluation
from tests.evaluation.results import make_result

ROWS = [{"doc_id": "a", "text": "Nobody came to the river that year. " * 200}]


@pytest.fixture
def planned(monkeypatch):
    """What would be evaluated where: plan and folder; nothing is asked."""
    found = []

    def run(plan, folder):
        found.append((plan, folder))
        return make_result()

    monkeypatch.setattr(evaluation, "_run", run)
    return found


def test_the_jobs_policy_and_those_given_are_compared(corm_batch, write_job, planned, tmp_path):
    spec = write_job(ROWS, policy={"name": "corm", "tau": 4})
    options = ("--policy", "full", "--policy", "snapkv", "--policy", "short={name: corm, window: 64, recent: 64}")
    result = corm_batch("eval", spec, *options, "--policy", "{name: corm, tau: 4}", "--lengths", "512, 1024")
    assert result.code == 0, result.err
    ((plan, folder),) = planned
    assert list(plan.candidates) == ["corm tau=4.0", "snapkv", "short"]
    assert plan.candidates["short"].policy.window == 64
    assert [(label, suite.name) for label, suite in plan.suites.items()] == [
        (name, name) for name in ("needles", "key_value")
    ]
    assert (plan.lengths, plan.cases, plan.seed) == ([512, 1024], 8, "evaluation")
    assert folder == str(tmp_path / "out/_eval")
    assert plan.command.startswith("corm-batch eval ")
    assert plan.model_hash
    written = json.loads((tmp_path / "out/_eval/evaluation.json").read_text())
    assert written["schema_version"] == "corm-batch eval 1"
    assert "corm-batch eval" in (tmp_path / "out/_eval/evaluation.html").read_text()


def test_in_16_bits_each_policy_is_stored_as_a_job_under_it_would_be(corm_batch, write_job, planned):
    for given, forms in (((), ["model", "int8"]), (("--set", "engine.storage=fp8"), ["fp8", "fp8"])):
        result = corm_batch("eval", write_job(ROWS), "--set", "model.dtype=bfloat16", *given)
        assert result.code == 0, result.err
        plan, _ = planned.pop()
        assert [job.engine.form.name for job in (plan.reference, *plan.candidates.values())] == forms


def test_json_is_a_figure_a_line(corm_batch, write_job, planned, tmp_path):
    options = ("--suite", "mine={name: needles, tasks: [pass_key]}", "--output", tmp_path / "there", "--json")
    result = corm_batch("eval", write_job(ROWS), *options)
    assert result.code == 0
    ((plan, folder),) = planned
    assert list(plan.suites) == ["mine"]
    assert folder == str(tmp_path / "there")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert lines == [json.loads(figure.model_dump_json()) for figure in make_result().figures]


def test_failed_cases_are_named_and_exit_3(corm_batch, write_job, monkeypatch):
    monkeypatch.setattr(evaluation, "_run", lambda plan, folder: make_result(failed=2))
    result = corm_batch("eval", write_job(ROWS))
    assert result.code == 3
    assert "Cases without an answer: 2" in result.out
    assert "needles, facts 512, pass_key |         9,000 | it does not fit" in result.out
    assert "14 (2 failed)" in result.out


def test_an_interrupted_one_says_how_to_go_on(corm_batch, write_job, monkeypatch):
    def end(plan, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "_run", end)
    result = corm_batch("eval", write_job(ROWS))
    assert result.code == 130
    assert "the same command goes on" in result.err


def test_the_table_shows_the_first_score_with_its_floor(capsys):
    print_evaluation(output_console(), make_result())
    printed = capsys.readouterr().out
    first = printed.partition("\n\n")[0].splitlines()
    assert first[0] == "needles, facts 512: question after the document"
    heads = [head.strip() for head in first[1].split("|")]
    (line,) = [line for line in first if line.startswith("all ") and "short" in line]
    cells = dict(zip(heads, (cell.strip() for cell in line.split("|")), strict=True))
    assert (cells["cases"], cells["full"], cells["policy's"]) == ("14", "100.0%", "85.7%")
    assert cells["difference (95 %)"].startswith("-14.3 (")
    assert cells["floor (95 %)"].startswith("+0.0 (")
    assert (cells["kept"], cells["peak/full"]) == ("25.0%", "31.2%")
    assert "said" not in printed.partition("Policies")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "none"], "policy.name: no policy is called 'none'; there are:"),
        (["--policy", "{name: corm, tau: -1}"], "policy.tau: Input should be greater than 0"),
        (["--policy", "[1]"], "--policy: got '[1]', expected a name, such as --policy NAME, or '{name: NAME, ...}'"),
        (["--policy", "a={name: snapkv}", "--policy", "a={name: h2o}"], "--policy: two policies are called 'a'"),
        (["--set", "policy={name: full}"], "--policy: nothing to compare: the job's policy is full"),
        (["--suite", "needle"], "no suite is called 'needle'; there are:\n  key_value: "),
        (["--suite", "squad"], "suite.questions: Field required"),
        (["--suite", "lines", "--suite", "lines"], "--suite: two suites are called 'lines'"),
        (["--lengths", "1k"], "--lengths: got '1k', allowed are numbers of tokens with commas between, as 1024,4096"),
        (["--lengths", "0"], "--lengths: got '0'"),
        (["--cases", "0"], "--cases"),
        (["--output", "ftp://a/b"], "--output ftp://a/b: expected a local path or an s3:// URI"),
    ],
)
def test_wrong_arguments_exit_2(corm_batch, write_job, planned, options, message):
    result = corm_batch("eval", write_job(ROWS), *options)
    assert result.code == 2
    assert message in result.err
    assert not planned
