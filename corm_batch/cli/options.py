"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

SpecPath = Annotated[
    str, typer.Argument(metavar="SPEC", help="The job's YAML file, local or s3://.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one field of the spec; may be given again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, one object a line.")]
