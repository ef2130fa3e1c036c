"""Quotations: looked up as they stand in the document, whatever the blanks."""

import pytest

from corm_batch.tasks.evidence import evidence, evidence_columns, find_quote, with_quotes

TEXT = "Am (1)  ä\u00a0b\nof [it]. of [it]."


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("(1) ä b", range(3, 11)),
        ("of\n[it].", range(12, 20)),
        (" (1)\t", range(3, 6)),
        ("of it", None),
        ("am (1)", None),
    ],
)
def test_quotations_stand_where_they_first_do(quote, found):
    assert find_quote(quote, TEXT) == found


@pytest.mark.parametrize(
    ("quote", "text", "found"),
    [
        ("12", "code 3124, then 12 men", range(16, 18)),
        ("12", "code 3124 and 129", None),
        ("5", "1.5 of 2,5 or 5", range(14, 15)),
        ("1", "1.5 of 1", range(7, 8)),
        ("1", "1.5 of 1,234 and 0.1", None),
        ("1.5", "1.5e3 or 21.5", None),
        ("250", "1\u00a0250 and 1'250", None),
        ("5 °C", "from −5 °C to -5 °C", None),
        ("3-5", "pages 3-5", range(6, 9)),
        ("5", "pages 3-5", range(8, 9)),
        (".5", "1.5 or .5", range(7, 9)),
        ("5", "1.5 or .5", None),
        ("1", "version 1.5.2", range(8, 9)),
        ("2020", "12.05.2020", range(6, 10)),
        ("costs 1", "costs 1.5, or costs 1.", range(14, 21)),
        ("2", "pages 1,2,3", range(8, 9)),
        ("5.", "In 15. of 5.", range(10, 12)),
        ("1 1", "21 1 1", range(3, 6)),
        ("art", "a party of art", range(11, 14)),
        ("北京", "他在北京工作", range(2, 4)),
        ("tower of Lo", "the tower of London", range(4, 15)),
    ],
)
def test_quotations_are_words_and_numbers_of_their_own(quote, text, found):
    assert find_quote(quote, text) == found


def test_columns_and_why_there_are_none():
    columns, failed = evidence({"a": "of [it].", "b": None, "c": " ", "d": "no"}, TEXT)
    assert columns == {"a_quote": "of [it].", "a_quote_start": 12, "a_quote_end": 20, "a_quote_page": None}
    assert failed == {
        "b_quote": "no quotation was given",
        "c_quote": "no quotation was given",
        "d_quote": "'no' does not stand in the document",
    }
    names = ["a_quote", "a_quote_start", "a_quote_end", "a_quote_page"]
    assert [field.name for field in evidence_columns(["a"])] == names


def test_a_quotation_names_its_page():
    text = "[page 1]\nAda, as [page 9] says.\n\n[page 2: no text]\n\n[page 3]\nBob was\n\n[page 4]\nborn."
    columns, _ = evidence({"a": "as [page 9]", "b": "Bob", "c": "Bob was [page 4] born", "d": "born."}, text)
    assert [columns[f"{name}_quote_page"] for name in "abcd"] == [1, 3, 3, 4]


def test_schemas_ask_for_a_quotation_before_each_field():
    asked = with_quotes(
        {"$defs": {"A": {"type": "object", "properties": {"a": {"type": "integer"}}}}, "$ref": "#/$defs/A"}
    )
    assert list(asked["properties"]) == ["a_quote", "a"]
    assert asked["required"] == ["a_quote"]
    assert "$defs" in asked
