"""Numbers as people write them: "1 250 000 euros", "−5", "3 million". Read strictly, by CLDR's data through Babel.

Grouping, decimal marks, scale words and currencies are CLDR's; nothing here adds to them. A text that is more than one
number with its scale and currency is not read, and one that CLDR's conventions read differently is refused with all its
readings: no value is better than a wrong one. Knows nothing of schemas.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from decimal import Context, Decimal
from functools import cache
from typing import Literal, get_args

from babel import Locale
from babel.numbers import (
    NumberFormatError,
    get_currency_name,
    get_currency_symbol,
    get_decimal_symbol,
    get_group_symbol,
    list_currencies,
    parse_decimal,
)

DecimalMark = Literal[".", ","]
DECIMAL_MARKS: tuple[str, ...] = get_args(DecimalMark)

# one locale for each way in which CLDR groups digits, by what marks decimals there; the last groups with a blank
_CONVENTIONS = {".": ("en", "en_IN", "dje"), ",": ("de", "sv")}
_BLANK = "\u00a0"
# whose words for currencies and scales are known
_LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "nb", "fi", "pl", "cs", "ja", "zh", "ko", "en_IN")
_SHORTEST_WORD = 4  # letters of a scale word: "mil" is a thousand in Spanish and a million in English slang
_TOO_LARGE = 10**12  # CLDR ends there, and whether a trillion is 10^12 or 10^18 depends on the language

AROUND = " \t\r\n\"'`*_“”„«»"
"""Quotes, emphasis and blanks that may stand around an answer."""
_NUMBER = re.compile(  # as it stands in a text, where a plain blank may stand between numbers, too
    r"(?<!\d)(?<!\d[.,'\u2019])((?<![\w)\].,'])[-\u2212]?\.?)?"
    r"(\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?|\d{1,3}(\.\d{3})+(,\d+)?|\d{1,3}(['\u2019\u00a0\u202f]\d{3})+([.,]\d+)?"
    r"|\d+([.,]\d+)?)([eE][+-]?\d+\b)?(?!\d|[.,'\u2019]\d)"
)
_SCIENTIFIC = re.compile(r"-?\d+(\.\d+)?[eE][+-]?\d{1,3}")
_MOST_CHARACTERS = 400  # a double ends at 309 digits
_EXACT = Context(prec=2 * _MOST_CHARACTERS)


def find_apart(pattern: str, text: str) -> re.Match[str] | None:
    """The first match of a pattern that neither begins nor ends inside a number: no 2 in 12, and no 1 in 1.5.

    Of what is several numbers, as a date or 1,2,3, each is one of its own.
    """
    compiled, start = re.compile(pattern), 0
    numbers: list[tuple[int, int]] | None = None
    while found := compiled.search(text, start):
        beside = {place: text[place - 1 : place + 1] for place in found.span() if 0 < place < len(text)}
        near = [place for place, two in beside.items() if any(char.isdecimal() for char in two)]
        if near and numbers is None:
            numbers = [number.span() for number in _NUMBER.finditer(text)]
        if not any(beside[place].isdecimal() or _is_inside(place, numbers or []) for place in near):
            return found
        start = found.start() + 1
    return None


def _is_inside(place: int, spans: list[tuple[int, int]]) -> bool:
    """Whether a place is inside one of several spans, which are in order."""
    before = bisect_left(spans, (place, 0)) - 1
    return before >= 0 and place < spans[before][1]


def read_number(text: str, decimal: DecimalMark | None = None) -> Decimal:
    """The one number that `text` is.

    Args:
        text: a number, at most with its sign, grouping, scale word and currency.
        decimal: what marks decimals; None where that is not known.

    Raises:
        ValueError: it is not plainly one number, or may be several; which. The message is a predicate ("is ...").
    """
    plain = _plain(text)
    if _SCIENTIFIC.fullmatch(plain):
        return Decimal(plain)
    digits = re.search(r"\d.*\d|\d", plain, re.DOTALL)
    if digits is None:
        raise ValueError("is not written in digits")
    if len(digits[0]) > _MOST_CHARACTERS or not re.fullmatch(r"[\d.,' ]+", digits[0]):
        raise ValueError("is not plainly one number")
    negative, factors = _read_around(plain[: digits.start()], plain[digits.end() :])
    readings = _readings(digits[0], decimal)
    if not readings:
        raise ValueError("is not grouped like a number" + (f" with {decimal!r} before its decimals" if decimal else ""))
    values = {_EXACT.multiply(value, factor) for value in readings for factor in factors}
    if len(values) > 1:
        said = " or ".join(f"{_EXACT.normalize(value):f}" for value in sorted(values))
        raise ValueError(f"may be {said}" + ('; decimal: "." or "," in its schema says which' * (len(readings) > 1)))
    value = values.pop()
    return value.copy_negate() if negative and value else value


def _plain(text: str) -> str:
    """`text` with the blanks, digits and minus sign of ASCII, without quotes, emphasis and the end of a sentence."""

    def ascii_of(char: str) -> str:
        category = unicodedata.category(char)
        if category == "Nd":
            return str(unicodedata.decimal(char))
        return " " if category == "Zs" else {"\u2212": "-", "\u2019": "'"}.get(char, char)

    return "".join(map(ascii_of, text)).strip(AROUND).rstrip(".!").rstrip(AROUND)


def _readings(digits: str, decimal: DecimalMark | None) -> set[Decimal]:
    """What grouped `digits` are in each of CLDR's conventions, or in those of one decimal mark."""
    readings: set[Decimal] = set()
    blanks = set(digits) & {" ", "'"}  # an apostrophe groups as a blank does, but not beside one
    if len(blanks) > 1:
        return readings
    digits = digits.replace(" ", _BLANK).replace("'", _BLANK)
    for locale in _CONVENTIONS[decimal] if decimal else sum(_CONVENTIONS.values(), ()):
        marks = {get_group_symbol(locale), get_decimal_symbol(locale)}
        with suppress(NumberFormatError):
            if marks.issuperset(re.findall(r"\D", digits)):
                readings.add(parse_decimal(digits, locale=locale, strict=True))
    return readings


