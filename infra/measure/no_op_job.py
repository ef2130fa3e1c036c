"""A job whose engine does nothing, over an archive of any size: what is left is the driver's own work."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.document import Document
from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import Table, encode_part, folder, part_name
from corm_batch.data.schema import SOURCE_FILE, SOURCE_ROW, memory_schema, result_schema
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shape import ModelShape
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline.model import answers_version, load_tokenizer, revision_hash
from corm_batch.pipeline.worker import Model
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Prompt
from corm_batch.text.reasoning import ReasoningMarks

ROOT = Path(__file__).parents[2]
EARLIER_RUN = "20000101T000000Z-000000"  # runs sort by their ids
ROWS_PER_FILE, ROWS_PER_GROUP = 10_000, 1_000
TEXT = "A sentence of a document that nobody reads. " * 9


class NoOpEngine:
    """Answers every request in the next step, with one token."""

    shape = ModelShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_model_len=1 << 20, vocab_size=64)
    max_model_len = 1 << 20

    def __init__(self) -> None:
        self._live: list[str] = []

    @property
    def has_work(self) -> bool:
        """Whether a request waits."""
        return bool(self._live)

    def add(self, request: Request) -> None:
        """Take a request."""
        self._live.append(request.id)

    def cancel(self, request_id: str) -> None:
        """Nothing takes long enough to be given up."""

    def step(self) -> list[Completion]:
        """Answer all there are."""
        live, self._live = self._live, []
        memory = MemoryStats(prompt_tokens=2, output_tokens=1, kv_bytes_full=384, kept_per_layer=(3, 3))
        return [Completion(name, (1,), "stop", None, 0.0, memory) for name in live]


class NoOpTokenizer:
    """Two tokens whatever the text."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of any prompt."""
        return (1, 2)

    def encode_all(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """Token ids of some."""
        return list(map(self.encode, prompts))

    def reasoning_of(self, prompt: Prompt) -> ReasoningMarks:
        """What no answer holds."""
        return ReasoningMarks("<think>", "</think>")

    def stop_check(self, stop: Sequence[str]) -> None:
        """No answer is ever stopped."""

    def decode(self, token_ids: Sequence[int], stop: Sequence[str] = (), stop_token_ids: Sequence[int] = ()) -> str:
        """The answer."""
        return "yes"


def load_no_op(mark: Path | None = None) -> Model:
    """What `run_job(load_model=...)` takes; `mark` is a file that is touched when an engine starts."""
    if mark is not None:
        mark.touch()
    return Model(engine=NoOpEngine(), tokenizer=NoOpTokenizer(), pool_tokens=1 << 30)  # type: ignore[arg-type]


def text_of(number: int, changed: int) -> str:
    """The text of one document; those below `changed` say something else."""
    return f"{number} {'changed' if number < changed else 'as it was'}. {TEXT}"


def columns_of(number: int) -> dict[str, Any]:
    """What a job may carry over of one document: a text, and an object with a list."""
    tags = [f"tag-{number % 7}", "archive", "a longer tag that many share"]
    return {
        "url": f"https://example.org/archive/{number:09d}.html",
        "meta": {"title": f"Number {number}", "tags": tags},
    }


def write_archive(place: Path, documents: int, changed: int = 0, *, columns: bool = False) -> None:
    """Parquet files of so many documents, `changed` of which differ from `changed=0`, and a model without weights.

    With `columns` they have those of `columns_of`, too.
    """
    (place / "archive").mkdir(parents=True, exist_ok=True)
    no_weights = shutil.ignore_patterns("*.safetensors", "*.md")
    shutil.copytree(ROOT / "jobs/quickstart/model", place / "model", ignore=no_weights, dirs_exist_ok=True)
    for file, numbers in enumerate(batched_range(documents, ROWS_PER_FILE)):
        texts = [text_of(number, changed) for number in numbers]
        table = pa.table({"doc_id": [f"document-{number:09d}" for number in numbers], "text": texts})
        if columns:
            others = pa.Table.from_pylist([columns_of(number) for number in numbers])
            for field in others.schema:
                table = table.append_column(field, others[field.name])
        pq.write_table(table, archive_file(place, file), row_group_size=ROWS_PER_GROUP)


def archive_file(place: Path, number: int) -> Path:
    """One of the files."""
    return place / "archive" / f"{number:05d}.parquet"


def answer_settings(spec: JobSpec) -> AnswerSettings:
    """What a run of the job compares rows with."""
    tokenizer = load_tokenizer(spec.model, spec.model.name)
    return AnswerSettings.of(spec, revision_hash(spec.model), answers_version(spec, tokenizer))


def commit_history(spec: JobSpec, documents: int) -> None:
    """The parts of a run that answered every document of the archive, as its driver would have written them."""
    fingerprint, place = answer_settings(spec).fingerprint, Path(spec.source.place).parent
    kinds = pa.Table.from_pylist([columns_of(0)]).schema
    carried = [kinds.field(name) for name in spec.output.columns]
    for part, numbers in enumerate(batched_range(documents, spec.output.part_documents)):
        schemas: dict[Table, pa.Schema] = {
            "memory": memory_schema({}),
            "results": result_schema([*spec.task.result_fields, *carried], {}),
        }
        rows: list[dict[str, Any]] = [
            {
                "doc_id": f"document-{number:09d}",
                "run_id": EARLIER_RUN,
                "content_sha256": document.content_sha256,
                "carried_sha256": document.carried_sha256,
                "fingerprint": fingerprint,
                "status": "ok",
                "output": "yes",
                "prompt_tokens": 2,
                "output_tokens": 1,
                "committed_at": datetime.now(UTC),
                SOURCE_FILE.name: str(archive_file(place, number // ROWS_PER_FILE)),
                SOURCE_ROW.name: number % ROWS_PER_FILE,
                **document.carried,
            }
            for number in numbers
            for document in [Document("", text_of(number, 0), carried=columns_of(number) if carried else {})]
        ]
        for table, schema in schemas.items():
            name = part_name(EARLIER_RUN, part, spec.output.part_format)
            content = encode_part(pa.Table.from_pylist(rows, schema=schema), spec.output.part_format)
            write_whole(f"{folder(spec.output.uri, table)}/{name}", content)


def batched_range(stop: int, size: int) -> list[range]:
    """Ranges of at most `size` numbers that make up `range(stop)`."""
    return [range(start, min(start + size, stop)) for start in range(0, stop, size)]


def no_op_spec(place: Path, replicas: int = 1, **output: Any) -> JobSpec:
    """The job over `place/archive` that writes to `place/out`; `output` are further fields of that section."""
    return JobSpec.from_mapping(
        {
            "name": "no-op",
            "model": {"name": str(place / "model"), "dtype": "float32", "device": "cpu"},
            "source": {"name": "parquet", "uri": str(place / "archive")},
            "task": {"name": "summarize", "max_new_tokens": 1},
            "policy": {"name": "full"},
            "engine": {"max_sequences": 64},
            "cluster": {"replicas": replicas, "cpus_per_replica": 1, "look_ahead": 1024},
            "output": {"uri": str(place / "out"), **output},
        }
    )


def measured(call: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `call` returns in a process of its own, with its seconds and its MiB: of the imports, and at most."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, call, arguments).result()


def _measured(call: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    before, started = _peak_mib(), time.perf_counter()
    result = call(*arguments)
    seconds = time.perf_counter() - started
    return {**result, "seconds": round(seconds, 2), "mib_before": before, "mib_peak": _peak_mib()}


def _peak_mib() -> int:
    """The most this process has held, MiB; `getrusage` would count what the process that started it has."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) // 1024
