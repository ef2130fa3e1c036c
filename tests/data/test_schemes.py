import gzip
import http.server
import threading
from functools import partial

import fsspec.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import HfFileSystem

from corm_batch.data import patience
from corm_batch.data.filesystem import list_files, open_file, read_whole
from corm_batch.data.schemes import other_filesystem
from corm_batch.data.sources.base import Source
from corm_batch.errors import FileError, SourceError, SpecError
from tests.data.hub import hub
from tests.document_files import pdf


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The URL of `tmp_path`, served on loopback."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def memory():
    """A folder of fsspec's file system in memory."""
    fs = MemoryFileSystem()
    fs.mkdirs("/bucket/in", exist_ok=True)
    yield fs
    fs.rm("/bucket", recursive=True)


def test_a_place_that_does_not_answer_is_no_fault_of_the_spec():
    """Whoever has it tried again by its exit code is to try it again."""
    with pytest.raises(SourceError, match=r"ftp://127\.0\.0\.1:9/a\.csv: cannot be read: ConnectionRefusedError"):
        other_filesystem("ftp://127.0.0.1:9/a.csv")


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def test_any_scheme_of_fsspec_is_listed_and_read_like_a_disk(memory):
    memory.pipe("/bucket/in/year=2020/a.jsonl.gz", gzip.compress(b'{"doc_id": "a", "text": "one"}\n'))
    memory.pipe("/bucket/in/b.jsonl", b'{"text": "two"}\n{"text": 3}')
    memory.pipe("/bucket/in/_SUCCESS", b"")
    memory.pipe("/bucket/in/c.pdf", pdf("three"))
    uri = "memory://bucket/in"
    assert list_files(uri) == [f"{uri}/{name}" for name in ("b.jsonl", "c.pdf", "year=2020/a.jsonl.gz")]
    with open_file(f"{uri}/b.jsonl") as file:
        file.seek(9)
        assert file.read(5) == b'"two"'
    documents = read_all(Source.from_spec({"name": "jsonl", "uri": uri}))
    assert [document.text for document in documents] == ["two", None, "one"]
    assert [document.doc_id for document in documents][::2] == ["b.jsonl#0", "a"]
    (only,) = read_all(Source.from_spec({"name": "jsonl", "uri": "memory://bucket/in/year=*/*.jsonl.gz"}), "year")
    assert only.columns == {"year": "2020"}
    (page,) = read_all(Source.from_spec({"name": "documents", "uri": uri}))
    assert page.text == "[page 1]\nthree"
    source = Source.from_spec({"name": "jsonl", "uri": uri})
    assert not source.would_read("/bucket/in/x.jsonl")
    split = source.splits()[0]
    memory.rm("/bucket/in/b.jsonl")
    with pytest.raises(FileError, match=r"b\.jsonl: cannot be read"):
        list(source.read(split, ()))
    with pytest.raises(SourceError, match=r"no files .* found at memory://bucket/other"):
        Source.from_spec({"name": "jsonl", "uri": "memory://bucket/other"}).splits()


def test_files_keep_the_account_that_a_uri_names(memory, monkeypatch):
    """As `abfs://box@account/in`; paths of that file system do not hold it."""
    monkeypatch.setattr(
        MemoryFileSystem,
        "_strip_protocol",
        classmethod(lambda _, path: "/" + path.rpartition("account/")[2].strip("/")),
    )
    for name in ("a.jsonl", "year=2020/b.jsonl"):
        memory.pipe(f"/bucket/in/{name}", b'{"text": "one"}')
    for uri in ("memory://account/bucket/in", "memory://account/bucket/in/", "memory://account/bucket/in/**"):
        source = Source.from_spec({"name": "jsonl", "uri": uri})
        assert [split.uri for split in source.splits()] == [
            f"memory://account/bucket/in/{name}" for name in ("a.jsonl", "year=2020/b.jsonl")
        ]
        assert [one.doc_id for one in read_all(source)] == ["a.jsonl#0", "year=2020/b.jsonl#0"]


def test_a_store_that_goes_is_not_the_fault_of_its_files(memory, monkeypatch):
    """Whatever its errors are: those of Azure and Google are none of the system's."""
    memory.pipe("/bucket/in/a.jsonl", b'{"text": "one"}')
    source = Source.from_spec({"name": "jsonl", "uri": "memory://bucket/in"})
    (split,) = source.splits()

    def away(*_, **__):
        raise RuntimeError("Server is busy")

    monkeypatch.setattr(MemoryFileSystem, "_open", away)
    with pytest.raises(FileError, match=r"in/a\.jsonl: cannot be read: Server is busy"):
        list(source.read(split, ()))
    monkeypatch.setattr(MemoryFileSystem, "info", away)
    with pytest.raises(SourceError, match=r"in/: cannot be read: RuntimeError: Server is busy") as caught:
        list(source.read(split, ()))
    assert not isinstance(caught.value, FileError)


