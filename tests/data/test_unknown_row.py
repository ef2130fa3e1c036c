"""Templates that fail for every row are found; one that suits some row never is."""

import re

import pytest

from corm_batch.data.template import render
from corm_batch.data.unknown_row import problem_with_every_row

LIMIT = 100_000


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ text }}{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ year + 1 }} {{ text.strip()[:9] }} {{ meta.a['b'] | upper | default('x') }}{{ 1 / 0 }}", "ZeroDivision"),
        ("{{ text }}{{ 'a' * 200000 }}", "200,001 characters|200,000 characters, of which there may be 100,000"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{{ ''.__class__ }}", "SecurityError"),
        ("{% include 'other' %}", "no loader"),
        ("{{ none }}", "null"),
        ("{% if 1 > 2 %}{{ text }}{% else %}{{ [].pop() }}{% endif %}", "IndexError|SecurityError"),
    ],
)
def test_what_fails_whatever_the_row_holds(template, said):
    assert re.search(said, problem_with_every_row(template, LIMIT))


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("{% if year %}{{ 1 / 0 }}{% endif %}", {"year": 0}),
        ("{{ 1 / 0 if year is none }}", {"year": 1}),
        ("{{ 1 / 0 if year is not string }}", {"year": "1"}),
        ("{% for part in parts %}{{ 1 / 0 }}{% endfor %}", {"parts": []}),
        ("{% for key, value in d | items %}{{ key }}{% endfor %}{{ d | tojson }}", {"d": {"a": 1}}),
        ("{{ '%d' % year }}{{ '%.1f' | format(year) }}{{ year | round(1) }}{{ range(year) | list }}", {"year": 3}),
        ("{{ ','.join(parts) }}{{ parts | map(attribute='x') | join }}", {"parts": []}),
        ("{{ ','.join([text]) }}{{ 'abc'.replace('a', text) }}{{ text in 'abc' }}", {"text": "a"}),
        ("{{ {'a': text} | tojson }}{{ [text] | join }}{{ dict(a=text).a }}", {"text": "a"}),
        ("{% set x %}{{ text }}{% endset %}{% if not x %}{{ 1 / 0 }}{% endif %}", {"text": "a"}),
        ("{% macro m(t) %}{{ t }}{% endmacro %}{{ 1 / (m(text) | length) }}", {"text": "a"}),
        ("{% filter upper %}{{ text }}{% endfilter %}", {"text": "a"}),
        ("{{ title or text }}{{ title | default('', true) }}{{ text | length > 5 }}", {"title": None, "text": "a"}),
        ("{{ row['a-b'] }}{{ -year }}{{ 2 ** year }}", {"row": {"a-b": 1}, "year": 2}),
    ],
)
def test_what_suits_a_row_is_let_through(template, row):
    assert render(template, row, LIMIT)[0], render(template, row, LIMIT)
    assert problem_with_every_row(template, LIMIT) is None
