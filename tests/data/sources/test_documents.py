import pyarrow as pa
import pytest

from corm_batch.data.filesystem import write_whole
from corm_batch.data.readers.pdf import Pdf
from corm_batch.data.sources.base import Source
from corm_batch.data.sources.documents import DocumentsSource
from corm_batch.errors import FileError, SpecError
from tests.document_files import PICTURE, docx, pdf


def read_all(source, *columns):
    return [document for split in source.splits(columns) for document in source.read(split, columns)]


def test_a_folder_of_all_kinds(place):
    write_whole(f"{place}/lang=en/a.md", b"# A\n\ntext")
    write_whole(f"{place}/b.HTML", b"<title>B</title><p>One <i>page</i>")
    write_whole(f"{place}/c.pdf", pdf("first", PICTURE, "", "last", title="C"))
    write_whole(f"{place}/d.docx", docx(lambda document: document.add_paragraph("A paragraph.")))
    write_whole(f"{place}/notes.xyz", b"not a document")
    source = DocumentsSource(uri=place)
    found = {document.doc_id: document for document in read_all(source, "title", "pages", "page")}
    assert {name: document.text for name, document in found.items()} == {
        "b.HTML": "One *page*",
        "c.pdf": "[page 1]\nfirst\n\n[page 2: no text, but a picture]\n\n[page 3: no text]\n\n[page 4]\nlast",
        "d.docx": "A paragraph.",
        "lang=en/a.md": "# A\n\ntext",
    }
    assert found["c.pdf"].columns == {"title": "C", "pages": 4, "page": None}
    assert found["b.HTML"].columns == {"title": "B", "pages": None, "page": None}
    assert all(document.problem is None for document in found.values())
    (only,) = read_all(DocumentsSource(uri=f"{place}/lang=en/a.md"), "lang")
    assert (only.doc_id, dict(only.columns)) == ("a.md", {"lang": "en"})


def test_each_page_alone(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf("first", PICTURE, "", "last", title="A"))
    (tmp_path / "b.txt").write_text("text")
    source = Source.from_spec({"name": "documents", "uri": str(tmp_path), "pages": "apart"})
    first, second = source.splits(["page", "title"])
    assert first.kinds == {"page": pa.int64(), "title": pa.string()}
    assert (first.num_rows, second.num_rows) == (-1, -1)
    pages = list(source.read_carrying(first, ["page"], ["page", "title"]))
    assert [(page.doc_id, page.text, page.columns["page"]) for page in pages] == [
        *(("a.pdf#1", "first", 1), ("a.pdf#2", None, 2), ("a.pdf#3", None, 3), ("a.pdf#4", "last", 4)),
    ]
    assert pages[1].problem == f"{tmp_path}/a.pdf: page 2: no text, but pictures: it has been scanned"
    assert pages[2].problem == f"{tmp_path}/a.pdf: page 3: is empty: no text"
    assert (pages[3].carried, pages[3].origin) == ({"page": 4, "title": "A"}, f"{tmp_path}/a.pdf#3")
    (text,) = source.read(second, ["page"])
    assert (text.doc_id, text.text, text.columns) == ("b.txt", "text", {"page": None})


@pytest.mark.parametrize("pages", ["together", "apart"])
def test_files_that_cannot_be_read_are_documents_with_a_problem(pages, tmp_path):
    files = {
        "cut.pdf": pdf("some text")[:200],
        "empty.pdf": b"",
        "empty.txt": b"",
        "latin.txt": b"caf\xe9",
        "none.pdf": pdf(),
        "scan.pdf": pdf(PICTURE) if pages == "together" else b"",
        "scans.pdf": pdf(PICTURE, "") if pages == "together" else b"",
        "zip.docx": b"PK\x03\x04",
    }
    for name, content in {**files, "good.md": b"good"}.items():
        (tmp_path / name).write_bytes(content)
    documents = {document.doc_id: document for document in read_all(DocumentsSource(uri=str(tmp_path), pages=pages))}
    assert set(documents) == {*files, "good.md"}
    assert [name for name, document in documents.items() if document.problem is None] == ["good.md"]
    problems = {name: documents[name].problem.removeprefix(f"{tmp_path}/{name}: ") for name in files}
    assert problems["empty.txt"] == "is empty: no text"
    assert problems["none.pdf"] == "it has no pages"
    assert "cannot be read: 'utf-8' codec" in problems["latin.txt"]
    assert all(problems[name].startswith("cannot be read: ") for name in ("cut.pdf", "empty.pdf", "zip.docx"))
    if pages == "together":
        assert problems["scan.pdf"] == "no text, but pictures: it has been scanned"
        assert problems["scans.pdf"] == "no text on any of its 2 pages, but pictures: it has been scanned"


def test_what_cannot_be_is_said_before_work_starts(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(pdf("text"))
    source = DocumentsSource(uri=str(tmp_path))
    with pytest.raises(SpecError, match=r"there is no column 'url'; there are: title, page, pages"):
        source.splits(["url"])
    monkeypatch.setattr(Pdf, "needs", ("no_such_module",))
    with pytest.raises(SpecError, match=r"a\.pdf: needs no_such_module: pip install 'corm-batch\[documents\]'"):
        source.splits()
    (tmp_path / "odd").write_bytes(b"text")
    (split,) = DocumentsSource(uri=f"{tmp_path}/odd").splits()
    with pytest.raises(FileError, match=r"odd: nothing reads a file of that name; names end with \.docx"):
        next(source.read(split, ()))


def test_a_page_that_cannot_be_read_is_said(tmp_path):
    resources, broken = b"/Resources << /Font << /F 3 0 R >> >> /Contents 7 ", b"/Resources null /Contents 7 "
    (tmp_path / "a.pdf").write_bytes(pdf("first", "second", "third").replace(resources, broken))
    (tmp_path / "b.pdf").write_bytes(pdf("only").replace(b"/Resources <<", b"/Resources null /Other <<"))
    together = read_all(DocumentsSource(uri=str(tmp_path)))
    why = "it names no fonts and pictures, which it needs"
    assert together[0].text == f"[page 1]\nfirst\n\n[page 2: cannot be read: {why}]\n\n[page 3]\nthird"
    assert together[1].problem == f"{tmp_path}/b.pdf: cannot be read: {why}"
    apart = read_all(DocumentsSource(uri=str(tmp_path), pages="apart"))
    assert [page.text for page in apart] == ["first", None, "third", None]
    assert apart[1].problem == f"{tmp_path}/a.pdf: page 2: cannot be read: {why}"
    (tmp_path / "a.pdf").write_bytes(pdf("x", "").replace(b"/Resources <<", b"/Resources null /Other <<"))
    assert read_all(DocumentsSource(uri=str(tmp_path)))[0].problem == (
        f"{tmp_path}/a.pdf: no text on any of its 2 pages, and 1 cannot be read: page 1: {why}"
    )
