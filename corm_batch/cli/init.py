"""`corm-batch init`: three questions, or three options, and a spec that runs is written."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corm_batch.cli.console import error_console, output_console
from corm_batch.errors import SpecError

if TYPE_CHECKING:
    from corm_batch.spec import JobSpec

_NOTES = {
    "name": "every field, with its default: corm-batch schema --markdown",
    "model": "a hub id, a local folder or an s3:// folder; relative paths count from where corm-batch is started",
    "source": "what is asked about",
    "task": "summarize | question_answer | extract | prompt; or several of them, as tasks:",
    "output": "results/ and memory/ come here, a part at a time; a later run goes on from what is there",
}


def init(
    spec: Annotated[str, typer.Argument(metavar="[SPEC]", help="The YAML file to write.")] = "job.yaml",
    documents: Annotated[
        str | None, typer.Option(metavar="URI", help="The documents: a file, a folder or a glob, local or s3://.")
    ] = None,
    ask: Annotated[
        str | None, typer.Option(metavar="QUESTION", help="What to ask of every document; '': a summary of each.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who answers: a hub id, a local folder or an s3:// folder.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Holds the documents' text. Default: text.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder of the answers. Default: out/ and the job's name.")
    ] = None,
) -> None:
    """Write the spec of a job. What is not given as an option is asked for; no file is ever overwritten.

    The documents and a model on this machine are looked at before: what is written runs.
    """
    path, name = _place(spec)
    documents = _asked("--documents", documents, "Documents (a file, a folder or a glob; local or s3://)", or_else=".")
    ask = _asked("--ask", ask, "What to ask of every document (nothing: a summary of each)", or_else="")
    output = output or f"out/{name}"
    model = _asked("--model", model, "Model (a hub id like Qwen/Qwen3-4B-Instruct-2507, a local or s3:// folder)")
    sections: dict[str, Any] = {
        "name": name,
        "model": {"name": model},
        "source": _source(documents, text_column, output),
        "task": {"name": "question_answer", "question": ask} if ask.strip() else {"name": "summarize"},
        "output": {"uri": output},
    }
    job, sections = _looked_at(sections, may_ask=text_column is None)
    _write(path, _yaml(sections))
    _say_what_is_next(spec, job, output)


def _place(spec: str) -> tuple[Path, str]:
    """The file to write, which is not there yet, and the name of its job.

    Raises:
        SpecError: there is one, or no folder for it.
    """
    path = Path(spec).expanduser()
    if "://" in spec or spec == "-":
        raise SpecError(f"{spec}: init writes a file on this machine")
    if path.exists() or path.is_symlink():
        raise SpecError(f"{spec}: there is such a file, and init overwrites none: name another one")
    if not path.parent.is_dir():
        raise SpecError(f"{spec}: there is no folder {path.parent}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:63]
    return path, name or "job"


def _asked(option: str, given: str | None, question: str, *, or_else: str | None = None) -> str:
    """What was given, or what is answered now; `or_else` for nothing.

    Raises:
        SpecError: nothing was given, and nobody is there to be asked.
    """
    if given is None:
        if not sys.stdin.isatty():
            raise SpecError(f"{option}: missing, and nobody can be asked: standard input is no terminal")
        given = typer.prompt(question, default=or_else, show_default=bool(or_else), err=True)
    if not given.strip() and or_else != "":
        raise SpecError(f"{option}: it is empty")
    return given.strip()


def _source(uri: str, text_column: str | None, output: str) -> dict[str, Any]:
    """The section of the source that reads the files there, of several the one that reads most; rows go before files
    that are documents themselves, such as a README beside them. What is left out is said. A folder in which the output
    would be read, too, is named by its files.

    Raises:
        SpecError: none reads any of them.
        SourceError: the place cannot be listed.
    """
    from corm_batch.data.filesystem import list_files
    from corm_batch.data.sources.base import Source
    from corm_batch.data.sources.files import FileSource
    from corm_batch.data.uri import resolve_uri

    kinds = {name: kind for name, kind in Source.registered().items() if issubclass(kind, FileSource)}
    try:
        files = list_files(resolve_uri(uri), [suffix for kind in kinds.values() for suffix in kind.suffixes])
    except SpecError as error:
        raise SpecError(f"--documents {uri}: {error}") from error
    found = Counter(name for file in files for name, kind in kinds.items() if file.lower().endswith(kind.suffixes))
    if not found:
        known = ", ".join(dict.fromkeys(suffix for kind in kinds.values() for suffix in kind.suffixes))
        what = "no file whose format its name tells" if files else "no documents there"
        raise SpecError(f"--documents {uri}: {what} (known are {known})")
    name = max(found, key=lambda name: (name != "documents", found[name]))
    if left := len(files) - found[name]:
        what = f"{uri}: source {name} reads {found[name]} of {len(files)} files there"
        error_console().print(f"{what}, and leaves {left} out: name a glob for others", soft_wrap=True)
    read = [file for file in files if file.lower().endswith(kinds[name].suffixes)]
    place = output if "://" in output else os.path.abspath(output)
    if kinds[name].model_validate({"uri": uri}).would_read(f"{place.rstrip('/')}/results/part.parquet"):
        uri = _glob_of(read, resolve_uri(uri)) or uri
    return {"name": name, "uri": uri} | ({} if text_column is None else {"text_column": text_column})


def _glob_of(files: Sequence[str], folder: str) -> str | None:
    """A glob of these files alone; None where they do not lie in the folder itself, or their names end otherwise."""
    ends = {Path(file).suffix for file in files}
    if len(ends) > 1 or {os.path.dirname(file) for file in files} != {folder.rstrip("/")}:
        return None
    found = f"{folder.rstrip('/')}/*{ends.pop()}"
    return found if "://" in found else os.path.relpath(found)


def _looked_at(sections: dict[str, Any], *, may_ask: bool) -> tuple[JobSpec, dict[str, Any]]:
    """The job, whose documents and model are there, and its sections, with another column of text where one is named.

    Raises:
        CormBatchError: they are not.
    """
    from corm_batch.pipeline.model import check_model
    from corm_batch.spec import JobSpec

    while True:
        job = JobSpec.from_mapping(sections)
        try:
            job.splits()
            break
        except SpecError as error:
            if "text_column" not in type(job.source).model_fields or not may_ask or not sys.stdin.isatty():
                raise SpecError(f"{error}\n(--text-column names the column that holds the text)") from error
            error_console().print(str(error), soft_wrap=True)
            column = typer.prompt("Column that holds the text", err=True).strip()
            sections = {**sections, "source": {**sections["source"], "text_column": column}}
    if job.model.is_hub_id:
        error_console().print(f"{job.model.name}: a hub id; plan and run look at it", soft_wrap=True)
    else:
        check_model(job)
    return job, sections


def _yaml(sections: Mapping[str, Any]) -> str:
    """The spec, each section under a line of what it is for."""
    import yaml

    lines = []
    for name, section in sections.items():
        text = yaml.safe_dump({name: section}, sort_keys=False, allow_unicode=True, width=100)
        lines.append(f"# {_NOTES[name]}\n{text}")
    return "".join(lines)


def _write(path: Path, text: str) -> None:
    """Make the file, unless one has come there meanwhile.

    Raises:
        SpecError: it has, or the file cannot be made.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from error


def _say_what_is_next(spec: str, job: JobSpec, output: str) -> None:
    console = output_console()
    found = f"documents at {job.source.place} (source {job.source.name})"
    console.print(f"{spec}: {found}, model {job.model.name}", soft_wrap=True)
    name, output = shlex.quote(spec), shlex.quote(output)
    for line in (f"plan {name}", f"run {name} --limit 3", f"report {output}", f"run {name}"):
        console.print(f"  corm-batch {line}", soft_wrap=True)
