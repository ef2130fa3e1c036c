"""Texts that can be shown and stored anywhere: no credentials of URIs, nothing a terminal obeys, all of it UTF-8."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

_URI = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*):/+([^\s'\"<>]*[^\s'\"<>:.,;])")  # what ends a sentence is not its end
_SIGNED = re.compile(r"[?&](sig|[^=&#]*(signature|credential|token|secret|passw|key)[^=&#]*)=.*", re.IGNORECASE)
_ACCESS_KEY = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+")
_AT = re.compile("@|%40")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of characters that are acted on instead of shown


def harmless(text: str) -> str:
    """`text` without the credentials of URIs in it, control characters but line ends and tabs spelled out."""
    text = without_credentials(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if char not in "\n\t" and unicodedata.category(char) in _OBEYED
        else char
        for char in text
    )


def in_utf8(text: str) -> str:
    """`text` with U+FFFD for halves of surrogate pairs, which UTF-8 cannot hold; a "?" would be taken for its own."""
    return text if text.isascii() else _HALF_A_PAIR.sub("\ufffd", text)


def without_credentials(text: str) -> str:
    """`text` with stars for the user part of every URI in it, for access keys and for what signs a URI."""
    return _URI.sub(_starred, text) if ":/" in text else text


def _starred(uri: re.Match[str]) -> str:
    """A URI without its credentials. Secrets hold slashes and colons: what may belong to one counts as one."""
    scheme, rest = uri.groups()
    before = uri.group().removesuffix(rest)
    rest = _SIGNED.sub("?***", rest)
    authority = rest.partition("/")[0]
    plain = unquote(authority)
    if authority.startswith("arn:"):
        user = False
    elif scheme.lower().startswith("s3"):  # a bucket's name has no colon
        user = ":" in plain or "@" in plain
    elif scheme.lower() in ("abfs", "abfss", "az"):  # container@account
        user = ":" in plain
    else:
        user = "@" in plain or (":" in plain and not _HOST_AND_PORT.fullmatch(plain))
    if user:
        ends = [match.end() for match in _AT.finditer(rest)]
        return f"{before}***@{rest[ends[-1] :]}" if ends else f"{before}***"
    return f"{before}***" if _ACCESS_KEY.search(rest) else before + rest
