"""A whole job on S3 while its connection misbehaves: the rows are those of an undisturbed run."""

import os
import random
import shutil

import pyarrow as pa
import pytest

from corm_batch.data.filesystem import list_files, write_whole
from corm_batch.pipeline import lease
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.lease import Lease
from corm_batch.pipeline.parts import encode_part, list_parts, read_part
from tests.fakes import MODEL, scripted

COMPARED = [
    "doc_id",
    "content_sha256",
    "fingerprint",
    "status",
    "output",
    "error_type",
    "error_message",
    "finish_reason",
]


def committed(output, source):
    """Every row of every part in the order of the ids, and the number of parts."""
    parts = [read_part(uri, COMPARED) for uri in list_parts(f"{output}/results")]
    rows = pa.concat_tables(parts).sort_by("doc_id").to_pylist()
    for row in rows:
        row["error_message"] = row["error_message"] and row["error_message"].replace(source, "")
    return rows, len(parts)


@pytest.fixture
def archive(bucket, tmp_path):
    """The source and the model, on S3 and on the disk: where each of the two is, by name."""
    places = {"s3": f"{bucket}/archive", "disk": f"{tmp_path}/archive"}
    weights = random.randbytes(200_000)
    for place in places.values():
        for file in range(6):
            ids = [f"d{file}-{row:02d}" for row in range(20)]
            texts = [None if row == 7 else f"Document {name} has text. " * 9 for row, name in enumerate(ids)]
            content = encode_part(pa.table({"doc_id": ids, "text": texts}), "parquet")
            write_whole(f"{place}/documents/{file}.parquet", content)
        for name in ("config.json", "tokenizer.json"):
            with open(os.path.join(MODEL, name), "rb") as content:
                write_whole(f"{place}/model/{name}", content.read())
        write_whole(f"{place}/model/model.safetensors", weights)
    return places


@pytest.mark.ray
@pytest.mark.s3
def test_rows_are_the_same_with_one_request_in_twenty_failing(
    job,
    ray_cluster,
    archive,
    bucket,
    proxy,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "RENEW_S", 0.5)

    def run(place, output, on_event=None):
        return run_job(
            job(
                {},
                model={"name": f"{archive[place]}/model"},
                source={"uri": f"{archive[place]}/documents"},
                output={"uri": output, "part_documents": 5},
            ),
            load_model=scripted(),
            on_event=on_event,
        )

    commits = []

    def away_once(event):
        if event.kind == "commit":
            commits.append(event)
            if len(commits) == 3:
                proxy.away_for(3.0)

    proxy.rate = 0.05
    summary = run("s3", f"{bucket}/out", away_once)
    proxy.rate = 0.0
    assert (summary.ok, summary.failed, summary.skipped) == (114, 6, 0)
    run("disk", f"{tmp_path}/out")
    rows, num_parts = committed(f"{bucket}/out", archive["s3"])
    assert rows == committed(f"{tmp_path}/out", archive["disk"])[0]
    assert len({row["doc_id"] for row in rows}) == len(rows) == 120
    assert num_parts == len(list_parts(f"{bucket}/out/memory")) == len(commits) >= 20
    assert len(list_files(f"{bucket}/out/_job/runs/", (".json",))) == 1
    assert proxy.faults["away"] >= 3
    assert proxy.faults.total() - proxy.faults["away"] >= proxy.requests // 40
    shutil.rmtree(tmp_path / "cache")
    with Lease(f"{bucket}/out"):
        pass
    assert run("s3", f"{bucket}/out").skipped == 120
