import os

import pytest

from corm_batch.data.filesystem import list_files, write_whole
from corm_batch.data.listing import would_list


@pytest.mark.parametrize(
    ("source", "output", "found"),
    [
        ("s3://b/data", "s3://b/data/answers", True),
        ("s3://b/data/", "s3://b//data/answers", True),
        ("s3://b/data", "s3://b/data", True),
        ("s3://b", "s3://b/answers", True),
        ("s3://b/data/answers/results", "s3://b/data/answers", True),
        ("s3://b/data", "s3://b/data2", False),
        ("s3://b/data/in", "s3://b/data", False),
        ("s3://b/data", "s3://other/data/x", False),
        ("s3://b/data/*.parquet", "s3://b/data/answers", False),
        ("s3://b/data/**", "s3://b/data/answers", True),
        ("s3://b/*/results/*.parquet", "s3://b/data", True),
        ("s3://b/data", "s3://b/data/_answers", False),
        ("s3://b/data", "/b/data/answers", False),
    ],
)
def test_whether_a_file_would_be_listed(source, output, found, tmp_path):
    file = f"{output}/results/part.parquet"
    assert would_list(source, (".parquet",), file) is found
    assert not would_list(source, (".jsonl",), file)
    if source.startswith("s3://") and output.startswith("s3://"):
        here = [uri.replace("s3://", f"{tmp_path}/") for uri in (source, file)]
        assert would_list(here[0], (".parquet",), here[1]) is found
        write_whole(here[1], b"x")
        assert (os.path.normpath(here[1]) in list_files(here[0], (".parquet",))) is found


def test_links_lead_to_the_same_place(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "data")
    for source, output in (("way", "data/answers"), ("data", "way/answers"), ("way/*/*/*.parquet", "data/answers")):
        assert would_list(f"{tmp_path}/{source}", (".parquet",), f"{tmp_path}/{output}/results/part.parquet")


def test_lock_files_of_open_documents_are_no_documents(tmp_path):
    for name in ("~$report.docx", "~report.docx", "$report.docx"):
        write_whole(f"{tmp_path}/{name}", b"x")
    assert [uri.rpartition("/")[2] for uri in list_files(str(tmp_path), (".docx",))] == ["$report.docx", "~report.docx"]
