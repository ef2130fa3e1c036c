"""corm-batch report, drawn and as JSON."""

import json

import pytest


def test_tables(corm_batch, write_output):
    result = corm_batch("report", write_output())
    assert result.code == 0
    lines = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert "2 ok, 1 failed, written by 1 run" in lines["documents"]
    assert "corm window=64" in lines["policy"]
    assert "max_kept" not in lines["policy"]
    assert "24.0k read, 10 written" in lines["tokens"]
    assert "2001 tokens/s, 600 documents/h, over 12.0s" in lines["throughput"]
    assert "16.0 MiB -> 4.0 MiB, 75.0% saved" in lines["KV bytes full -> peak"]
    assert "mean 30.0%" in lines["kept ratio"]
    failure = next(line for line in result.out.splitlines() if line.startswith("DocumentError"))
    assert [cell.strip() for cell in failure.split("|")] == ["DocumentError", "1", "c", "is empty"]
    assert "Kept per layer" in result.out
    assert "Slowest documents" in result.out
    assert result.out.isascii()


def test_a_trailing_slash_and_a_relative_path(corm_batch, write_output, monkeypatch):
    folder = write_output()
    monkeypatch.chdir(folder.parent)
    assert "2 ok, 1 failed" in corm_batch("report", f"{folder.name}/").out


def test_json(corm_batch, write_output):
    figures = json.loads(corm_batch("report", write_output(), "--json").out)
    assert (figures["ok"], figures["failed"], figures["saved_ratio"]) == (2, 1, 0.75)
    # 400 entries are 20 % of 2000, or 40 % of 1000: 1500 a layer
    assert figures["kept_per_layer"] == pytest.approx([200 / 1500, 600 / 1500])
    assert figures["failures"] == [{"error_type": "DocumentError", "documents": 1, "examples": [["c", "is empty"]]}]


def test_unreadable_part_is_one_message(corm_batch, write_output):
    folder = write_output()
    part = folder / "results/part-run-2-000000.parquet"
    part.write_bytes(b"not parquet")
    result = corm_batch("report", folder)
    assert result.code == 1
    assert str(part) in result.err
