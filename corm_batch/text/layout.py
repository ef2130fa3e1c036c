"""Layout: how a prompt becomes the chat that a model sees, and how its template lays that chat out.

Knows nothing of token ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from corm_batch.errors import DocumentError, ModelLoadError
from corm_batch.tasks.base import Prompt
from corm_batch.text.chat_template import check_arguments, without_hints

DocumentRole = Literal["user", "document"]
Messages = Sequence[Mapping[str, str]]
ANY_PROMPT = Prompt(text="(text)", instruction="(instruction)")
"""What stands for every prompt of a text and an instruction, to see what the template makes of one."""


class Layout:
    """That of one model's prompts.

    Args:
        tokenizer: a transformers tokenizer.
        document_role: "user": one user message holds text and instruction; "document": the text is a message of
            its own, with the role `document`.
        system: what the model is told before everything else, but for a chat that has a system message of its own.
        arguments: what the chat template is told besides, by name.

    Raises:
        ModelLoadError: the chat template refuses messages of these roles, or leaves them out, or knows nothing of
            an argument; or there is none, and a role of its own is asked for.
    """

    def __init__(
        self, tokenizer: Any, document_role: DocumentRole, system: str | None, arguments: Mapping[str, Any]
    ) -> None:
        self._tokenizer, self._document_role, self._system = tokenizer, document_role, system
        self.arguments = dict(arguments)
        check_arguments(self.arguments, tokenizer.chat_template)
        if tokenizer.chat_template:
            self._check_template()
        elif document_role != "user":
            raise ModelLoadError(
                f"model.document_role: {document_role}: the tokenizer has no chat template, which alone knows roles: "
                "leave it out, and system, document and instruction are put one after the other as plain text"
            )

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The chat the model sees."""
        has_own = any(message.role == "system" for message in prompt.messages)
        system = [{"role": "system", "content": self._system}] if self._system and not has_own else []
        if prompt.messages:
            return [*system, *(message._asdict() for message in prompt.messages)]
        if self._document_role == "document":
            document = {"role": "document", "content": prompt.text}
            return [*system, document, {"role": "user", "content": prompt.instruction}]
        parts = [part for part in (prompt.text, prompt.instruction) if part]
        return [*system, {"role": "user", "content": "\n\n".join(parts)}]

    def plain(self, prompt: Prompt) -> str:
        """The same as text, for a model without a template.

        Raises:
            DocumentError: it is a chat of more than a question, whose roles nothing could tell, or tells a template
                something.
        """
        self.arguments_of(prompt)
        roles = [message.role for message in prompt.messages if message.role != "system"]
        if roles not in ([], ["user"]):
            raise DocumentError(
                f"messages of the roles {', '.join(roles)}: the model's tokenizer has no chat template, which alone "
                "knows roles"
            )
        parts = [self._system, prompt.text, prompt.instruction]
        if prompt.messages:
            parts = [message["content"] for message in self.messages(prompt)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def rendered(self, prompt: Prompt, messages: Messages) -> str:
        """The chat of a prompt as the template lays it out, up to where the answer starts.

        Args:
            prompt: says what the template is told.
            messages: its chat, as it is to be laid out.

        Raises:
            DocumentError: the template refuses the messages, leaves one out, or knows nothing of an argument.
        """
        if not prompt.messages:
            return self.render(messages, self.arguments_of(prompt))
        try:
            text = self.render(messages, self.arguments_of(prompt))
        except DocumentError:
            raise
        except Exception as error:  # somebody else's template can fail in any way
            raise DocumentError(f"the model's chat template refuses the messages: {error}") from error
        for message in messages:  # of earlier answers many templates leave out the reasoning
            if message["role"] != "assistant" and message["content"].strip() not in text:
                raise DocumentError(f"the model's chat template leaves out messages of the role {message['role']}")
        return text

    def render(
        self, messages: Messages, arguments: Mapping[str, Any] | None = None, *, add_generation_prompt: bool = True
    ) -> str:
        """A chat as the model's template lays it out."""
        told = self.arguments if arguments is None else arguments
        rendered: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **told
        )
        return rendered

    def arguments_of(self, prompt: Prompt) -> dict[str, Any]:
        """What the template is told for a prompt.

        Raises:
            DocumentError: it knows nothing of one of the prompt's own.
        """
        if not prompt.template_arguments:
            return self.arguments
        try:
            own = without_hints(json.loads(prompt.template_arguments), self._tokenizer.chat_template)
            check_arguments(own, self._tokenizer.chat_template, called="chat_template_kwargs")
        except ModelLoadError as error:
            raise DocumentError(str(error)) from error
        return {**self.arguments, **own}

    def _check_template(self) -> None:
        """Make sure that the model will see every message.

        Raises:
            ModelLoadError: the chat template refuses the messages, or leaves one out in silence.
        """
        messages = self.messages(ANY_PROMPT)
        try:
            rendered = self.render(messages)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelLoadError(
                f"model: the chat template refuses messages of the roles {roles}: {error}; "
                "see model.document_role and model.system"
            ) from error
        for message in messages:
            if message["content"].strip() not in rendered:
                raise ModelLoadError(
                    f"model: the chat template leaves out messages of the role {message['role']}; "
                    "see model.document_role and model.system"
                )
