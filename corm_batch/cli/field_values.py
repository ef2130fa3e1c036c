"""Units and examples of a spec's fields. A field of one name has one unit, wherever it stands.

An example is needed where a field has no default, or one that shows nothing: null, nothing, an empty list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("max_new_tokens", "max_model_len", "step_token_budget", "chunk_size", "token_budget"), "tokens"),
    **dict.fromkeys(("top_k", "logprobs", "reach", "chunk", "ahead", "first", "pooling"), "tokens"),
    **dict.fromkeys(("pin_first", "recent", "sinks", "page_size", "max_kept"), "entries"),
    **dict.fromkeys(("part_seconds", "document_timeout_s"), "seconds"),
    **dict.fromkeys(("gpus_per_replica", "tensor_parallel"), "GPUs"),
    **dict.fromkeys(("look_ahead", "part_documents", "max_sequences"), "documents"),
    **dict.fromkeys(("memory_fraction", "share", "stop_above", "top_p", "full_share", "keep_ratio"), "share of 1"),
    **dict.fromkeys(("key_share", "value_share", "progression", "error"), "share of 1"),
    **dict.fromkeys(("min_p", "recovery", "frequency", "local", "floor", "blending"), "share of 1"),
    **dict.fromkeys(("min", "max", "replicas"), "replicas"),
    "cpus_per_replica": "cores",
    "price_per_gpu_hour": "currency an hour",
    "max_actor_restarts": "restarts",
    "kv_memory": "bytes",
    "compact_every": "steps",
    "min_gap": "nats",
    "window": "queries",
    "retries": "times",
    "n": "answers",
    "layer": "layers",
    "sketch": "columns",
    "skip_layers": "layer indices",
    "coverage": "share of 1",
    "block": "tokens",
    **dict.fromkeys(("special_ids", "punctuation_ids", "first_ids", "later_ids", "closing_ids"), "token ids"),
    "stop_token_ids": "token ids",
    **dict.fromkeys(("repetition_penalty", "presence_penalty", "frequency_penalty"), "plain number"),
    **dict.fromkeys(("seed", "temperature", "tau", "beta", "epsilon", "scores"), "plain number"),
}
"""By field; one that is not here is no number."""

_SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}}}
EXAMPLES: Final[Mapping[str, Any]] = {
    "name": "papers",
    "model": {"name": "org/model"},
    "source": {"name": "parquet", "uri": "s3://bucket/papers/"},
    "task": {"name": "summarize"},
    "tasks": {"summary": {"name": "summarize"}},
    "policy": {"name": "corm"},
    "engine": {"max_sequences": 64},
    "cluster": {"replicas": 2},
    "verify": {"share": 0.05},
    "fallback": "full",
    "output": {"uri": "s3://bucket/summaries/"},
    "model.name": "meta-llama/Llama-3.1-8B-Instruct",
    "revision": "main",
    "system": "You are a librarian.",
    "chat_template_kwargs": {"enable_thinking": False},
    "address": "auto",
    "columns": ["url", "meta.title"],
    "delimiter": ";",
    "gpus_per_replica": 1,
    "cpus_per_replica": 4,
    "price_per_gpu_hour": 2.5,
    "token_budget": 200000,
    "max": 8,
    "kv_memory": "40GiB",
    "max_model_len": 32768,
    "compact_every": 64,
    "propagation": {"name": "attention"},
    "storage": {"name": "model"},
    "sharing": {7: 2},
    "min_gap": 0.25,
    "stop_above": 0.05,
    "output.uri": "s3://bucket/summaries/",
    "uri": "s3://bucket/papers/",
    "id_column": "doc_id",
    "filter": "status == 'ok' and year > 2000",
    "group_by": "topic",
    "stop": ["\n\n"],
    "row_values": {"max_new_tokens": "answer_tokens"},
    "stop_token_ids": [2],
    "schema": _SCHEMA,
    "task.extract.questions": {"pages": "How many pages has it?"},
    "validate": ["pages > 0"],
    "template": "{{ text }}\n\nWhat is this about?",
    "messages": [{"role": "user", "content": "{{ text }}\n\nWhat is this about?"}],
    "n": 3,
    "logprobs": 5,
    "role": "user",
    "content": "{{ text }}",
    "messages_column": "messages",
    "served_model_name": "org/model",
    "reduce_template": "{{ outputs | join(' ') }}\n\nWhat is all this about?",
    "question": "Who wrote it?",
    "question_column": "question",
    "task.extract.instruction": "Fill this in from the document above: {schema}",
    "task.question_answer.instruction": "{question} Answer in one word.",
    "task.summarize.instruction": "Sum up the document above in one sentence.",
    "reduce_instruction": "Make one sentence of these.",
    "question_instruction": "{question} Answer in one word.",
    "questions": ["Who wrote it?", "When?"],
    "questions_column": "questions",
    "choices": ["yes", "no"],
    "pattern": "[0-9]{4}",
    "budget": {"name": "adakv", "max_kept": 0.25},
    "preset": "paper",
    "scores": [[0.9, 0.1], [0.2, 0.8]],
    "basis": "eigen.safetensors",
    "error": 0.03,
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "special_ids": [1, 2],
    "punctuation_ids": [11, 13],
    "first_ids": [374],
    "later_ids": [374],
    "closing_ids": [25],
}
"""By field, or by section and field where it is another one there."""


def unit_of(name: str) -> str | None:
    """What a field of this name is counted in."""
    return UNITS.get(name)


def example_of(section: str, name: str, field: Mapping[str, Any]) -> Any:
    """A value of a field: one that is named here, else another choice than its default, else the default.

    Args:
        section: its path in the spec, empty for the whole; a plug-in's is its kind and its name.
        name: of the field.
        field: its JSON Schema.
    """
    for path in (f"{section}.{name}".removeprefix("."), name):
        if path in EXAMPLES:
            return EXAMPLES[path]
    if field.get("type") == "boolean":
        return not field.get("default", False)
    others = [choice for choice in field.get("enum", ()) if choice != field.get("default")]
    return others[0] if others else field.get("default")
