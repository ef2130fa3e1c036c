"""Task: what to ask of a document. A new kind of job is one file in this folder.

A task is a coroutine over an `Asker`: it builds prompts from the document, awaits answers, and returns the output and
its own columns. It knows nothing of token ids, models, actors or files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import BeforeValidator, Field

from corm_batch.data.document import Document
from corm_batch.engine.request import SamplingParams
from corm_batch.errors import DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.registry import Plugin
from corm_batch.tasks.messages import Message
from corm_batch.tasks.row_values import RowField, values_of_row

StopText = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, strict=True)]


def _one_or_several(value: Any) -> Any:
    """One alone stands for a list of one."""
    return (value,) if isinstance(value, str | int) else value


StopTexts = Annotated[
    tuple[StopText, ...], BeforeValidator(_one_or_several, json_schema_input_type=StopText | tuple[StopText, ...])
]
TokenIds = Annotated[
    tuple[TokenId, ...], BeforeValidator(_one_or_several, json_schema_input_type=TokenId | tuple[TokenId, ...])
]
Overflow = Literal["map_reduce", "truncate", "error"]


ANOTHER_TEXT = "x"
"""A text that no document is, for what a prompt says whatever it is about."""


@dataclass(frozen=True)
class Prompt:
    """One thing to ask.

    Attributes:
        text: what it is about; may be empty.
        instruction: what is wanted of it.
        otherwise: makes the same prompt about another text, where the document's is not, or not alone, in `text`.
        messages: a whole chat, in place of text and instruction.
        template_arguments: what the model's chat template is told besides what the spec tells it, a JSON object.
    """

    text: str
    instruction: str
    otherwise: Callable[[], Prompt] | None = field(default=None, compare=False, repr=False)
    messages: tuple[Message, ...] = ()
    template_arguments: str = ""

    def about_another_text(self) -> Prompt:
        """The same about another text: what both say is the instruction, and no part of the document.

        Raises:
            DocumentError: there is none.
        """
        return Prompt(ANOTHER_TEXT, self.instruction) if self.otherwise is None else self.otherwise()


@dataclass(frozen=True)
class AnswerToken:
    """A token of what the model wrote, or one that it might have written in its place.

    Attributes:
        token: its text; what is no UTF-8 by itself is replaced.
        token_id: the model's.
        bytes: what it adds to the text: of a special token its name.
        logprob: natural-log probability, of the distribution that `SamplingParams` names.
        top_logprobs: the likeliest tokens in its place, the likeliest first; none of one of these.
    """

    token: str
    token_id: int
    bytes: bytes
    logprob: float
    top_logprobs: tuple[AnswerToken, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said to one prompt.

    Attributes:
        text: the answer, special tokens and the stop string removed.
        finish_reason: "stop" or "length".
        mean_logprob: mean natural-log probability of the answer's tokens: how certain the model was.
        logprobs: where its sampling asks for them, all tokens that the model wrote, those of its reasoning and the one
            that ends it included.
        prompt_tokens: of the whole prompt, read for this answer alone or for several.
    """

    text: str
    finish_reason: str
    mean_logprob: float
    logprobs: tuple[AnswerToken, ...] | None = None
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Ask:
    """One prompt and how it is to be answered.

    Attributes:
        prompt: what is asked.
        sampling: how to choose the answer's tokens, and when to stop.
        stop: texts before which the answer ends.
        grammar: the form that the answer has, behind the reasoning of a model whose prompt begins one; None for any.
    """

    prompt: Prompt
    sampling: SamplingParams
    stop: Sequence[str] = ()
    grammar: Grammar | None = None


