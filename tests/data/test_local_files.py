import os

import pytest

from corm_batch.data.filesystem import list_files, open_file
from corm_batch.data.local_files import local_files


@pytest.fixture
def tree(tmp_path):
    for name in ("in/a.jsonl", "in/sub/b.jsonl", "elsewhere/c.jsonl", "elsewhere/deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def found(tree, uri="in"):
    return [name.removeprefix(f"{tree}/") for name in list_files(f"{tree}/{uri}", (".jsonl",))]


def test_links_are_followed_and_loops_end(tree):
    (tree / "in/link.jsonl").symlink_to(tree / "elsewhere/c.jsonl")
    (tree / "in/more").symlink_to(tree / "elsewhere/deep")
    (tree / "in/sub/up").symlink_to(tree / "in")
    (tree / "in/sub/self").symlink_to(tree / "in/sub")
    (tree / "in/sub/again").symlink_to(tree / "elsewhere/deep")
    assert found(tree) == ["in/a.jsonl", "in/link.jsonl", "in/more/d.jsonl", "in/sub/b.jsonl"]
    (tree / "way").symlink_to(tree / "in")
    assert found(tree, "way/*.jsonl") == ["way/a.jsonl", "way/link.jsonl"]


def test_a_link_to_nothing_is_listed_and_a_pipe_is_not(tree):
    (tree / "in/gone.jsonl").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "in/pipe.jsonl")
    assert found(tree) == ["in/a.jsonl", "in/gone.jsonl", "in/sub/b.jsonl"]
    assert found(tree, "in/*.jsonl") == ["in/a.jsonl", "in/gone.jsonl"]


def test_a_folder_that_cannot_be_listed_is_named_and_says_why(tree, monkeypatch):
    """Permissions do not bind the superuser, as whom tests may run."""
    scandir, listdir = os.scandir, os.listdir

    def closed(call):
        def guarded(path):
            if str(path) == f"{tree}/{place}":
                raise PermissionError(13, "Permission denied", str(path))
            return call(path)

        return guarded

    place = "in/sub"
    monkeypatch.setattr(os, "scandir", closed(scandir))
    monkeypatch.setattr(os, "listdir", closed(listdir))
    assert found(tree) == ["in/a.jsonl", "in/sub"]
    with pytest.raises(PermissionError, match="Permission denied"):
        open_file(f"{tree}/in/sub")
    place = "in"
    with pytest.raises(PermissionError):
        local_files(f"{tree}/in")


def test_a_folder_of_links_like_those_of_a_model_hub_is_no_empty_one(tree):
    (tree / "snapshot").mkdir()
    (tree / "snapshot/x.jsonl").symlink_to("../elsewhere/c.jsonl")
    assert found(tree, "snapshot") == ["snapshot/x.jsonl"]
