"""OpenAI's batch output: for each request a line with its response, a chat completion, or an error object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from corm_batch.data.document import digest
from corm_batch.data.formats.base import Format
from corm_batch.data.formats.json_values import json_text

_OF_EVERY_TASK = (
    *("doc_id", "run_id", "status", "error_type", "error_message", "reasoning_content", "committed_at"),
    "output_tokens",
)
_OF_A_CHAT = ("model", "request_tokens", "answers", "finish_reasons", "logprobs")


class OpenAIBatch(Format, name="openai_batch"):
    """Lines as OpenAI's Batch API and vLLM's run-batch give them back, of the rows of task `chat`.

    `custom_id` is the row's id. Of a failed row `error` has the kind and the text. An answer that failed beside others
    is left out of the choices, whose `index` counts it. `usage` counts the prompt once and the tokens of all answers.
    """

    suffixes = (".batch.jsonl",)
    is_text = True
    needs = frozenset(_OF_A_CHAT)

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write a line for each row of `pieces`."""
        for piece in pieces:
            for row in piece.select([*_OF_EVERY_TASK, *_OF_A_CHAT]).to_pylist():
                sink.write(json_text(_line(row)).encode() + b"\n")


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    key = digest(row["doc_id"], row["run_id"]).hex()
    failed = row["status"] != "ok"
    response = {"status_code": 200, "request_id": f"req_{key}", "body": None if failed else _completion(row, key)}
    return {
        "id": f"batch_req_{key}",
        "custom_id": row["doc_id"],
        "response": None if failed else response,
        "error": {"code": row["error_type"], "message": row["error_message"]} if failed else None,
    }


def _completion(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The body of a response."""
    read, written = row["request_tokens"], row["output_tokens"]
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": int(row["committed_at"].timestamp()),
        "model": row["model"] or "",
        "choices": list(_choices(row)),
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _choices(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for index, text in enumerate(row["answers"]):
        if text is None:
            continue
        tokens = row["logprobs"][index]
        message = {"role": "assistant", "content": text, "refusal": None}
        if len(row["answers"]) == 1:  # that of several is not told apart
            message["reasoning_content"] = row["reasoning_content"]
        yield {
            "index": index,
            "message": message,
            "finish_reason": row["finish_reasons"][index],
            "logprobs": None if tokens is None else {"content": list(map(_token, tokens)), "refusal": None},
        }


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    found = {"token": token["token"], "bytes": list(token["bytes"]), "logprob": token["logprob"]}
    likeliest = token.get("top_logprobs")
    return found if likeliest is None else {**found, "top_logprobs": list(map(_token, likeliest))}
