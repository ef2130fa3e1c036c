"""Several tasks of one document, over one reading. Knows nothing of what they ask or what answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa
from pydantic import PrivateAttr

from corm_batch.data.document import Document
from corm_batch.data.schema import column
from corm_batch.errors import AnswerError, DocumentError, EngineError, ModelError, SpecError
from corm_batch.registry import shown
from corm_batch.tasks.base import Asker, Task, TaskResult
from corm_batch.tasks.overflow import MakePrompt, task_group, text_of
from corm_batch.tasks.together import Seat, Together

_Outcome = TaskResult | DocumentError


class Several(Task):
    """Several tasks by name; what they ask at one time goes to the asker together, so that the document is read once.

    The output of a task is the column of its name, its own columns are `name_column`, and so are its failed fields. A
    task that fails fails the row, as it would alone; what the others found, and what it had itself, stays in the row.
    """

    tasks: dict[str, Task]
    _refused: dict[str, DocumentError] = PrivateAttr(default_factory=dict)  # what a row's own values are wrong for

    @classmethod
    def from_sections(cls, sections: Any) -> Self:
        """The tasks of a spec's section `tasks` as one, which takes as many tokens for an answer as any of them.

        Raises:
            SpecError: no names with sections, a wrong section, or columns that cannot be.
        """
        if not isinstance(sections, Mapping) or not sections:
            raise SpecError(f"tasks: expected a name for each task, and its section, got {shown(sections)}")
        tasks = {name: _task(name, section) for name, section in sections.items()}
        owners: dict[str, str] = {}
        for name, task in tasks.items():
            for field in _fields(name, task):
                if (other := owners.setdefault(field.name, name)) != name:
                    raise SpecError(f"tasks: {other} and {name} both have a column {field.name!r}: rename one of them")
        return cls(tasks=tasks, max_new_tokens=max(task.max_new_tokens for task in tasks.values()))

    @property
    def parts(self) -> Sequence[Task]:
        """The tasks."""
        return tuple(self.tasks.values())

    @property
    def asks_several(self) -> bool:
        """With more than one task, or if the one does."""
        return len(self.tasks) > 1 or any(task.asks_several for task in self.parts)

    @property
    def source_columns(self) -> Sequence[str]:
        """Those that any of them reads."""
        return tuple(dict.fromkeys(name for task in self.parts for name in task.columns_read))

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """For each task its output and its own columns."""
        return [field for name, task in self.tasks.items() for field in _fields(name, task)]

    def of_row(self, document: Document) -> Several:
        """Each of them so."""
        tasks, refused = dict(self.tasks), dict[str, DocumentError]()
        for name, task in self.tasks.items():
            try:
                tasks[name] = task.of_row(document)
            except DocumentError as error:  # the others ask all the same
                refused[name] = error
        longest = max(task.max_new_tokens for task in tasks.values())
        made = self.model_copy(update={"tasks": tasks, "max_new_tokens": longest})
        made._refused = refused
        return made

    def to_spec(self) -> dict[str, Any]:
        """Each task's section, by name."""
        return {name: task.to_spec() for name, task in self.tasks.items()}

    def asking_once(self) -> Several:
        """Each of them so."""
        return self.model_copy(update={"tasks": {name: task.asking_once() for name, task in self.tasks.items()}})

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Run all tasks on one document.

        Raises:
            DocumentError: none of them could ask anything.
            AnswerError: one of them failed; the columns of the others are with it.
        """
        outcomes = await self._outcomes(document, asker)
        failures = {name: one for name, one in outcomes.items() if isinstance(one, DocumentError)}
        if len(failures) == len(outcomes) and not any(isinstance(one, AnswerError) for one in failures.values()):
            reasons = dict.fromkeys(map(str, failures.values()))
            raise next(iter(failures.values())) if len(reasons) == 1 else DocumentError(_joined(failures))
        columns, failed, outputs = dict[str, Any](), dict[str, str](), dict[str, str]()
        for name, one in outcomes.items():
            output = getattr(one, "output", None)
            columns |= {name: output, **_prefixed(name, getattr(one, "columns", {}))}
            failed |= _prefixed(name, getattr(one, "failed_fields", {}))
            outputs |= {name: output} if output else {}
        output = "\n\n".join(f"{name}: {text}" for name, text in outputs.items())
        if failures:
            raise AnswerError(_joined({**failures, **failed}), output=output or None, columns=columns)
        results = [one for one in outcomes.values() if isinstance(one, TaskResult)]
        cut = any(one.finish_reason == "length" for one in results)
        return TaskResult(output, columns, "length" if cut else "stop", sum(one.pieces for one in results), failed)

    async def _outcomes(self, document: Document, asker: Asker) -> dict[str, _Outcome]:
        """What became of each task.

        Raises:
            EngineError, ModelError: no task could do anything about it.
        """
        prompts = [prompt for task in self.parts for prompt in _known_prompts(task, document)]

        async def outcome(name: str, seat: Seat, task: Task) -> _Outcome:
            columns = {column: document.columns[column] for column in task.columns_read}
            with seat:
                try:
                    if name in self._refused:
                        raise self._refused[name]
                    return await task.run(replace(document, columns=columns), seat)
                except (EngineError, ModelError):
                    raise
                except AnswerError as error:
                    return AnswerError(str(error), output=error.output or seat.written, columns=error.columns)
                except Exception as error:  # whatever is wrong with one task, the others' answers are paid for
                    if isinstance(error, DocumentError) and seat.written is None:
                        return error
                    reason = str(error) if isinstance(error, DocumentError) else f"{type(error).__name__}: {error}"
                    return AnswerError(reason, output=seat.written)

        async with task_group() as group:
            together = Together(asker, group, text_of(document), prompts, self.max_new_tokens)
            seats = [together.seat() for _ in self.tasks]
            running = [group.create_task(outcome(*one)) for one in zip(self.tasks, seats, self.parts, strict=True)]
        return {name: one.result() for name, one in zip(self.tasks, running, strict=True)}


def _task(name: Any, section: Any) -> Task:
    """One of the tasks; what is wrong with it names it."""
    if not (isinstance(name, str) and name.isidentifier()):
        raise SpecError(f"tasks: {shown(name)}: columns are named so: letters, digits and '_', no digit first")
    try:
        task = Task.from_spec(section)
    except SpecError as error:
        raise SpecError(re.sub(r"^task\b", f"tasks.{name}", str(error), flags=re.MULTILINE)) from error
    if task.exploded:
        raise SpecError(f"tasks.{name}.rows: question is for a job of this task alone")
    return task


def _fields(name: str, task: Task) -> list[pa.Field]:
    """The columns of one task, the first of its output, which tells more where the others are what was asked for."""
    own = task.result_fields
    more: dict[str, Any] = {"detail": "yes"} if any(b"detail" not in (field.metadata or {}) for field in own) else {}
    output = column(name, pa.string(), f"what {task.name} answered", **more)
    return [output, *(_renamed(name, field) for field in own)]


def _renamed(name: str, field: pa.Field) -> pa.Field:
    """A task's column as one of several tasks has it; so is what it says of another column."""
    metadata = dict(field.metadata or {})
    if answers := metadata.get(b"answers", b"").decode():
        metadata[b"answers"] = name if answers == "output" else f"{name}_{answers}"
    return field.with_name(f"{name}_{field.name}").with_metadata(metadata)


def _prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in values.items()}


def _joined(reasons: Mapping[str, object]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _known_prompts(task: Task, document: Document) -> Sequence[MakePrompt]:
    """What a task will put to the text; nothing where it does not know, or will fail."""
    try:
        return task.prompts(document)
    except DocumentError:
        return ()
