"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from corm_batch.errors import SpecError

if TYPE_CHECKING:
    from corm_batch.spec import JobSpec

SpecPath = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="The job's YAML file, local or s3://; -: standard input.", show_default=False),
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
        help="A Python file with a plug-in of your own, such as a policy or a task; may be given again.",
        callback=_load_plugins,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, one object a line.")]


def refuse_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """For options that would be ignored without a word.

    Args:
        context: of the command.
        names: of its parameters.
        why: they say nothing.

    Raises:
        typer.BadParameter: one of them stands on the command line.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')}: {why}")


def refuse_standard_input(spec: str, why: str) -> None:
    """For a verb that needs the spec as a file.

    Raises:
        SpecError: it is to be read from standard input.
    """
    if spec == "-":
        raise SpecError(f"SPEC: -, the standard input: {why}")


def output_folder(given: str | None, job: JobSpec, name: str) -> str:
    """Where a verb writes: what `--output` says, or a folder of this name below the job's output.

    Raises:
        SpecError: it says no place.
    """
    from corm_batch.data.uri import resolve_uri

    if given is None:
        return f"{job.output.uri.rstrip('/')}/{name}"
    try:
        return resolve_uri(given).rstrip("/")
    except SpecError as error:
        raise SpecError(f"--output {given}: {error}") from error
