"""`corm-batch export`: the newest rows of an output as one file."""

from __future__ import annotations

from typing import Annotated

import typer

from corm_batch.cli.console import output_console, print_json
from corm_batch.cli.options import AsJson
from corm_batch.errors import SpecError


def export(
    output: Annotated[str, typer.Argument(help="The output.uri of a job: a folder, local or s3://.")],
    file: Annotated[
        str,
        typer.Argument(
            help="The file to write, local or s3://: .parquet, .arrow, .jsonl, .csv or .batch.jsonl; text also .gz."
        ),
    ],
    kind: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="What to write, whatever the file is called.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="With what the cache of each document took.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the newest row of every document to one file, in the order of the source.

    A file that is there is replaced once the new one is whole.
    """
    from corm_batch.data.parts import folder
    from corm_batch.data.uri import resolve_uri
    from corm_batch.output.export import export_rows, format_of

    try:
        target = resolve_uri(file)
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from error
    for table in ("results", "memory"):
        if target.startswith(f"{folder(resolve_uri(output), table)}/"):
            raise SpecError(f"{file}: lies among the parts of the job; write it elsewhere")
    into = format_of(target, kind)
    if memory and into.needs:
        raise SpecError(f"--memory: lines of format {into.name} have no place for it")
    count = export_rows(output, target, into, memory=memory)
    if as_json:
        print_json({"rows": count, "file": target})
    else:
        output_console().print(f"{count} row{'' if count == 1 else 's'} written to {target}", soft_wrap=True)
