"""corm-batch report, drawn and as JSON."""

import json

import pytest

from corm_batch.spec import JobSpec
from tests.data.conftest import bucket, s3_client  # noqa: F401
from tests.outputs import answered, commit, failed


def test_tables(corm_batch, write_output):
    result = corm_batch("report", write_output())
    assert result.code == 0
    lines = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert "2 ok, 1 failed, written by 1 run" in lines["documents"]
    assert "corm window=64" in lines["policy"]
    assert "max_kept" not in lines["policy"]
    assert "36.0k read, 15 written" in lines["tokens"]
    assert "3001 tokens/s, 900 documents/h, over 12.0s" in lines["throughput"]
    assert "16.0 MiB -> 4.0 MiB, 75.0% saved" in lines["KV bytes full -> peak"]
    assert "mean 30.0%" in lines["kept ratio"]
    failure = next(line for line in result.out.splitlines() if line.startswith("DocumentError"))
    assert [cell.strip() for cell in failure.split("|")] == ["DocumentError", "1", "c", "is empty"]
    assert "Kept per layer" in result.out
    assert "Slowest documents" in result.out
    assert result.out.isascii()


def test_answers_are_shown(corm_batch, write_output):
    lines = corm_batch("report", write_output()).out.partition("\n\n")[0].splitlines()
    drawn = [[cell.strip() for cell in line.split("|")] for line in lines]
    rows = {row[0]: row[1:] for row in drawn}
    assert rows["a"] == ["ok", "5", "35564"]
    assert rows["b"] == ["ok", "5", "Oslo or [1mBergen"]
    assert rows["c"] == ["failed", "5", "DocumentError: is empty"]


def test_of_many_documents_the_first_answers(corm_batch, tmp_path):
    commit(tmp_path / "out", [answered(f"d{number:02d}") for number in range(60)])
    printed = corm_batch("report", tmp_path / "out").out
    assert "Answers, the first 20 of 60" in printed
    assert "answer to d19" in printed
    assert "answer to d20" not in printed


def test_settings_that_differ(corm_batch, tmp_path):
    for place, window in (("here", 64), ("there", 128)):
        metadata = {
            "corm_batch.job": "j",
            "corm_batch.spec": f"{{policy: {{window: {window}}}, output: {{uri: {place}}}}}",
        }
        commit(tmp_path / place, [answered("a")], metadata=metadata)
    printed = corm_batch("report", tmp_path / "here", "--compare", tmp_path / "there").out
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines()]
    assert ["policy.window", "64", "128"] in rows
    assert "output.uri" not in printed


def test_a_trailing_slash_and_a_relative_path(corm_batch, write_output, monkeypatch):
    folder = write_output()
    monkeypatch.chdir(folder.parent)
    assert "2 ok, 1 failed" in corm_batch("report", f"{folder.name}/").out


def test_json(corm_batch, write_output):
    figures = json.loads(corm_batch("report", write_output(), "--json").out)
    assert (figures["ok"], figures["failed"], figures["saved_ratio"]) == (2, 1, 0.75)
    # 400 entries are 20 % of 2000, or 40 % of 1000: 1500 a layer
    assert figures["kept_per_layer"] == pytest.approx([200 / 1500, 600 / 1500])
    reason = {"text": "is empty", "documents": 1, "doc_ids": ["c"]}
    assert figures["failures"] == [
        {"error_type": "DocumentError", "documents": 1, "num_messages": 1, "messages": [reason]}
    ]


def test_unreadable_part_is_one_message(corm_batch, write_output):
    folder = write_output()
    part = folder / "results/part-run-2-000000.parquet"
    part.write_bytes(b"not parquet")
    result = corm_batch("report", folder)
    assert result.code == 1
    assert str(part) in result.err


def test_page(corm_batch, write_output, tmp_path):
    path = tmp_path / "new/report.html"
    result = corm_batch("report", write_output(), "--html", path)
    assert result.code == 0
    assert "2 ok, 1 failed" in result.out
    assert result.out.splitlines()[-1] == f"Wrote {path}"
    content = path.read_text(encoding="utf-8")
    assert content.startswith("<!DOCTYPE html>")
    assert "16.0 MiB -&gt; 4.0 MiB, 75.0% saved" in content
    assert "is empty" in content


