"""JobSpec: one validated YAML file that says everything about a job. Knows nothing of Ray or of running it.

Relative local paths (the model's folder, `source.uri`, `output.uri`) count from the current directory, not from the
spec's, and are absolute once loaded. Secrets have no place in a spec: a URI that carries credentials is refused, and so
is a variable of the environment (`${NAME}`) that is called like one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from corm_batch.audit.config import VerifyConfig
from corm_batch.cluster_section import ClusterSection, Section
from corm_batch.data.carried import clash
from corm_batch.data.filesystem import read_whole
from corm_batch.data.formats.base import Format, FormatName
from corm_batch.data.schema import RESULT_NAMES
from corm_batch.data.sources.base import Source, Split
from corm_batch.data.sources.refined import refined
from corm_batch.data.uri import Uri, is_remote, is_s3, resolve_uri, valid_uri
from corm_batch.data.variables import with_variables
from corm_batch.data.yaml_text import load_yaml, overridden
from corm_batch.engine.config import EngineConfig, WeightForm
from corm_batch.errors import SourceError, SpecError
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.defaults import with_name
from corm_batch.registry import SAME_ANSWERS, describe, shown
from corm_batch.storage.base import Storage
from corm_batch.tasks.base import Task
from corm_batch.tasks.several import Several

STANDARD_INPUT = "-"
ColumnName = Annotated[str, Field(min_length=1)]
_PLUGINS: dict[str, Any] = {"source": Source, "task": Task, "policy": KVPolicy}


def _resolve_model(name: str) -> str:
    """A local folder or S3 folder in full; anything else is a hub id and stays as it is."""
    local = os.path.isdir(name) or name.startswith(("/", "./", "../", "~"))
    return valid_uri(name) if local or "://" in name else name


class ModelSection(Section):
    """Which model answers, and how it is loaded and spoken to."""

    name: Annotated[str, AfterValidator(_resolve_model)] = Field(
        min_length=1, description="a hub id, a local folder or an s3:// folder"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="of weights and cache")
    weights: WeightForm = Field("stored", description="stored: as the checkpoint has them; fp8: layers in 8 bits")
    device: Annotated[Literal["auto", "cpu", "cuda"], SAME_ANSWERS] = Field(
        "auto", description="auto: cuda where there is one"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")
    document_role: Literal["user", "document"] = Field(
        "user", description="chat role of the document; user: in one message with the instruction"
    )
    system: str | None = Field(None, description="system prompt")
    chat_template_kwargs: dict[str, JsonValue] = Field(
        {},
        description="what the model's chat template is told besides, as whether to think before an answer; what is "
        "thought is no part of an answer",
    )
    generation_config: Literal["apply", "ignore"] = Field(
        "apply", description="generation_config.json: apply all it says of choosing tokens, or end tokens only"
    )

    @property
    def is_hub_id(self) -> bool:
        """Whether `name` is an id on the model hub rather than a folder."""
        return not is_s3(self.name) and not os.path.isabs(self.name)


class OutputSection(Section):
    """Where the two tables go, and how often a part is committed."""

    uri: Uri = Field(description="a folder, local or s3://")
    format: FormatName = Field(
        "parquet",
        description="parquet, arrow (IPC); jsonl, csv, openai_batch: in Parquet, and at the end all rows in one file "
        "beside",
    )
    columns: tuple[ColumnName, ...] = Field(
        (), description="columns of the source that every row of the results has too"
    )
    part_documents: int = Field(1000, ge=1, description="documents of a part at most")
    part_seconds: float = Field(60.0, gt=0, description="seconds between parts at most")

    @property
    def part_format(self) -> str:
        """Of what is committed: a format that keeps all."""
        return self.format if Format.registered()[self.format].keeps_all else "parquet"

    @property
    def whole_file(self) -> str | None:
        """The one file that all rows are written to at the end of a run; None where their parts are what is wanted."""
        if self.part_format == self.format:
            return None
        return f"{self.uri.rstrip('/')}/results{Format.registered()[self.format].suffixes[0]}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names like those of the files that are written."""
        parts = (f"{self.uri.rstrip('/')}/{table}/part.{self.part_format}" for table in ("results", "memory"))
        return (*parts, *filter(None, [self.whole_file]))


