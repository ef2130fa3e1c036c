"""The page in headless Chromium: drawn in light and dark, nothing refused or fetched, tables sorted by a click."""

import re
import shutil
import struct
import subprocess
import zlib

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")
DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture
def browse(tmp_path):
    """Call with the page and what to do; returns what Chromium printed and what it logged."""

    def call(content, *options):
        path = tmp_path / "report.html"
        path.write_text(content, encoding="utf-8")
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [BROWSER, *flags, profile, "--window-size=1250,1600", *options, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return call


def pixels(path):
    """The colours of a PNG of 8-bit RGB or RGBA, row by row unfiltered far enough to count what is drawn."""
    data, place, packed = path.read_bytes(), 8, b""
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        packed += data[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += 12 + length
    return struct.unpack(">II", data[16:24]), zlib.decompress(packed)


def test_it_is_drawn_in_light_and_in_dark(browse, render, hostile, tmp_path):
    content = render(*hostile)[0]
    shown = {}
    for name, options in (("light", ()), ("dark", (DARK,))):
        result = browse(content, *options, f"--screenshot={tmp_path / name}.png")
        assert "CONSOLE" not in result.stderr, "the browser refused or missed something"
        shown[name] = pixels(tmp_path / f"{name}.png")
    assert shown["light"][0] == (1250, 1600)
    assert shown["light"][1] != shown["dark"][1]
    # the first row is the page's background: white in light, and black but for a few bits in dark
    assert sum(shown["light"][1][1:4]) > 3 * 240
    assert sum(shown["dark"][1][1:4]) < 3 * 40


def test_no_text_of_a_document_runs(browse, render, hostile):
    page = browse(render(*hostile)[0], "--dump-dom").stdout
    assert "<title>corm-batch report: " in page
    assert "taken</title>" not in page
    assert not re.search(r"<(img|iframe)\b", page)


@pytest.mark.parametrize(("clicks", "first"), [(1, "1,049"), (2, "1,000")])
def test_a_click_sorts_a_table(browse, render, hostile, clicks, first):
    click = "document.querySelectorAll('#memory th button')[1].click();" * clicks
    content = re.sub("<meta http-equiv[^>]*>", "", render(*hostile)[0])  # which would rightly refuse our script
    page = browse(content.replace("</body>", f"<script>{click}</script></body>"), "--dump-dom").stdout
    memory = page.partition('<section id="memory">')[2]
    assert re.search(r"<tbody>.*?<td[^>]*>([\d,]+)</td>", memory, re.DOTALL)[1] == first
    assert f'aria-sort="{"descending" if clicks == 1 else "ascending"}"' in memory
