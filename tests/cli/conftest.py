"""Commands run as a user runs them, in this process: exit code, standard output, standard error."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from corm_batch.cli import main

MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def corm_batch(monkeypatch, capsys):
    """Call with the arguments of the command line."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["corm-batch", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(exit_.value.code or 0, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def model_without_weights(tmp_path_factory):
    """Config and tokenizer of the quick start's model: whoever loads weights from here fails."""
    folder = tmp_path_factory.mktemp("model")
    for file in MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


@pytest.fixture
def write_job(tmp_path, model_without_weights):
    """Call with rows and changes to the spec, by section; returns the spec's path."""

    def write(rows, **sections):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet", row_group_size=2000)
        job = {
            "name": "test",
            "model": {"name": str(model_without_weights), "dtype": "float32", "device": "cpu"},
            "source": {"name": "parquet", "uri": str(tmp_path / "documents.parquet")},
            "task": {"name": "question_answer", "question": "What is the pass key?", "max_new_tokens": 16},
            "policy": {"name": "corm"},
            "output": {"uri": str(tmp_path / "out")},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job | sections))
        return path

    return write
