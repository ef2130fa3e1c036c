"""Free prompts written as Jinja templates over the row's columns. Knows nothing of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

from jinja2 import TemplateError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from corm_batch.data.document import Document
from corm_batch.data.render import Renderer
from corm_batch.data.template import ENVIRONMENT, ROW, parsed, variables
from corm_batch.errors import AnswerError, DocumentError
from corm_batch.tasks.base import ANOTHER_TEXT, Answer, Asker, Prompt, TaskResult
from corm_batch.tasks.messages import Message, Role
from corm_batch.tasks.overflow import ask_all, finish_reason_of, pieces, text_of
from corm_batch.tasks.sampled import SampledTask

_OF_THE_DOCUMENT = {"text", "doc_id"}
_OUTPUTS = "outputs"
_RENDERER = Renderer()


def _valid_template(source: str) -> str:
    """Refuse a template with a syntax error, or with a column's name that Jinja reads as a difference, and one that
    can be rendered for no document."""
    try:
        tokens = [(kind, value) for _, kind, value in ENVIRONMENT.lex(source)]
        parsed(source)
        ENVIRONMENT.from_string(source)
    except (TemplateError, RecursionError) as error:
        raise ValueError(f'no valid template: {error} (a column of any name: {ROW}["any name"])') from error
    for (left, a), (middle, minus), (right, b) in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (left, middle, right) == ("name", "operator", "name") and minus == "-":
            raise ValueError(
                f'{a}-{b} is {a} minus {b}: a column of that name is {ROW}["{a}-{b}"], a difference {a} - {b}'
            )
    if problem := _RENDERER.problem_with_every_row(source):
        raise ValueError(f"it can be rendered for no document: {problem}")
    return source


TemplateText = Annotated[str, AfterValidator(_valid_template), Field(min_length=1)]


class MessageTemplate(BaseModel):
    """A message of a chat, its content a template."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = Field(description="who says it")
    content: TemplateText = Field(description="what is said, over the row's columns as `template` is")