class JobSpec(Section):
    """A whole job.

    `verify` and `fallback` are no settings that an answer depends on: rows that were answered under another share, or
    without, stand, and one that `rerun` or the fallback has replaced says so itself.
    """

    name: Annotated[str, SAME_ANSWERS] = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="letters, digits, '.', '_' and '-'"
    )
    model: ModelSection
    source: Annotated[Source, SAME_ANSWERS]
    task: Task
    tasks: dict[str, Task] | None = Field(None, description="several in place of one, by the names of their columns")
    policy: KVPolicy = Field({}, validate_default=True, description="unnamed: as `question`, known or unknown, says")
    engine: EngineConfig = EngineConfig()
    cluster: Annotated[ClusterSection, SAME_ANSWERS] = ClusterSection()
    verify: Annotated[VerifyConfig | None, SAME_ANSWERS] = None
    fallback: Annotated[Literal["full"] | None, SAME_ANSWERS] = Field(
        None,
        description="full: answer a document again without eviction whose answer, or a field of it, cannot be used",
    )
    output: Annotated[OutputSection, SAME_ANSWERS]

    @model_validator(mode="before")
    @classmethod
    def _one_task_or_several(cls, data: Any) -> Any:
        """With `tasks`, all of them are the task."""
        if not isinstance(data, Mapping) or data.get("tasks") is None:
            return data
        if data.get("task") is not None:
            raise SpecError("task and tasks: exactly one of them is needed")
        several = Several.from_sections(data["tasks"])
        return {**data, "tasks": several.tasks, "task": several}

    @field_validator("source", "task", "policy", mode="before")
    @classmethod
    def _select_plugin(cls, value: Any, info: Any) -> Any:
        """The plug-in that the section's name selects."""
        if info.field_name == "policy":
            value = with_name(value, asks_several=getattr(info.data.get("task"), "asks_several", False))
        found = _PLUGINS[info.field_name].from_spec(value)
        return refined(found) if info.field_name == "source" else found

    @field_validator("verify")
    @classmethod
    def _complete(cls, verify: VerifyConfig | None, info: Any) -> VerifyConfig | None:
        """With the least gap of the model's number format; a share of 0 is no section."""
        if verify is None or verify.share == 0:
            return None
        return verify.of_dtype(info.data["model"].dtype) if "model" in info.data else verify

    @model_serializer(mode="wrap")
    def _whole(self, sections: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every section, a plug-in's so that it selects it again; of `task` and `tasks` the one that was given."""
        found = {**sections(self), **{name: getattr(self, name).to_spec() for name in _PLUGINS}}
        found["tasks"] = found["task"]
        return {name: section for name, section in found.items() if name != ("tasks" if self.tasks is None else "task")}

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        """Refuse sections that are right alone but impossible together."""
        problems = list(filter(None, [self.engine.find_problem(self.policy)]))
        if problem := clash(self.output.columns, self.task.result_fields):
            problems.append(f"output.columns: {problem}")
        kind, names = Format.registered()[self.output.format], [field.name for field in self.task.result_fields]
        if problem := kind.find_problem(names):
            problems.append(f"output.format: {problem}")
        if taken := sorted(RESULT_NAMES.intersection(names)):
            problems.append(f"task: {', '.join(taken)}: every results table has a column of that name; choose another")
        if any(map(self.source.would_read, self.output.files)):
            problems.append(
                f"output.uri: the source at {self.source.place} would read what is written "
                f"to {self.output.uri}: choose a folder that is not below it"
            )
        if self.policy.pins_instruction and not all(part.tells_text for part in self.task.parts):
            problems.append(
                "policy.pin_instruction: true, but nothing tells text from instruction in the task's prompts"
            )
        if self.fallback is not None and self.policy.name == self.fallback:
            problems.append(f"fallback: {self.fallback}, but policy.name is {self.policy.name}: both are the same")
        longest, answer, ranks = self.engine.max_model_len, self.task.max_new_tokens, self.engine.tensor_parallel
        if longest is not None and answer >= longest:
            problems.append(f"task.max_new_tokens: {answer} leaves no prompt room in engine.max_model_len={longest}")
        temperature = max(part.temperature for part in self.task.parts)
        by_row = any(part.draws_by_row for part in self.task.parts)
        if self.verify is not None and (temperature > 0 or by_row):
            said = "each row's own" if by_row else f"{temperature:g}"
            for field in ("on_difference", "stop_above"):
                if getattr(self.verify, field) not in ("flag", None):
                    problems.append(
                        f"verify.{field}: {shown(getattr(self.verify, field))}, but task.temperature is "
                        f"{said}: what is drawn is not the likeliest, so nothing tells a difference"
                    )
        if self.model.device == "cuda" and self.cluster.gpus_per_replica == 0:
            problems.append("cluster.gpus_per_replica: 0, but model.device is cuda: a replica would see no GPU")
        elif 1 < ranks > (self.cluster.gpus_per_replica or ranks) and self.model.device != "cpu":
            problems.append(
                f"cluster.gpus_per_replica: {self.cluster.gpus_per_replica:g}, but engine.tensor_parallel is "
                f"{ranks}: each rank needs a GPU"
            )
        if problems:
            raise SpecError("\n".join(problems))
        return self

    @classmethod
    def load(cls, path: str, overrides: Sequence[str] = ()) -> JobSpec:
        """Read the YAML file at `path` (local or s3://; - is standard input), then set each `a.b=value` of `overrides`.

        Raises:
            SpecError: no such file, no YAML, or anything in it that is unknown, of the wrong type or impossible; one
                line for each, with the field's path, what was given and what is allowed.
        """
        data = read_sections(path)
        for override in overrides:
            data = overridden(data, override)
        return cls.from_mapping(data, _origin(path))

    @classmethod
    def from_mapping(cls, data: Any, origin: str = "spec") -> JobSpec:
        """Validate what a YAML file said; `origin` names it in messages.

        Raises:
            SpecError: as `load`.
        """
        if not isinstance(data, Mapping):
            raise SpecError(f"{origin}: expected sections ({', '.join(cls.model_fields)}), got {shown(data)}")
        try:
            return cls.model_validate(with_variables(data))
        except ValidationError as error:
            raise SpecError(f"{origin}:\n{describe(error, '', cls)}") from error
        except SpecError as error:
            raise SpecError(f"{origin}:\n{error}") from error

    def storing(self, usual: Storage) -> Self:
        """With a form of storage that is named: its own, or else the `usual` one."""
        return self.model_copy(update={"engine": self.engine.storing(usual)})

    def splits(self) -> list[Split]:
        """What there is to read, with the columns that the task asks for and those that are carried over.

        Raises:
            SourceError: nothing there, or the place cannot be read.
            SpecError: no file has the columns, or a link leads from the source to this job's own output.
        """
        splits = self.source.splits(list(dict.fromkeys([*self.task.columns_read, *self.output.columns])))
        if not is_s3(self.output.uri):
            parts = tuple(f"{os.path.realpath(self.output.uri)}/{table}/" for table in ("results", "memory"))
            for uri in dict.fromkeys(split.uri for split in splits if not is_remote(split.uri)):
                if os.path.realpath(uri).startswith(parts):
                    raise SpecError(f"output.uri: a link leads from the source to what is written there: {uri}")
        return splits

    def to_yaml(self) -> str:
        """The complete spec, every default written out; `load` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_sections(path: str) -> Any:
    """What the YAML file at `path` says (local or s3://; - is standard input), of which nothing is checked yet.

    Raises:
        SpecError: no such file, or no YAML.
    """
    try:
        content = sys.stdin.buffer.read() if path == STANDARD_INPUT else read_whole(resolve_uri(path))
        text = content.decode("utf-8")
    except (SourceError, SpecError, UnicodeDecodeError) as error:
        raise SpecError(f"{_origin(path)}: cannot read the spec: {error}") from error
    return load_yaml(text, _origin(path))


def _origin(path: str) -> str:
    """What messages call a spec."""
    return "standard input" if path == STANDARD_INPUT else path
