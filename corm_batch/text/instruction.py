"""Which tokens of a prompt are its instruction: those that are there whatever text the prompt is about.

Instruction or question, system prompt and what the chat template puts around them. Found by encoding the same prompt
about another text: no tokenizer has to know where its tokens come from.
"""

from __future__ import annotations

from corm_batch.tasks.base import Prompt
from corm_batch.text.spans import unchanged_ends
from corm_batch.text.tokenize import PromptTokenizer


def instruction_spans(tokenizer: PromptTokenizer, prompt: Prompt) -> tuple[range, ...]:
    """Spans of `tokenizer.encode(prompt)` that are not the document's.

    Raises:
        DocumentError: the prompt cannot be made of another text.
    """
    return unchanged_ends(tokenizer.encode(prompt), tokenizer.encode(prompt.about_another_text()))