class PromptTask(SampledTask, name="prompt"):
    """Whatever a Jinja template over the row's columns, `text` and `doc_id` says.

    A column whose name is not one word is `row["its name"]`. The template is the whole user message; `messages` are a
    whole chat, in which earlier questions and answers may show what is wanted. With `overflow: map_reduce` it is
    rendered once for every window (the window is its `text`), and `reduce_template` makes one prompt of the answers,
    its `outputs`; when they are too many for the context they are combined group by group.
    """

    template: TemplateText | None = Field(
        None, description='the prompt; {{ text }} is the document, {{ row["a-name"] }} a column of any name'
    )
    messages: tuple[MessageTemplate, ...] = Field(
        (), description="a chat in its place: role (system, developer, user or assistant) and content, a template, each"
    )
    reduce_template: TemplateText | None = Field(None, description="with map_reduce: a prompt of {{ outputs }}, a list")

    @model_validator(mode="after")
    def _templates_agree(self) -> Self:
        """One prompt; map_reduce and reduce_template come together, and each template uses what it is for."""
        if (self.template is None) == (not self.messages):
            raise ValueError("exactly one of template and messages is needed")
        if (self.overflow == "map_reduce") != (self.reduce_template is not None):
            raise ValueError("overflow: map_reduce and reduce_template come together; else: truncate or error")
        if self.reduce_template is not None and _OUTPUTS not in variables(self.reduce_template):
            raise ValueError("reduce_template must use outputs, the windows' answers")
        return self

    @property
    def _used(self) -> set[str]:
        """What the prompt names."""
        return set().union(*map(variables, filter(None, (self.template, *(one.content for one in self.messages)))))

    @property
    def tells_text(self) -> bool:
        """Whether the prompt uses `text`."""
        return "text" in self._used

    @property
    def source_columns(self) -> Sequence[str]:
        """The columns the templates name."""
        used = self._used | (variables(self.reduce_template) if self.reduce_template else set())
        return sorted(used - _OF_THE_DOCUMENT - ({_OUTPUTS} if self.reduce_template else set()))

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Ask what the template says about one document."""
        with _Rendering(document) as rendering:
            prompts = await asyncio.to_thread(self._prompts, rendering, asker, text_of(document))
            if len(prompts) == 1:
                return await self.answered(asker, prompts[0])
            answers = await ask_all(self, asker, prompts)
            asked = [*answers]
            while len(answers) > 1:
                groups = await asyncio.to_thread(self._grouped, answers, rendering, asker)
                if len(groups) == len(answers):
                    raise AnswerError(
                        f"no two of the {len(asked)} windows' answers fit one prompt of task.reduce_template"
                    )
                answers = await ask_all(self, asker, groups)
                asked += answers
        return replace(self.result(answers, len(asked)), finish_reason=finish_reason_of(asked))

    def _prompts(self, rendering: _Rendering, asker: Asker, text: str) -> list[Prompt]:
        """The template over the row, or over its windows."""

        def prompt(piece: str) -> Prompt:
            return rendering.prompt(self.template or self.messages, text=piece)

        return [prompt(piece) for piece in pieces(self, asker, text, prompt)]

    def _grouped(self, answers: Sequence[Answer], rendering: _Rendering, asker: Asker) -> list[Prompt]:
        """Prompts of consecutive answers, each of as many as fit."""

        def reduction(outputs: list[str]) -> Prompt:
            assert self.reduce_template is not None
            return rendering.prompt(self.reduce_template, called="reduce_template", outputs=outputs)

        groups: list[list[str]] = [[]]
        for answer in answers:
            longer = [*groups[-1], answer.text]
            if groups[-1] and not asker.fits([reduction(longer)], self.max_new_tokens):
                groups.append([answer.text])
            else:
                groups[-1] = longer
        return [reduction(outputs) for outputs in groups]


class _Rendering:
    """Templates over one row, as long as somebody waits for them.

    Whoever renders does it in a thread: a template may take all the time it has, and others' answers wait for the event
    loop. The thread of a document that is given up ends with what it is rendering.

    A template may use its text, or the answers, in any way. What it says of others of the same length, too, is the
    instruction.
    """

    def __init__(self, document: Document) -> None:
        self._columns = {"text": document.text, "doc_id": document.doc_id, **document.columns}
        self._last: tuple[dict[str, Any], Prompt] | None = None
        self._given_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up = True

    def prompt(self, template: str | Sequence[MessageTemplate], *, called: str = "template", **values: Any) -> Prompt:
        """The template of a field called so, or those of a chat's messages, over the row's columns and `values`.

        Raises:
            DocumentError: they do not suit it.
        """
        if self._given_up:
            raise DocumentError("given up")
        if self._last is None or self._last[0] != values:  # often the same again: does it fit, and then the prompt

            def otherwise() -> Prompt:
                return self._prompt(template, called, {name: _another_like(value) for name, value in values.items()})

            self._last = values, replace(self._prompt(template, called, values), otherwise=otherwise)
        return self._last[1]

    def _prompt(self, template: str | Sequence[MessageTemplate], called: str, values: Mapping[str, Any]) -> Prompt:
        if isinstance(template, str):
            return Prompt("", self._render(template, called, values))
        contents = (
            self._render(one.content, f"messages[{place}].content", values) for place, one in enumerate(template)
        )
        return Prompt("", "", messages=tuple(map(Message, (one.role for one in template), contents)))

    def _render(self, template: str, called: str, values: Mapping[str, Any]) -> str:
        columns = {**self._columns, **values}
        return _RENDERER.render(template, {ROW: dict(columns), **columns}, called=f"task.{called}")


def _another_like(value: str | list[str]) -> str | list[str]:
    """Other words, as many characters of them; of a list, each."""
    if isinstance(value, list):
        return [(f"{ANOTHER_TEXT} " * len(one))[: len(one)] for one in value]
    return (f"{ANOTHER_TEXT} " * len(value))[: len(value)]
