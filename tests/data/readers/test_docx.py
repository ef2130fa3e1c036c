from docx.enum.text import WD_BREAK

from corm_batch.data.readers.docx import Docx
from tests.document_files import docx


def test_headings_paragraphs_and_tables_in_their_order():
    def fill(document):
        document.add_heading("Head", 1)
        paragraph = document.add_paragraph("One ")
        paragraph.add_run("bold").bold = True
        paragraph.add_run("\tword.\nLine")
        table = document.add_table(2, 2)
        for cell, text in zip((cell for row in table.rows for cell in row.cells), "xy12", strict=True):
            cell.text = text
        table.add_row().cells[0].merge(table.rows[2].cells[1]).text = "both\ncells"
        document.add_paragraph("")
        document.add_paragraph("Caf\u00e9.")

    found = Docx().read(docx(fill, title="A title"))
    assert (found.title, found.is_paged, len(found.pages)) == ("A title", False, 1)
    assert found.pages[0].text.split("\n\n") == [
        "# Head",
        "One bold\tword.\nLine",
        "x | y\n1 | 2\nboth cells",
        "Caf\u00e9.",
    ]


def test_pages_end_where_the_file_says_so():
    def fill(document):
        document.add_paragraph("First.")
        paragraph = document.add_paragraph("Still first. ")
        paragraph.add_run().add_break(WD_BREAK.PAGE)
        paragraph.add_run("Second.")
        document.add_page_break()
        document.add_paragraph("Third.")

    found = Docx().read(docx(fill))
    assert found.is_paged
    assert [page.text for page in found.pages] == ["First.\n\nStill first.", "Second.", "Third."]
    assert (Docx().read(docx(lambda document: None)).pages[0].text, found.title) == ("", None)
