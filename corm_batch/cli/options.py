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


def _load_plugins(paths: list[str] | None) -> list[str] | None:
    """Register what the files define, before the spec is read."""
    for path in paths or ():
        from corm_batch.registry import load_plugin

        load_plugin(path)
    return paths


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file with a policy, budget, source, task or suite of your own; may be given again.",
        callback=_load_plugins,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, one object a line.")]
