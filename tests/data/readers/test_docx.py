import pytest
from docx.enum.text import WD_BREAK
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

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


SPACES = " ".join(
    [
        nsdecls("w"),
        'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"',
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"',
    ]
)
BREAK = "<w:r><w:lastRenderedPageBreak/></w:r>"


def run(text, properties=""):
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def raised(text, how):
    return run(text, f'<w:vertAlign w:val="{how}"/>')


def paragraph(*inner):
    return f"<w:p>{''.join(inner)}</w:p>"


def table(*rows):
    """A table of rows of cells, each the XML in it, or a row of other XML."""
    made = (
        row if isinstance(row, str) else f"<w:tr>{''.join(f'<w:tc>{cell}</w:tc>' for cell in row)}</w:tr>"
        for row in rows
    )
    return f"<w:tbl>{''.join(made)}</w:tbl>"


def wrapped(inner):
    return f"<w:sdt><w:sdtPr><w:tag/></w:sdtPr><w:sdtContent>{inner}</w:sdtContent></w:sdt>"


def pages_of(*blocks):
    def fill(document):
        for block in parse_xml(f"<w:body {SPACES}>{''.join(blocks)}</w:body>"):
            document.element.body.insert(len(document.element.body) - 1, block)

    return [page.text for page in Docx().read(docx(fill)).pages]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (paragraph(run("Price: "), f'<w:ins w:id="1">{run("500 EUR")}</w:ins>'), "Price: 500 EUR"),
        (paragraph(run("a"), "<w:del><w:r><w:delText>400</w:delText></w:r></w:del>", run("b")), "ab"),
        (paragraph(f"<w:moveTo>{run('moved')}</w:moveTo><w:moveFrom>{run('old')}</w:moveFrom>"), "moved"),
        (paragraph(run("Name: "), wrapped(run("Alice"))), "Name: Alice"),
        (wrapped(paragraph(run("a section")) + wrapped(paragraph(run("in two")))), "a section\n\nin two"),
        (wrapped(table([paragraph(run("x")), paragraph(run("y"))])), "x | y"),
        (table([wrapped(paragraph(run("77"))), paragraph(f"<w:ins>{run('99')}</w:ins>")]), "77 | 99"),
        (table([paragraph(run("head"))], wrapped(f"<w:tr><w:tc>{paragraph(run('row'))}</w:tc></w:tr>")), "head\nrow"),
        (
            table([paragraph(run("gone"))]).replace("<w:tr>", "<w:tr><w:trPr><w:del/></w:trPr>")
            + paragraph(run("kept")),
            "kept",
        ),
        (
            table([paragraph(run("outer")), table([paragraph(run("a")), paragraph(run("b"))], [paragraph(run("c"))])]),
            "outer | a | b; c",
        ),
        (paragraph(run("on "), f'<w:fldSimple w:instr="DATE">{run("2020-01-01")}</w:fldSimple>'), "on 2020-01-01"),
        (paragraph(run("in "), f"<w:smartTag><w:customXml>{run('Paris')}</w:customXml></w:smartTag>"), "in Paris"),
        (
            paragraph(
                "<w:r><mc:AlternateContent>",
                *(
                    f"<mc:{kind}><w:pict><w:txbxContent>{paragraph(run('boxed'))}</w:txbxContent></w:pict></mc:{kind}>"
                    for kind in ("Choice", "Fallback")
                ),
                "</mc:AlternateContent></w:r>",
            ),
            "boxed",
        ),
        (paragraph(run("10"), raised("1", "superscript"), raised("2", "superscript"), run(" m")), "10^12^ m"),
        (paragraph(run("H"), raised("2", "subscript"), run("O")), "H~2~O"),
        (
            paragraph(
                "<m:oMath><m:f><m:num><m:r><m:t>a+1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f>",
                "<m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>3</m:t></m:r></m:sup></m:sSup></m:oMath>",
            ),
            "(a+1)/2x^3",
        ),
    ],
)
def test_what_wraps_text_does_not_hide_it(block, text):
    assert pages_of(paragraph(run("before")), block, paragraph(run("after"))) == [f"before\n\n{text}\n\nafter"]


def test_cells_that_go_on_below_say_the_same():
    def cell(text, merge):
        return f"<w:tcPr>{merge}</w:tcPr>{paragraph(run(text))}"

    wide, narrow = '<w:gridSpan w:val="2"/>', ""
    rows = [
        [cell("both", wide), cell("2020", '<w:vMerge w:val="restart"/>')],
        [cell("a", narrow), cell("b", narrow), cell("", "<w:vMerge/>")],
        [cell("c", narrow), cell("d", narrow), cell("", '<w:vMerge w:val="continue"/>')],
    ]
    assert pages_of(table(*rows)) == ["both | 2020\na | b | 2020\nc | d | 2020"]


def test_a_row_over_two_pages_ends_one_page():
    over = [paragraph(run(f"{name} top "), BREAK, run(f"{name} bottom")) for name in "xy"]
    longer = [paragraph(run("long"), BREAK, run("er"), BREAK, run("still")), paragraph(run("short"))]
    following = [paragraph(BREAK, run("third")), paragraph(run("page"))]
    assert pages_of(table([paragraph(run("a"))], over, [paragraph(run("b"))]), paragraph(run("second"))) == [
        *("a\nx top x bottom | y top y bottom", "b\n\nsecond"),
    ]
    assert pages_of(table(longer), paragraph(run("third"))) == ["long er still | short", "", "third"]
    assert pages_of(table([paragraph(run("a"))], following)) == ["a", "third | page"]


def test_a_heading_over_two_pages_is_marked_on_both():
    style = '<w:pPr><w:pStyle w:val="Heading2"/></w:pPr>'
    block = paragraph(style, BREAK, run("One"), f"<w:ins>{BREAK}{run('two')}</w:ins>")
    assert pages_of(paragraph(run("x")), wrapped(block)) == ["x", "## One", "## two"]
