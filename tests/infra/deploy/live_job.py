"""A job on a cluster of its own, scraped as Prometheus would: prints the metrics page of the driver's node.

    python -m tests.infra.deploy.live_job FOLDER PORT

Every metric is made to move: a document is refused, one kills its replica, the engine says that it preempts, all that
is answered is verified.
"""

import dataclasses
import re
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.telemetry import METRICS, RUNNING
from corm_batch.pipeline.worker import Model
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

JOB = "live-job"
EMPTY = {"null": None}
DOCUMENTS = {f"d{index}": f"Document {index}. " * (index + 1) for index in range(8)}
HOSTILE = {"refused": "@error", "killer": "@kill"}


class BusyEngine(ScriptedEngine):
    """Says what an engine under pressure would say of each document."""

    def step(self):
        busy = {"preemptions": 1, "queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.0}
        return [dataclasses.replace(one, memory=dataclasses.replace(one.memory, **busy)) for one in super().step()]


def load():
    """What a replica loads."""
    tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role="document")
    engine = BusyEngine(tokenizer.decode)
    return Model(engine, tokenizer, pool_tokens=8)  # few at a time: what is beside the killer is not verified


def job(folder, documents):
    """The spec, over `documents` in `folder`."""
    table = {"doc_id": list(documents), "text": list(documents.values())}
    schema = pa.schema({"doc_id": pa.string(), "text": pa.string()})
    pq.write_table(pa.table(table, schema=schema), folder / "documents.parquet")
    return JobSpec.from_mapping(
        {
            "name": JOB,
            "model": {"name": MODEL, "dtype": "float32", "document_role": "document"},
            "source": {"name": "parquet", "uri": str(folder / "documents.parquet")},
            "task": {"name": "summarize", "max_new_tokens": 4},
            "verify": {"share": 1},
            "output": {"uri": str(folder / "out"), "part_documents": 4},
        }
    )


def scrape(port):
    """The metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return page.read().decode()


def is_complete(page):
    """Whether what the job said last has arrived."""
    ended = re.search(rf"^{RUNNING.exported[0]}\{{.*\}} 0\.0$", page, re.MULTILINE)
    return ended and all(metric.exported[0] in page for metric in METRICS)


def main(folder, port):
    """Run a job of which one document is done already; print the page once it is complete."""
    run_job(job(folder, EMPTY))  # its failed row needs no cluster
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        num_cpus=2,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    run_job(job(folder, EMPTY | DOCUMENTS | HOSTILE), load_model=partial(load))
    deadline, page = time.monotonic() + 30, ""
    while time.monotonic() < deadline and not is_complete(page):
        time.sleep(1.0)
        page = scrape(port)
    sys.stdout.write(page)
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
