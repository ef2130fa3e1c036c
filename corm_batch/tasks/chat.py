"""Chats: each row's own messages, or its own request to a chat model. Knows nothing of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pyarrow as pa
from pydantic import Field

from corm_batch.data.document import Document
from corm_batch.data.schema import column
from corm_batch.errors import DocumentError
from corm_batch.registry import shown
from corm_batch.tasks.base import Asker, Prompt, TaskResult
from corm_batch.tasks.chat_request import ChatRequest
from corm_batch.tasks.messages import messages_of
from corm_batch.tasks.sampled import ANSWERS, SampledTask
from corm_batch.tasks.scored import LOGPROBS


class Chat(SampledTask, name="chat"):
    """The model's next message of each row's own chat.

    A row holds a request as OpenAI's chat completions take it, messages and parameters, such as `source: {name:
    openai_batch}` reads, or messages alone (`messages_column`). What a request does not say is as the fields here say,
    so an answer is greedy unless somebody gives a temperature. A parameter that cannot be honoured fails its row and is
    named. Every row has the columns of several answers; `logprobs` is null where nobody asked for it.
    """

    body_column: str = Field(
        "body", min_length=1, description="column of requests: objects with messages and, it may be, parameters"
    )
    messages_column: str | None = Field(
        None, min_length=1, description="column of messages, role and content each, in place of requests"
    )
    served_model_name: str | None = Field(
        None, min_length=1, description="what requests have to call the model; null: as they like"
    )
    overflow: Literal["error"] = Field("error", description="a chat longer than the context fails")

    @property
    def tells_text(self) -> bool:
        """Nothing tells what of a chat is a document."""
        return False

    @property
    def draws_by_row(self) -> bool:
        """A request says it itself."""
        return self.messages_column is None or super().draws_by_row

    @property
    def source_columns(self) -> Sequence[str]:
        """That of the requests, or of the messages."""
        return (self.messages_column or self.body_column,)

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """Those of several answers, for a row may ask for them, and what a response says of the request."""
        return (
            column("model", pa.string(), "the model as the request calls it", detail="yes"),
            column("request_tokens", pa.int64(), "of the chat as the model sees it", unit="tokens", detail="yes"),
            *ANSWERS,
            LOGPROBS,
        )

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Answer one chat.

        Raises:
            DocumentError: it is none, asks for what cannot be honoured, or is too long.
            AnswerError: the model wrote, but no answer.
        """
        request = self._request(document)
        task = self.model_copy(update=request.values)
        prompt = Prompt("", "", messages=request.messages, template_arguments=request.template_arguments)
        form = await asyncio.to_thread(request.form, task.max_new_tokens)  # a schema may take its time
        if not asker.fits([prompt], task.max_new_tokens):
            raise DocumentError(
                f"{len(request.messages)} messages and {task.max_new_tokens} new tokens are longer than the model's "
                "context"
            )
        result = await task.answered(asker, prompt, form)
        return replace(result, columns={**result.columns, "model": request.model})

    def _request(self, document: Document) -> ChatRequest:
        """What the row asks for."""
        (name,) = self.source_columns
        value = document.columns[name]
        if self.messages_column is not None:
            return ChatRequest(messages_of(value, name), model=self.served_model_name)
        request = ChatRequest.of_body(value, type(self), name)
        if self.served_model_name not in (None, request.model):
            raise DocumentError(
                f"{name}.model: the model is called {self.served_model_name!r} here, got {shown(request.model)}"
            )
        return request
