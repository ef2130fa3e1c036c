"""Settings are compared with the full cache and with the job's own policy, on the same answers, in one record."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from corm_batch.spec import JobSpec
from infra.measure import settings_table
from infra.measure.settings_table import BESIDE, SETTINGS, STREAMING, main
from tests.conftest import llama_config, save_random_model
from tests.evaluation.conftest import chat, load

__all__ = ["chat", "load"]
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def test_one_command_measures_and_writes_the_tables(tiny_model, load, tmp_path, monkeypatch, capsys):
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": [f"The {boat} boat lay at the river that year. " * 60 for boat in "abcd"]}), texts)
    suites = (
        f"{{name: needles, haystack: {texts}, tasks: [magic_number]}}",
        f"meetings={{name: likelihood, documents: {texts}, max_new_tokens: 8}}",
    )
    monkeypatch.setattr(settings_table, "SUITES", suites)
    monkeypatch.setattr(settings_table, "SETTINGS", {"streaming": (STREAMING,), "small pages": ("engine.page_size=8",)})

    def loader(job):
        engine, tokenizer = load(job)
        return lambda: SimpleNamespace(engine=engine, tokenizer=tokenizer)

    monkeypatch.setattr(settings_table, "model_loader", loader)
    job = tmp_path / "job.yaml"
    spec = {
        "name": "tiny",
        "model": {"name": tiny_model, "dtype": "float32", "document_role": "document"},
        "source": {"name": "jsonl", "uri": str(tmp_path / "none.jsonl")},
        "task": {"name": "summarize"},
        "policy": {"name": "snapkv", "recent": 32, "budget": {"name": "uniform", "max_kept": 64}},
        "output": {"uri": str(tmp_path / "out")},
    }
    job.write_text(yaml.safe_dump(spec))
    record, other = tmp_path / "record.json", tmp_path / "other"
    shutil.copytree(tiny_model, other)
    save_random_model(llama_config(vocab_size=8192, max_position_embeddings=1024), other, seed=7)
    also = "--also", f"others=model.name={other}", "--also", "others=engine.page_size=4"
    asked = [str(job), "--output", str(tmp_path / "answers"), "--record", str(record), "--cases", "2"]
    main([*asked, "--lengths", "250,300", *also, "--", "engine.chunk_size=64"])
    told = capsys.readouterr()
    assert "snapkv, again: 8 of 8" in told.err
    assert [job.policy.name for job in load.jobs].count("full") == 3  # its answers, their scores, and once more
    written = json.loads(record.read_text())
    assert written["settings"] == {
        "default": [], "streaming": [STREAMING], "small pages": ["engine.page_size=8"],
        "others": [f"model.name={other}", "engine.page_size=4"],
    }  # fmt: skip
    assert (written["policy"]["name"], written["engine"]["chunk_size"]) == ("snapkv", 64)
    assert written["position"] == "question after the document"
    beside = written["beside"]
    assert {name: list(dict.fromkeys(row["candidate"] for row in rows)) for name, rows in beside.items()} == {
        "full": ["default", "streaming", "small pages", "others"], "default": ["streaming", "small pages", "others"]
    }  # fmt: skip
    full, default = (
        {(row["candidate"], row["suite"]): row["against"] for row in beside[name]} for name in ("full", "default")
    )
    for label in ("streaming", "small pages"):
        assert full[label, "meetings"]["there"] == default[label, "meetings"]["there"]  # the same answers were scored
        assert default[label, "meetings"]["here"] == full["default", "meetings"]["there"]
    assert default["streaming", "meetings"]["difference"] != 0
    # another model's, not the first one's from the store
    assert full["others", "meetings"]["difference"] < full["default", "meetings"]["difference"] - 0.1
    assert abs(default["small pages", "meetings"]["difference"]) < 1e-4
    assert all(text in told.out for text in BESIDE.values())
    assert "| full against itself |" in told.out
    assert "| default, score |" in told.out

    document = tmp_path / "d.md"
    document.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    main(["--record", str(record), "--document", str(document)])
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("above", "below", False)
    rows = [line.split(" | ")[0] for line in lines if line.startswith(("| default", "| small", "| streaming"))]
    assert rows == [
        "| default", "| streaming", "| small pages", "| default, score", "| default against itself", "| streaming",
        "| small pages",
    ]  # fmt: skip
    assert sum(line.startswith("| others | ") for line in lines) == 2


def test_every_setting_is_one_of_a_job():
    for overrides in SETTINGS.values():
        JobSpec.load("jobs/quickstart/job.yaml", overrides)
