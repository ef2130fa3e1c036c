from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.tasks.numbers import read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4711", "4711"),
        ("4711 euros", "4711"),
        ("1 250 000 euros", "1250000"),
        ("1\u00a0250\u00a0000", "1250000"),
        ("1\u202f250\u2009000 €", "1250000"),
        ("1'250'000", "1250000"),
        ("1\u2019250\u2019000", "1250000"),
        ("1,250,000", "1250000"),
        ("1.250.000", "1250000"),
        ("12,34,567", "1234567"),
        ("1.234,56 euros", "1234.56"),
        ("1,234.56", "1234.56"),
        ("1 234,56", "1234.56"),
        ("1 234.56", "1234.56"),
        ("2,5", "2.5"),
        ("0.234", "0.234"),
        ("1234.567", "1234.567"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("\u22125 euros.", "-5"),
        ("-$5", "-5"),
        ("+5", "5"),
        ("$1,234.50", "1234.50"),
        ("12,50 €", "12.50"),
        ("CHF 5.50", "5.50"),
        ("500円", "500"),
        ("3 million euros", "3000000"),
        ("1,5 Millionen", "1500000"),
        ("3 thousand", "3000"),
        ("2 lakh", "200000"),
        ("3万", "30000"),
        ("1e6", "1000000"),
        ("**42**", "42"),
        ("“42.”", "42"),
        (" 42\n", "42"),
        ("\u0665", "5"),
        ("\uff15", "5"),
        ("9" * 40, "9" * 40),
    ],
)
def test_plain_numbers_are_read(text, value):
    assert read_number(text) == Decimal(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.234", "may be 1.234 or 1234; decimal"),
        ("1,234", "may be 1.234 or 1234; decimal"),
        ("1.000 Euro", "may be 1 or 1000; decimal"),
        ("1.234 million", "may be 1234000 or 1234000000; decimal"),
        ("3 billion", "may be 3000000000 or 3000000000000$"),
        ("50%", "percentage"),
        ("50 %", "percentage"),
        *((text, "stands beside it") for text in ("3 trillion", "3 mil", "3 dozen", "3K", "3 bn", "42 people", "5 or")),
        *((text, "stands beside it") for text in ("approx. 40", "~40", "No. 5", "(5)", "- 5", "\u20135", "5-", "--5")),
        *((text, "stands beside it") for text in ("minus 5", "not 5", "half of 5", "10\u2075", "5\u00b2", ".5", "5,")),
        *(
            (text, "not plainly one number")
            for text in ("between 3 and 5", "5-7", "2024-05-01", "1/2", "12:30", "3\n4")
        ),
        *((text, "not plainly one number") for text in ("0x10", "1_000", "5 euros and 50 cents", "9" * 5000)),
        *((text, "not grouped like a number") for text in ("1 2", "1,2,3", "1,23,4", "1..2", "1.5.2024", "1 234'567")),
        *((text, "not written in digits") for text in ("five", "NaN", "Infinity", "\u00bd", "\u2460", "$", "")),
    ],
)
def test_what_is_not_plainly_one_number_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        read_number(text)


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1.234", ".", "1.234"),
        ("1.234", ",", "1234"),
        ("1,234", ".", "1234"),
        ("1,234", ",", "1.234"),
        ("1.234,56", ",", "1234.56"),
        ("1 234.5", ".", "1234.5"),
    ],
)
def test_a_decimal_mark_decides(text, decimal, value):
    assert read_number(text, decimal) == Decimal(value)


@pytest.mark.parametrize(("text", "decimal"), [("1.234,56", "."), ("1,234.56", ","), ("2,5", "."), ("1 234,5", ".")])
def test_a_number_of_the_other_mark_is_refused(text, decimal):
    with pytest.raises(ValueError, match=f"not grouped like a number with '\\{decimal}'"):
        read_number(text, decimal)


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.,' -+−€eE%million\u00a0", max_size=20))
def test_any_text_is_a_number_or_refused(text):
    try:
        found = read_number(text)
    except ValueError as refused:
        found = refused
    assert found.is_finite() if isinstance(found, Decimal) else str(found).startswith(("is ", "may be "))


@settings(deadline=None, derandomize=True)
@given(
    st.decimals(min_value=-(10**12), max_value=10**12, places=2), st.sampled_from([(",", "."), (".", ","), (" ", ",")])
)
def test_what_is_written_with_two_decimals_is_read_back(value, marks):
    text = f"{value:,.2f}".translate(str.maketrans({",": marks[0], ".": marks[1]}))
    assert read_number(text) == value
