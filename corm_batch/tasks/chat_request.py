"""ChatRequest: what a request in the form of OpenAI's chat completions asks for, and which of it no engine here can do.

Nothing of a request is passed over: what cannot be honoured is refused by its name. Knows nothing of where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from corm_batch.errors import AnswerError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.registry import shown
from corm_batch.tasks.base import Answer, Task
from corm_batch.tasks.json_schema import check_schema, validator
from corm_batch.tasks.messages import Message, messages_of
from corm_batch.tasks.row_values import valid_value
from corm_batch.tasks.schema_grammar import Form

_FIELDS = {
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    **{
        name: name
        for name in (
            "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "presence_penalty",
            "frequency_penalty", "repetition_penalty", "n",
        )
    },
}  # fmt: skip
"""Parameters that are fields of the task."""
_OWN = ("model", "messages", "logprobs", "top_logprobs", "response_format", "chat_template_kwargs", "reasoning_effort")
_NOTHING = (
    *("user", "metadata", "safety_identifier", "store", "service_tier", "priority", "request_id", "stream_options"),
    *("prompt_cache_key", "prompt_cache_retention", "cache_salt", "prediction", "parallel_tool_calls"),
)
"""Say nothing of the answer: for whom it is, when it comes, what is kept or guessed of it, how it would be streamed."""
_AS_IT_IS: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,), "echo": (False,), "ignore_eos": (False,), "min_tokens": (0,),
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "logit_bias": ({},), "bad_words": ([],), "modalities": (["text"],), "verbosity": ("medium",),
    "add_generation_prompt": (True,), "continue_final_message": (False,), "add_special_tokens": (False,),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,), "include_reasoning": (True,),
    "include_stop_str_in_output": (False,), "use_beam_search": (False,), "length_penalty": (1,), "best_of": (1,),
    "return_token_ids": (False,), "return_tokens_as_token_ids": (False,),
}  # fmt: skip
"""Parameters that can be said, but only as everything is done anyway."""


@dataclass(frozen=True)
class JsonForm:
    """JSON that an answer is held to.

    Attributes:
        grammar: holds it.
        schema: what is checked of it afterwards, once it is whole.
        within: allows what is not as long as it may only be because an answer has to end; None for anything.
    """

    grammar: Grammar
    schema: Mapping[str, Any]
    within: Mapping[str, Any] | None = None

    def checked(self, answer: Answer) -> Answer | AnswerError:
        """The answer, or what is wrong with it; one that was cut off, by its form too, says so itself."""
        if answer.finish_reason == "length":
            return answer
        try:
            value = json.loads(answer.text)
            error = next(validator(self.schema).iter_errors(value), None)
        except (ValueError, RecursionError) as caught:
            return AnswerError(f"the answer is no JSON ({caught})")
        if error is not None:
            return AnswerError(f"the answer breaks response_format: {error.json_path}: {error.message[:300]}")
        if self.within is not None and not validator(self.within).is_valid(value):
            return replace(answer, finish_reason="length")
        return answer


@dataclass(frozen=True)
class ChatRequest:
    """One request.

    Attributes:
        messages: the chat.
        values: of fields of the task, by name.
        model: as the request calls it.
        template_arguments: as `Prompt` has them.
        response_format: as it was given.
    """

    messages: tuple[Message, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    template_arguments: str = ""
    response_format: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_body(cls, body: Any, task: type[Task], called: str) -> ChatRequest:
        """That of a body, in which null is what is not there.

        Args:
            body: the value that should be one.
            task: declares what its parameters may be.
            called: what messages call it.

        Raises:
            DocumentError: what is wrong with it, or cannot be honoured.
        """
        if not isinstance(body, Mapping):
            raise DocumentError(f"{called}: expected an object with messages, got {shown(body)}")
        given = {name: value for name, value in body.items() if value is not None}
        known = {*_FIELDS, *_OWN, *_NOTHING}
        for name, value in given.items():
            if name not in known and value not in _AS_IT_IS.get(name, ()):
                if name in _AS_IT_IS:
                    only = " or ".join(map(json.dumps, _AS_IT_IS[name]))
                    raise DocumentError(f"{called}.{name}: can only be {only} here, got {shown(value)}")
                raise DocumentError(
                    f"{called}.{name}: cannot be honoured, got {shown(value)}; a request may set "
                    f"{', '.join(sorted({*_FIELDS, *_OWN}))}"
                )
        model, arguments = given.get("model"), given.get("chat_template_kwargs", {})
        if model is not None and not isinstance(model, str):
            raise DocumentError(f"{called}.model: expected a name, got {shown(model)}")
        if not isinstance(arguments, Mapping):
            raise DocumentError(f"{called}.chat_template_kwargs: expected an object, got {shown(arguments)}")
        effort = given.get("reasoning_effort")
        if effort is not None and not isinstance(effort, str):
            raise DocumentError(f"{called}.reasoning_effort: expected a word such as low, got {shown(effort)}")
        arguments = {"reasoning_effort": effort, **arguments}
        told = {name: value for name, value in arguments.items() if value is not None}
        response_format = given.get("response_format", {})
        if not isinstance(response_format, Mapping):
            raise DocumentError(f"{called}.response_format: expected an object, got {shown(response_format)}")
        return cls(
            messages_of(given.get("messages"), f"{called}.messages"),
            _values(given, task, called),
            model,
            json.dumps(told, sort_keys=True) if told else "",
            response_format,
        )

    def form(self, max_new_tokens: int) -> JsonForm | None:
        """What answers of so many tokens are held to; None for any text.

        Raises:
            DocumentError: there is no such form, or nothing can be held to it.
        """
        kind = self.response_format.get("type", "text")
        if kind == "text":
            return None
        if kind == "json_object":
            schema: dict[str, Any] = {"type": "object"}
            return JsonForm(Grammar.of_schema(schema), schema)
        if kind != "json_schema":
            raise DocumentError(f"response_format.type: expected text, json_object or json_schema, got {shown(kind)}")
        section = self.response_format.get("json_schema")
        given = section.get("schema") if isinstance(section, Mapping) else None
        if not isinstance(given, Mapping):
            raise DocumentError(f"response_format.json_schema.schema: expected a JSON Schema, got {shown(given)}")
        try:
            schema = check_schema(dict(given))
            form = Form.of(schema, max_new_tokens)
            return JsonForm(Grammar.of_schema(form.schema), schema, form.within)
        except ValueError as error:
            raise DocumentError(f"response_format.json_schema.schema: {error}") from error


def _values(given: Mapping[str, Any], task: type[Task], called: str) -> dict[str, Any]:
    """Values of the task's fields."""
    found: dict[str, Any] = {}
    for name, to in _FIELDS.items():
        if name not in given:
            continue
        value = 0 if (name, given[name]) == ("top_k", -1) else given[name]  # -1 is all of them, too
        value = valid_value(task, to, value, f"{called}.{name}")
        if found.setdefault(to, value) != value:
            raise DocumentError(f"{called}: max_tokens and max_completion_tokens differ: one of them is enough")
    wanted = given.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise DocumentError(f"{called}.logprobs: expected true or false, got {shown(wanted)}")
    most = given.get("top_logprobs", 0)
    if most and not wanted:
        raise DocumentError(f"{called}.top_logprobs: {shown(most)} needs logprobs: true")
    if "logprobs" in given:
        found["logprobs"] = valid_value(task, "logprobs", most, f"{called}.top_logprobs") if wanted else None
    return found
