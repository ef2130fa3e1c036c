"""A model's chat template: what a spec tells it besides the messages, and what it puts behind an answer.

Knows nothing of what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from corm_batch.errors import ModelLoadError

_TAKEN = {"messages", "conversation", "tools", "documents", "chat_template", "tokenize", "padding", "truncation"}
_TAKEN |= {"max_length", "add_generation_prompt", "continue_final_message", "tokenizer_kwargs", "processor_kwargs"}
_TAKEN |= {"return_dict", "return_tensors", "return_assistant_tokens_mask", "bos_token", "eos_token", "pad_token"}
"""Names that say what is asked, or how it is encoded: a job's, not a spec's."""
_HINTS = {"reasoning_effort"}


def without_hints(given: Mapping[str, Any], template: str | Mapping[str, str] | None) -> dict[str, Any]:
    """The arguments of a request but for those that every model is told, `reasoning_effort`, where its template does
    not ask for them.

    Args:
        given: by name.
        template: as `check_arguments` has it.

    Raises:
        ModelLoadError: it is no template.
    """
    if not _HINTS & given.keys():
        return dict(given)
    known = _names(_joined(template), "chat_template_kwargs")
    return {name: value for name, value in given.items() if name not in _HINTS - known}


def check_arguments(
    given: Mapping[str, Any], template: str | Mapping[str, str] | None, *, called: str = "model.chat_template_kwargs"
) -> None:
    """Make sure that a chat template makes something of every argument.

    Args:
        given: by name.
        template: of the tokenizer, or several by name; None where it has none.
        called: the field that gives them, for messages.

    Raises:
        ModelLoadError: it does not know one of the names, which would change nothing in silence; or one is taken.
    """
    if given and not template:
        raise ModelLoadError(f"{called}: the tokenizer has no chat template, which alone knows them: leave them out")
    text = _joined(template)
    known = _names(text, called) if given else set()
    for name, value in given.items():
        if name in _TAKEN:
            raise ModelLoadError(f"{called}: {name!r} is not for a spec to say: the messages are the task's")
        if name not in known:
            raise ModelLoadError(f"{called}: the chat template says nothing of {name!r}{_others(text)}")
        if isinstance(value, str) and value.lower() in ("true", "false"):
            raise ModelLoadError(f"{called}: {name} is the text {value!r}, which no template takes for {value.lower()}")


def _joined(template: str | Mapping[str, str] | None) -> str:
    return " ".join(template.values()) if isinstance(template, Mapping) else template or ""


def _names(template: str, called: str) -> set[str]:
    """What a template reads that it does not set itself.

    Raises:
        ModelLoadError: it is no template.
    """
    source = re.sub(r"{%-?\s*(?:end)?generation\s*-?%}", "", template)  # a tag of transformers' own
    try:
        return find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source))
    except TemplateSyntaxError as error:
        raise ModelLoadError(f"{called}: the model's chat template cannot be read: {error}") from error


def _others(template: str) -> str:
    """Names that the template asks about by itself, which may have been meant."""
    found = re.findall(r"(?<![\w.])([A-Za-z_]\w*) is (?:not )?defined", template)
    names = sorted({*found} - _TAKEN)
    return f"; it asks for {', '.join(names)}" if names else ""


def end_tokens(tokenizer: Any, asked: Sequence[Mapping[str, str]], arguments: Mapping[str, Any]) -> set[int]:
    """The token of its own that the template puts behind an assistant's message; none where it puts none.

    Args:
        tokenizer: a transformers tokenizer with a template.
        asked: the messages before the answer.
        arguments: what else the template is told.
    """
    content = "\ue000answer\ue000"
    chat = [*asked, {"role": "assistant", "content": content}]
    try:
        rendered: str = tokenizer.apply_chat_template(chat, tokenize=False, **arguments)
    except Exception:  # a template for questions alone says nothing of an answer's end
        return set()
    _, found, behind = rendered.rpartition(content)
    behind = behind.lstrip()
    added = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.content}
    ends = [name for name in added if behind.startswith(name)]
    return {added[max(ends, key=len)]} if found and ends else set()
