"""`corm-batch schema`: what a spec may say, for editors and for people."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from corm_batch.cli.console import print_text
from corm_batch.cli.options import Plugins


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Every field with default, unit and an example, as Markdown.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """Print the JSON Schema of a spec, by which editors complete and check one."""
    from corm_batch.cli.spec_fields import fields_text
    from corm_batch.cli.spec_schema import spec_schema

    print_text(fields_text() if markdown else json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n")
