import datetime
import time

import pytest

from corm_batch.data.render import Renderer
from corm_batch.errors import DocumentError

NESTED = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}"
)


@pytest.fixture(scope="module")
def renderer():
    renderer = Renderer(limit_s=3.0)
    yield renderer
    renderer.close()


def test_values_of_any_kind_are_rendered(renderer):
    columns = {"n": 2, "day": datetime.date(2026, 1, 2), "list": ["a", "b"], "text": "é" * 100_000}
    text = renderer.render("{{ n }} {{ day }} {{ list | join('+') }} {{ text }}", columns)
    assert text == f"2 2026-01-02 a+b {columns['text']}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ '%1000000000d' % 1 }}", "MemoryError|characters|more than"),
        ("{{ '%*d' | format(10**9, 1) }}", "MemoryError|characters|more than"),
        ("{{ 'a' * 10**10 }}", "MemoryError|more than"),
        ("{{ 'a' | center(10**9) }}", "MemoryError|characters|more than"),
        ("{{ [0] * 10**9 }}", "MemoryError|more than"),
        ("{{ 'a' * 10**8 }}", "100,000,000 characters, of which there may be"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        (DOUBLING, "MemoryError|more than"),
        (NESTED, "more than 3 s or"),
    ],
    ids=range(9),
)
def test_a_template_has_bounds_of_time_and_memory(template, said, renderer):
    began = time.monotonic()
    with pytest.raises(DocumentError, match=f"the template cannot be rendered: .*({said})"):
        renderer.render(template, {"text": "a"})
    assert time.monotonic() - began < 20
    assert renderer.render("{{ text }}!", {"text": "next"}) == "next!"


def test_a_process_that_is_gone_is_started_again(renderer):
    assert renderer.render("{{ text }}", {"text": "a"}) == "a"
    renderer._process.kill()
    renderer._process.wait()
    assert renderer.render("{{ text }}", {"text": "b"}) == "b"


def test_the_start_of_the_process_is_no_time_of_a_template(monkeypatch, tmp_path):
    """On a busy machine it takes seconds to import what a template needs; no document is to fail for that."""
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(1.5)")
    monkeypatch.syspath_prepend(str(tmp_path))
    renderer = Renderer(limit_s=1.0)
    try:
        assert renderer.render("{{ a }}", {"a": 1}) == "1"
    finally:
        renderer.close()