class Asker(Protocol):
    """The model as a task sees it. Given by the pipeline, faked in tests."""

    async def ask(
        self, prompt: Prompt, sampling: SamplingParams, stop: Sequence[str] = (), grammar: Grammar | None = None
    ) -> Answer:
        """One answer; the arguments are those of `Ask`.

        Raises:
            DocumentError: the prompt does not fit, or the engine could not answer it.
            AnswerError: the model wrote no answer: nothing, or nothing but its reasoning.
        """

    async def ask_all(self, asks: Sequence[Ask]) -> list[Answer | DocumentError]:
        """Several things about one text, all in flight at once; what they begin with alike is read once.

        The entry of one that `ask` would raise a DocumentError for (an AnswerError is one) is that error, and the
        others are answered all the same.
        """

    def fits(self, prompts: Sequence[Prompt], max_new_tokens: int) -> bool:
        """Whether each of the prompts fits the model's context, with its answer."""

    def windows(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> list[str]:
        """Cut `text` into consecutive pieces, each of which fits when put through any of `prompts`."""

    def truncate(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> str:
        """The longest beginning of `text` that fits when put through any of `prompts`."""


@dataclass(frozen=True)
class TaskResult:
    """What a task made of one document.

    Attributes:
        output: the answer, as text.
        columns: the task's own columns, named as in `Task.result_fields`.
        finish_reason: "length" when an answer it rests on was cut off, else "stop".
        pieces: prompts asked in all.
        failed_fields: columns that are null because their answer cannot be used, with what was found and why not.
    """

    output: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    pieces: int = 1
    failed_fields: Mapping[str, str] = field(default_factory=dict)


class Task(Plugin, kind="task", package="corm_batch.tasks"):
    """What to ask of every document, and how to sample the answer."""

    max_new_tokens: int = Field(256, ge=1, description="tokens of one answer at most")
    temperature: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="0 takes the likeliest token")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="below 1 it goes before the one of the model's generation_config.json"
    )
    top_k: int = Field(
        0,
        ge=0,
        le=10**9,
        description="sample among so many likeliest tokens; 0: as generation_config.json says, all where it says "
        "nothing",
    )
    min_p: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="sample among tokens at least so many times as likely as the likeliest; 0: as "
        "generation_config.json says",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0.0,
        allow_inf_nan=False,
        description="divides the positive and multiplies the negative logits of tokens in prompt or answer, greedy "
        "answers' too; 1: as generation_config.json says",
    )
    presence_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, description="taken from the logits of tokens that the answer has, greedy answers' too"
    )
    frequency_penalty: float = Field(
        0.0, ge=-2.0, le=2.0, description="the same for each time that the answer has a token"
    )
    seed: int = Field(0, ge=0, description="of the draws, where temperature is above 0")
    stop: StopTexts = Field((), description="end the answer where one of these texts, or special tokens, would begin")
    stop_token_ids: TokenIds = Field((), description="end the answer before one of these tokens, too")
    row_values: dict[RowField, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="fields of these that a row has a value of its own for, and its column; null: as set here"
    )
    overflow: Overflow = Field("map_reduce", description="what to do with a document longer than the context")

    @property
    def sampling(self) -> SamplingParams:
        """The engine's view of the sampling fields."""
        return SamplingParams(
            **{name: getattr(self, name) for name in SamplingParams.model_fields.keys() - {"ignore_eos", "logprobs"}}
        )

    @property
    def tells_text(self) -> bool:
        """Whether its prompts about another text would be others, so that the rest of them is the instruction."""
        return True

    @property
    def draws_by_row(self) -> bool:
        """Whether a row may say itself that its answer is drawn."""
        return "temperature" in self.row_values

    @property
    def asks_several(self) -> bool:
        """Whether it asks several things about one text, which is then read before any of them is known."""
        return False

    @property
    def source_columns(self) -> Sequence[str]:
        """Columns of the source this task reads beside the text."""
        return ()

    @property
    def columns_read(self) -> Sequence[str]:
        """All columns of the source that a row needs: those the task reads, and those of `row_values`."""
        return tuple(dict.fromkeys([*self.source_columns, *self.row_values.values()]))

    def of_row(self, document: Document) -> Self:
        """The task with the values that a document's row has of its own; what is to be `run`.

        Raises:
            DocumentError: one of them is none that its field may have.
        """
        found = values_of_row(Task, self.row_values, document.columns)
        return self.model_copy(update=found) if found else self

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """Columns this task adds to the results table; all nullable."""
        return ()

    @property
    def parts(self) -> Sequence[Task]:
        """The tasks it is made of: itself, where it is one."""
        return (self,)

    def prompts(self, document: Document) -> Sequence[Callable[[str], Prompt]]:
        """What it puts to the text, where that is known before any answer; several tasks cut a long text for all.

        Raises:
            DocumentError: the document cannot be asked about.
        """
        return ()

    @property
    def exploded(self) -> Mapping[str, str]:
        """List columns of a result that make one row for each of their entries: their names to those in such a row.

        The entries of `output` are answers; one that is null makes a failed row. Empty: a document has one row.
        """
        return {}

    def asking_once(self) -> Task:
        """The same without asking again where an answer is not right, to count what it asks."""
        return self

    @abstractmethod
    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Answer one document.

        Raises:
            DocumentError: it cannot be asked about; the message becomes its row.
            AnswerError: what was answered cannot be used; so does this message, beside the answer.
        """
