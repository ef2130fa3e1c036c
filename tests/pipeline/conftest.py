import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.pipeline.rows import RowBuilder
from corm_batch.spec import JobSpec
from tests.data.conftest import bucket, place, proxy, s3_client  # noqa: F401
from tests.fakes import MODEL

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for all tests of this folder; a job finds it and leaves it as it is."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # actors import tests.fakes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
            num_cpus=max(4, os.cpu_count() or 1),
        )
    yield
    ray.shutdown()


@pytest.fixture
def job(tmp_path):
    """Makes a spec over a Parquet file with the given documents."""

    def make(documents, **sections):
        source = tmp_path / "documents.parquet"
        write_documents(source, documents)
        data = {
            "name": "job",
            "model": {"name": MODEL, "dtype": "float32", "document_role": "document"},
            "source": {"name": "parquet", "uri": str(source)},
            "task": {"name": "summarize", "max_new_tokens": 8},
            "policy": {"name": "full"},
            "engine": {"kv_memory": "64MiB"},
            "output": {"uri": str(tmp_path / "out")},
        }
        for name, fields in sections.items():
            data[name] = {**data.get(name, {}), **fields}
        return JobSpec.from_mapping(data)

    return make


def write_documents(path, documents):
    """`documents`: id to text, or pairs when an id comes twice."""
    pairs = list(documents.items() if isinstance(documents, dict) else documents)
    table = {"doc_id": [pair[0] for pair in pairs], "text": [pair[1] for pair in pairs]}
    pq.write_table(pa.table(table, schema=pa.schema({"doc_id": pa.string(), "text": pa.string()})), path)


@pytest.fixture
def rows():
    from corm_batch.data.schema import column, memory_schema, result_schema

    own = column("score", pa.int64(), "the task's own")
    return RowBuilder("run-1", "print-1", result_schema([own], {}), memory_schema({}), {"policy": "{}"})
