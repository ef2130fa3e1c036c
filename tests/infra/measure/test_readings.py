import json

from corm_batch.bench.workload import find_workload
from infra.measure import readings


def test_both_sides_answer_all_and_what_each_reads_is_counted(tmp_path, monkeypatch):
    record = tmp_path / "readings.json"
    readings.main(
        [
            "--workload",
            "tiny-256:2",
            "--questions",
            "3",
            "--question-tokens",
            "5",
            "--answer",
            "4",
            "--output",
            str(record),
        ]
    )
    (row,) = json.loads(record.read_text())["rows"]
    tokens = find_workload("tiny-256").prompt_tokens
    assert row["shared"]["tokens_read"] == 2 * (tokens + 3 * 5)
    assert row["apart"]["tokens_read"] == 2 * 3 * (tokens + 5)
    assert row["shared"]["pool_bytes_peak"] < row["apart"]["pool_bytes_peak"] <= row["pool_bytes"]
    assert row["shared_over_apart"] == round(row["apart"]["seconds"] / row["shared"]["seconds"], 3)
