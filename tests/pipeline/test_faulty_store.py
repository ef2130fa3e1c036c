"""A whole job on S3 while its connection misbehaves: the rows are those of an undisturbed run."""

import os
import random
import shutil
import subprocess
import sys
import time

import pyarrow as pa
import pytest
import ray

from corm_batch.data import patience
from corm_batch.data.filesystem import list_files, write_whole
from corm_batch.data.parts import encode_part, list_parts, read_part
from corm_batch.errors import OutputError
from corm_batch.output import lease
from corm_batch.output.lease import Lease
from corm_batch.pipeline.driver import run_job
from tests.conftest import ROOT
from tests.data.conftest import moto_client as s3_client  # noqa: F401
from tests.fakes import MODEL, scripted
from tests.until import until

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
        for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
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
    request,
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
    request.getfixturevalue("without_a_cluster")
    run("disk", f"{tmp_path}/out")
    rows, num_parts = committed(f"{bucket}/out", archive["s3"])
    assert rows == committed(f"{tmp_path}/out", archive["disk"])[0]
    assert len({row["doc_id"] for row in rows}) == len(rows) == 120
    assert num_parts == len(list_parts(f"{bucket}/out/memory")) == len(commits) >= 20
    assert len(list_files(f"{bucket}/out/_job/runs/", (".json",))) == 1
    assert proxy.faults["away"] >= 3
    assert proxy.faults.total() - proxy.faults["away"] >= (proxy.requests - proxy.faults["away"]) // 40
    shutil.rmtree(tmp_path / "cache")
    with Lease(f"{bucket}/out"):
        pass
    assert run("s3", f"{bucket}/out").skipped == 120


@pytest.mark.s3
def test_error_of_a_store_that_is_away_is_told_without_asking_it_again(bucket, proxy, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 2.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.1)

    def fail():
        with Lease(f"{bucket}/out"):
            proxy.away_for(60)
            write_whole(f"{bucket}/out/part", b"rows")

    started = time.monotonic()
    with pytest.raises(OutputError, match="cannot be written"):
        fail()
    assert time.monotonic() - started < 3.9


DRIVER = """
import sys
from corm_batch.pipeline.driver import run_job
from corm_batch.spec import JobSpec
from tests.fakes import scripted
run_job(JobSpec.load(sys.argv[1]), load_model=scripted(step_s=0.1))
"""


@pytest.mark.ray
@pytest.mark.s3
def test_told_to_stop_while_the_store_is_away(job, ray_cluster, bucket, proxy, tmp_path, caplog, request):
    """SIGTERM, and SIGKILL three seconds later: the log tells of the store, and a rerun goes on at once."""
    documents = {f"d{index}": f"Document {index} is about the number {index}." for index in range(30)}
    spec = job(documents, output={"uri": f"{bucket}/out", "part_documents": 2}, cluster={"token_budget": 60})
    (tmp_path / "job.yaml").write_text(spec.to_yaml())
    log = tmp_path / "log"
    environment = {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with log.open("w") as file:
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "job.yaml")]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        until(lambda: list_parts(f"{bucket}/out/results"), 120)
        proxy.away_for(600)
        until(lambda: "the store does not answer, tried again for 8" in log.read_text(), 60)
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    proxy.away_for(0)
    before = sum(read_part(uri).num_rows for uri in list_parts(f"{bucket}/out/results"))
    assert 0 < before < len(documents)
    request.getfixturevalue("without_a_cluster")
    summary = run_job(spec, load_model=scripted())
    assert (summary.ok, summary.skipped) == (len(documents) - before, before)
    assert [row["doc_id"] for row in committed(f"{bucket}/out", "")[0]] == sorted(documents)
    assert "Waiting" not in caplog.text
