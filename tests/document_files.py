"""Files of people's kinds, made here: PDF by hand, DOCX with its library."""

import io

PICTURE = object()
"""A page with nothing but a picture."""


def pdf(*pages, title=None):
    """A PDF of these pages: a text, of several lines perhaps, "" or PICTURE."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    picture = 4 + 2 * len(pages)
    for number, page in enumerate(pages):
        shown = "/Im Do" if page is PICTURE else _text_of(page)
        resources = f"/XObject << /Im {picture} 0 R >>" if page is PICTURE else "/Font << /F 3 0 R >>"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << {resources} >> "
            f"/Contents {5 + 2 * number} 0 R >>".encode(),
            f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream".encode("latin-1"),
        ]
    image = "/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1"
    objects.append(f"<< {image} >>\nstream\n0\nendstream".encode())
    objects.append(f"<< /Title ({title or ''}) >>".encode())
    file, places = io.BytesIO(), []
    file.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        places.append(file.tell())
        file.write(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
    start = file.tell()
    file.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    file.writelines(f"{place:010d} 00000 n \n".encode() for place in places)
    file.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n".encode())
    file.write(f"startxref\n{start}\n%%EOF\n".encode())
    return file.getvalue()


def _text_of(page):
    lines = " ".join(f"({line}) Tj T*" for line in page.split("\n") if line)
    return f"BT /F 12 Tf 14 TL 72 720 Td {lines} ET"


def docx(fill, title=""):
    """A DOCX that `fill` has put something into."""
    from docx import Document

    document = Document()
    document.core_properties.title = title
    fill(document)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()
