"""What every page is made with: cells and tables, and a template filled in. Knows nothing of what the pages say."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """One cell: `text` to read, `value` to sort numbers by, `svg` to draw before the text."""

    text: str
    value: float | None = None
    svg: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: its columns as (name, whether it holds numbers), the first one names the row."""

    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: list[list[Cell]]


def render(template: str, **values: Any) -> str:
    """A template of this folder as a page that needs nothing but itself, and whose policy allows nothing else."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        **values,
    )


def _hash(content: str) -> str:
    """What a content security policy calls a text it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
