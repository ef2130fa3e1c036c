"""The record of a measurement: the command that made it, and what came out."""

import json
import sys

from infra.measure.record import begin_record, write_record


def test_it_is_printed_as_it_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["this.py", "--documents", "5"])
    record = begin_record("this", documents=5) | {"phase": {"seconds": 1.5}}
    write_record(record, tmp_path / "this.json")
    written = (tmp_path / "this.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written
    found = json.loads(written)
    assert found["command"] == "python -m infra.measure.this --documents 5"
    assert list(found) == ["command", "cpus", "load_average_before", "documents", "phase", "load_average_after"]