def _read_around(before: str, after: str) -> tuple[bool, frozenset[Decimal]]:
    """Whether a minus stands before the digits, and by what the word after them may multiply.

    Raises:
        ValueError: something stands there that is no sign, scale or currency.
    """
    negative = False
    if mark := re.match(r"[+-](?! )", before) or re.search(r"[+-]$", before):
        negative = mark[0] == "-"
        before = before[: mark.start()] + before[mark.end() :]
    before, after = before.strip(), after.strip()
    if after.startswith("%"):
        raise ValueError("is a percentage: 50% may be 50 or 0.5")
    word, _, behind = after.partition(" ")
    factors = _scales().get(word.casefold(), frozenset())
    if factors:
        after = behind.strip()
    for words in (before, after):
        if words and words not in _currency_signs() and words.casefold() not in _currency_words():
            raise ValueError(f"is not a number alone: {words[:80]!r} stands beside it")
    return negative, factors or frozenset({Decimal(1)})


@cache
def _scales() -> Mapping[str, frozenset[Decimal]]:
    """Words like "million", each with all it stands for in one language or another."""
    scales: dict[str, set[Decimal]] = {}
    for language in _LANGUAGES:
        for forms in Locale.parse(language).compact_decimal_formats["long"].values():
            for size, pattern in forms.items():  # 10000: "00 thousand"
                word = pattern.pattern.replace("0", "").replace("'", "").strip().casefold()
                if (zeros := pattern.pattern.count("0")) and (len(word) >= _SHORTEST_WORD or not word.isascii()):
                    scales.setdefault(word, set()).add(Decimal(int(size) // 10 ** (zeros - 1)))
    return {word: frozenset(sizes) for word, sizes in scales.items() if min(sizes) < _TOO_LARGE}


@cache
def _currency_signs() -> frozenset[str]:
    """Codes and symbols, written as they are; no single letter, which may stand for anything ("3 K")."""
    codes = _currencies()
    symbols = {get_currency_symbol(code, language) for language in _LANGUAGES for code in codes}
    return frozenset(sign for sign in symbols | codes if len(sign) > 1 or not sign.isalpha() or not sign.isascii())


@cache
def _currency_words() -> frozenset[str]:
    """Names in the singular and plural, casefolded."""
    names = (
        get_currency_name(code, count, language)
        for language in _LANGUAGES
        for code in _currencies()
        for count in (None, 1, 2, 5)
    )
    return frozenset(name.casefold() for name in names)


def _currencies() -> set[str]:
    """Codes of what people pay with: no metals, funds and test codes, whose names are words like "or"."""
    return {code for code in list_currencies("en") if code[0] != "X" or code in ("XAF", "XOF", "XPF", "XCD", "XCG")}