@pytest.mark.s3
def test_page_and_output_on_s3(corm_batch, bucket, s3_client):  # noqa: F811
    output, page, name = f"{bucket}/out", f"{bucket}/pages/report.html", bucket.removeprefix("s3://")
    commit(output, [answered("a"), failed("b")])
    for _ in range(2):  # the second page takes the first one's place
        result = corm_batch("report", output, "--html", page)
        assert (result.code, result.out.splitlines()[-1]) == (0, f"Wrote {page}")
    found = s3_client.get_object(Bucket=name, Key="pages/report.html")
    assert b"1 ok, 1 failed" in found["Body"].read()
    assert [item["Key"] for item in s3_client.list_objects_v2(Bucket=name, Prefix="pages")["Contents"]] == [
        "pages/report.html"
    ]
    refused = corm_batch("report", output, "--html", "s3://No_Such_Bucket/report.html")
    assert (refused.code, refused.out) == (1, "")
    assert "s3://No_Such_Bucket/report.html: cannot be written" in refused.err


def test_page_beside_json(corm_batch, write_output, tmp_path):
    result = corm_batch("report", write_output(), "--html", tmp_path / "report.html", "--json")
    assert json.loads(result.out)["ok"] == 2
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.fixture
def other(tmp_path):
    rows = [answered("a", content_sha256="c", output="Rome"), failed("b", content_sha256="c"), answered("d")]
    return commit(tmp_path / "other", rows)


def test_comparison(corm_batch, write_output, other, tmp_path):
    result = corm_batch("report", write_output(), "--compare", other, "--html", tmp_path / "report.html")
    assert result.code == 0
    assert f"Compared with {other}" in result.out
    counts = {line.split("|")[0].strip(): line.split("|")[-1].strip() for line in result.out.splitlines()}
    assert (counts["only here"], counts["only there"], counts["in both"]) == ("1", "1", "2")
    assert (counts["in both: failed there"], counts["in both: answer differs"]) == ("1", "1")
    differing = [[cell.strip() for cell in line.split("|")] for line in result.out.splitlines()]
    assert ["a", "answer differs", "35564", "Rome"] in differing
    assert "Rome" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_comparison_as_json(corm_batch, write_output, other):
    compared = json.loads(corm_batch("report", write_output(), "--compare", other, "--json").out)["comparison"]
    assert (compared["shared"], compared["verdicts"]["answer differs"]) == (2, 1)
    assert compared["documents"][1]["there"]["answer"] == "Rome"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--html", "pages/"], 2, "--html pages/: expected a file to write, such as pages/report.html"),
        (["--html", "gs://b/x.html"], 2, "--html gs://b/x.html: expected a local path or an s3:// URI"),
        (["--compare", "nowhere"], 2, "--compare nowhere: nothing is committed there"),
        (["--compare", "ftp://x"], 2, "--compare ftp://x: expected a local path"),
        (["--metric", "f1"], 2, "--metric: it is of the answers that --expect compares, which is not given"),
        (["--html", "."], 1, "cannot be written: Is a directory"),
    ],
)
def test_what_a_user_gets_wrong(corm_batch, write_output, tmp_path, monkeypatch, options, code, message):
    monkeypatch.chdir(tmp_path)
    result = corm_batch("report", write_output(), *options)
    assert result.code == code
    assert message in result.err
    assert result.out == ""


def test_answers_beside_right_ones_on_the_terminal_as_json_and_on_the_page(
    corm_batch, write_job, write_output, tmp_path
):
    rows = [{"doc_id": name, "text": "t", "right": "35564"} for name in "abc"]
    (write_output() / "_job").mkdir(exist_ok=True)
    (tmp_path / "out/_job/spec.yaml").write_text(JobSpec.load(str(write_job(rows))).to_yaml())
    options = ["report", tmp_path / "out", "--expect", "right"]
    result = corm_batch(*options, "--metric", "contains", "--html", tmp_path / "page.html")
    assert "Missed by contains: 2 of 3" in result.out
    assert "against right: 1 of 3 exact (33.3%), 1 contain it (33.3%)" in result.out
    assert "Missed by contains: 2 of 3." in (tmp_path / "page.html").read_text(encoding="utf-8")
    found = json.loads(corm_batch(*options, "--json").out)["expected"]
    assert (found["cases"], found["num_missed"]) == (3, 2)
    assert {one["doc_id"] for one in found["missed"]} == {"b", "c"}
    refused = corm_batch("report", tmp_path / "out", "--expect", "wrong")
    assert refused.code == 2
    assert "--expect wrong" in refused.err
