"""A workload of the benchmark through a whole job: Ray, driver, tokenizer and Arrow around the same engine.

The job is one that `corm-batch run` would do, over a Parquet file and a model's folder that are made for it; only the
weights are not read from there: each replica draws them on its device, as the benchmark does. A word of a document is a
token of its tokenizer, four letters and a blank long.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from corm_batch.bench.engine_run import engine_config
from corm_batch.bench.model import llama_config, random_model
from corm_batch.bench.result import JobFigures, Row
from corm_batch.bench.workload import LlamaShape, Workload
from corm_batch.engine.open import Engine
from corm_batch.errors import BrokenEngineError
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.model import load_tokenizer
from corm_batch.pipeline.progress import Event
from corm_batch.pipeline.stages import LOADING, READING
from corm_batch.pipeline.worker import Model
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Prompt

_TOGETHER_S = 1.0  # answers within a second of the first one were made together with it


def measure_job(workload: Workload, row: Row, device: torch.device, replicas: int = 1) -> JobFigures:
    """Do the job with so many replicas, each of which gets the workload's number of documents.

    Args:
        workload: the documents.
        row: the engine, its prefill and the forms of weights and entries.
        device: where each replica makes its model.
        replicas: at once.

    Raises:
        CormBatchError: the job failed, or a document of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = job_spec(workload, row, device, replicas, Path(folder))
        write_model(workload.model, Path(spec.model.name))
        write_documents(spec, workload, replicas * workload.documents)
        clock = _Clock()
        load = partial(load_random, spec, workload.model)
        summary = run_job(spec, load_model=load, on_event=clock)
        wall_s = time.monotonic() - clock.began
    if summary.failed or not summary.ok:
        raise BrokenEngineError(clock.failure or "the job was ended before its first answer")
    return clock.figures(replicas, wall_s)


def job_spec(workload: Workload, row: Row, device: torch.device, replicas: int, folder: Path) -> JobSpec:
    """The job, all of whose files are below `folder`."""
    policy = workload.policy(row.engine)
    assert policy is not None, "generate is no engine of a job"
    return JobSpec.from_mapping(
        {
            "name": "bench",
            "model": {
                "name": str(folder / "model"),
                "dtype": workload.dtype,
                "weights": row.weights,
                "device": device.type,
            },
            "source": {"name": "parquet", "uri": str(folder / "documents.parquet")},
            "task": {
                "name": "summarize",
                "instruction": _words(1)[0],
                "max_new_tokens": workload.output_tokens,
                "overflow": "error",
            },
            "policy": policy.to_spec(),
            "engine": engine_config(workload, row.prefill, row.storage, row.rule).model_dump(mode="json"),
            "cluster": {"replicas": replicas},
            "output": {"uri": str(folder / "out")},
        }
    )


def write_model(shape: LlamaShape, folder: Path) -> None:
    """A model's folder without weights: its config, and a tokenizer that has a word for every token."""
    folder.mkdir(parents=True)
    vocabulary = {word: token for token, word in enumerate(_words(shape.vocab_size))}
    end = shape.vocab_size - 1  # a job wants to know what ends an answer; replicas are given a model without an end
    config = {**llama_config(shape).to_dict(), "eos_token_id": end, "architectures": ["LlamaForCausalLM"]}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": next(iter(vocabulary))},
    }
    files = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def write_documents(spec: JobSpec, workload: Workload, count: int) -> None:
    """As many documents that share nothing, each as long as leaves room for what is asked of it in a whole prompt."""
    tokenizer = load_tokenizer(spec.model, spec.model.name)
    asked = len(tokenizer.encode(Prompt("", spec.task.instruction)))  # type: ignore[attr-defined]
    words = np.array(_words(workload.model.vocab_size))
    generator = np.random.default_rng(3)
    size = workload.prompt_tokens - asked
    texts = [" ".join(generator.choice(words, size)) for _ in range(count)]
    table = pa.table({"doc_id": [f"{number:06}" for number in range(count)], "text": texts})
    pq.write_table(table, spec.source.uri)  # type: ignore[attr-defined]


def load_random(spec: JobSpec, shape: LlamaShape) -> Model:
    """What a replica loads: a model of this shape, drawn on its device, whose answers nothing ends but their length.

    Raises:
        torch.OutOfMemoryError, UnsupportedModelError: see `random_model`.
    """
    dtype = getattr(torch, spec.model.dtype)
    model = random_model(shape, dtype, torch.device(spec.model.device), weights=spec.model.weights)
    engine = Engine(model, spec.policy, spec.engine)
    tokenizer = load_tokenizer(spec.model, spec.model.name)
    tokenizer.end_token_ids = frozenset()
    return Model(engine, tokenizer, engine.pool_bytes // engine.shape.kv_bytes_per_token(dtype))


def _words(count: int) -> list[str]:
    """So many words of four letters."""
    return ["".join(letters) for letters in islice(product(ascii_lowercase, repeat=4), count)]


class _Clock:
    """Hears a job's events, and notes when which stage began and which document was answered."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stages: dict[str, float] = {}
        self.answers: list[float] = []
        self.failure = ""

    def __call__(self, event: Event) -> None:
        passed = time.monotonic() - self.began
        if event.kind == "stage":
            self.stages.setdefault(event.message, passed)
        elif event.row is not None:
            self.answers.append(passed)
            self.failure = self.failure or str(event.row.result.get("error_message") or "")

    def figures(self, replicas: int, wall_s: float) -> JobFigures:
        """What came of it. Of a stage that passed too fast to be told of, nothing is known but that it was short."""
        first, last = self.answers[0], self.answers[-1]
        reading = self.stages.get(READING, first)
        loading = self.stages.get(LOADING, reading)
        return JobFigures(
            replicas=replicas,
            documents=len(self.answers),
            wall_s=wall_s,
            start_s=loading,
            load_s=reading - loading,
            first_answer_s=first - reading,
            steady_s=last - first,
            documents_per_hour=3600 * len(self.answers) / (last - reading) if last > reading else None,
            steady_documents_per_hour=steady_per_hour(self.answers),
        )


def steady_per_hour(answers: Sequence[float]) -> float | None:
    """Documents an hour from the first answer on, at its seconds; None when all came together with the first."""
    later = [at for at in answers if at > answers[0] + _TOGETHER_S]
    return 3600 * len(later) / (later[-1] - answers[0]) if later else None