def test_a_file_on_the_web(web, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"doc_id": "a", "text": "one"}\n' * 3)
    assert [one.text for one in read_all(Source.from_spec({"name": "jsonl", "uri": f"{web}/a.jsonl"}))] == ["one"] * 3
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}'))
    (tmp_path / "c.md").write_bytes(b"# three")
    (packed,) = read_all(Source.from_spec({"name": "jsonl", "uri": f"{web}/b.jsonl.gz?download=true"}))
    (text,) = read_all(Source.from_spec({"name": "documents", "uri": f"{web}/c.md?download=true"}))
    assert (packed.text, text.text) == ("two", "# three")
    assert read_whole(f"{web}/a.jsonl").startswith(b'{"doc_id"')
    with pytest.raises(SourceError, match=r"no files .* found at http://127.*/b\.jsonl"):
        Source.from_spec({"name": "jsonl", "uri": f"{web}/b.jsonl"}).splits()


def test_a_store_that_does_not_answer_is_a_source_error(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/a\.jsonl: cannot be read: .*onnect"):
        list_files("http://127.0.0.1:9/a.jsonl")


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """The folder of hf://datasets/org/name, on loopback."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    (tmp_path / "hub/data/split=train").mkdir(parents=True)
    with hub(tmp_path / "hub") as url:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": url})
        yield tmp_path / "hub"
    HfFileSystem.clear_instance_cache()


def test_a_data_set_of_the_hub(data_set):
    (data_set / "README.md").write_bytes(b"# Not asked for")
    (data_set / "data/split=train/a.jsonl").write_bytes(b'{"text": "one"}\n')
    (data_set / "data/b.csv").write_bytes(b"text\ntwo\n")
    pq.write_table(pa.table({"text": ["three", "four", "five"]}), data_set / "data/c.parquet", row_group_size=2)
    uri = "hf://datasets/org/name/data"
    (one,) = read_all(Source.from_spec({"name": "jsonl", "uri": uri}), "split")
    assert (one.text, one.columns) == ("one", {"split": "train"})
    assert one.origin == f"{uri}/split=train/a.jsonl#0"
    (two,) = read_all(Source.from_spec({"name": "csv", "uri": f"{uri}/*.csv"}))
    assert two.text == "two"
    (two,) = read_all(Source.from_spec({"name": "csv", "uri": "hf://datasets/org/name@main/data/b.csv"}))
    assert two.text == "two"
    rows = read_all(Source.from_spec({"name": "parquet", "uri": "hf://datasets/org/name"}))
    assert [row.text for row in rows] == ["three", "four", "five"]
    (data_set / "data/b.csv").write_bytes(b"text\nlonger than it was\n")
    (data_set / "data/d.csv").write_bytes(b"text\nsix\n")
    rows = read_all(Source.from_spec({"name": "csv", "uri": f"{uri}/*.csv"}))
    assert [row.text for row in rows] == ["longer than it was", "six"]


def test_what_the_hub_does_not_have_is_said(data_set):
    with pytest.raises(SourceError, match=r"no files .* found at hf://datasets/org/name/other"):
        Source.from_spec({"name": "jsonl", "uri": "hf://datasets/org/name/other"}).splits()
    with pytest.raises(SourceError, match=r"hf://datasets/org/other: cannot be read: .*repository not found"):
        Source.from_spec({"name": "jsonl", "uri": "hf://datasets/org/other"}).splits()
    (data_set / "data/a.jsonl").write_bytes(b'{"text": "one"}\n')
    source = Source.from_spec({"name": "jsonl", "uri": "hf://datasets/org/name/data"})
    (split,) = source.splits()
    (data_set / "data/a.jsonl").unlink()
    with pytest.raises(FileError, match=r"a\.jsonl: cannot be read"):
        list(source.read(split, ()))


def test_the_hub_offline_is_said_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    with pytest.raises(SourceError, match=r"hf://datasets/org/gone/data: cannot be read: .*offline mode is enabled"):
        Source.from_spec({"name": "jsonl", "uri": "hf://datasets/org/gone/data"}).splits()


def test_what_is_not_installed_is_said(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("corm_batch.data.schemes.url_to_fs", missing)
    with pytest.raises(SpecError, match=r"gs:// cannot be read here: Please .*: pip install 'corm-batch\[gcs\]'"):
        other_filesystem("gs://bucket/x")


@pytest.mark.parametrize("uri", ["gs://bucket/in", "az://box/in/*.csv", "https://h.org/a.jsonl", "hf://datasets/o/n"])
def test_sources_take_schemes_that_outputs_do_not(uri):
    assert Source.from_spec({"name": "csv", "uri": uri}).uri == uri
    with pytest.raises(SpecError, match=r"source\.uri: expected a local path or an s3:// URI, or to read from gs://"):
        Source.from_spec({"name": "csv", "uri": "nonesuch://bucket"})
    with pytest.raises(SpecError, match=r"source\.uri: credentials in a URI"):
        Source.from_spec({"name": "csv", "uri": "https://user:pw@h.org/a.csv"})
