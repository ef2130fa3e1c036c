"""What is wrong with a .jsonl file that holds JSON, but not JSON Lines in UTF-8, and what to do about it."""

from __future__ import annotations

import codecs
import json
import posixpath
import shlex
from collections.abc import Sequence

_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNPACK = {".gz": "zcat", ".zst": "zstdcat"}


def encoding_problem(uri: str, head: bytes) -> str | None:
    """Why a file that begins with these bytes is no UTF-8 text; None when it may be."""
    if head and not head.strip(b"\0"):
        return "it begins with NUL bytes where text should be, as a file does that was never written to its end"
    encoding = foreign_encoding(head)
    if encoding is None:
        return None
    command = _command(uri, f"iconv -f {encoding} -t UTF-8", keep=True)
    return f"it holds {encoding}, not UTF-8; convert it, for example: {command}"


def foreign_encoding(head: bytes) -> str | None:
    """The encoding of a text that begins with these bytes, as iconv calls it; None when it may be UTF-8."""
    encoding: str = json.detect_encoding(head)
    if not head.startswith(_MARKS) and (encoding.startswith("utf-8") or head.count(0) < len(head) // 4):
        return None
    return encoding.upper().replace("-LE", "LE").replace("-BE", "BE")


def layout_problem(uri: str, lines: Sequence[bytes]) -> str | None:
    """Why a file that begins with these lines does not hold one JSON object a line but other JSON; None when it may.

    A first line that was not written to its end is a fault of that line, and not what is looked for here.
    """
    first = lines[0].strip()
    complete = _begins_with_json(first)
    if first == b"[" or (first.startswith(b"[") and first[1:].lstrip().startswith(b"{")):
        if not complete or len(lines) == 1:
            what = "it holds one JSON array, not one JSON object a line"
            return f"{what}; convert it, for example: {_command(uri, 'jq -c ' + shlex.quote('.[]'))}"
    elif not complete and (first == b"{" or _begins_with_json(b"\n".join(lines))):
        what = "it holds JSON that goes on over several lines, not one JSON object a line"
        return f"{what}; convert it, for example: {_command(uri, 'jq -c .')}"
    return None


def _begins_with_json(content: bytes) -> bool:
    """Whether the bytes begin with a whole JSON value."""
    try:
        json.JSONDecoder().raw_decode(content.decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def _command(uri: str, convert: str, *, keep: bool = False) -> str:
    """A command line that makes of the file one that can be read, in JSON Lines unless it is to keep what it is."""
    name = posixpath.basename(uri)
    stem, suffix = posixpath.splitext(name)
    unpack = _UNPACK.get(suffix.lower())
    stem, suffix = posixpath.splitext(stem) if unpack else (stem, suffix)
    target = shlex.quote(f"{stem}-converted{suffix if keep else '.jsonl'}")
    if unpack is None:
        return f"{convert} {shlex.quote(name)} > {target}"
    return f"{unpack} {shlex.quote(name)} | {convert} > {target}"
