"""Pins: tokens of a prompt whose entries never leave, whatever a policy says of them.

Its first ones, and its instruction, as the policy wants; of a layer whose policy wants none there are none. Everybody
else asks for a mask, or how many there are.
"""

from __future__ import annotations

from collections import abc
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from corm_batch.budgets.base import Place
from corm_batch.engine.request import Request
from corm_batch.engine.sequence import Sequence
from corm_batch.errors import DocumentError
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import KVPolicy

_REMEMBERED = 4096
"""Prompts whose spans are kept."""


def pinned_spans(policy: KVPolicy, request: Request) -> tuple[range, ...]:
    """The tokens that are pinned, as indices from 0: in order, no two spans touching. What a reading that the prompt
    begins with has pinned is its own, and not named again."""
    if not policy.num_first and not policy.pins_instruction:
        return ()
    first = (range(policy.num_first),) if request.reading is None else ()
    instruction = (request.own_instruction if policy.pins_instruction else None) or ()
    return _joined((*first, *instruction), request.num_prompt_tokens)


def num_pins(policy: KVPolicy, request: Request) -> int:
    """How many these are."""
    return sum(map(len, pinned_spans(policy, request)))


def pinned_entries(policy: KVPolicy, sequences: abc.Sequence[Sequence], position: Tensor) -> Tensor | None:
    """Which entries are pinned.

    Args:
        policy: of the layer.
        sequences: whose entries these are.
        position: [K, N] of one sequence, or [S, K, N].

    Returns:
        bool, shaped like `position`; None when nothing is.
    """
    spans = [pinned_spans(policy, sequence.request) for sequence in sequences]
    if not any(spans):
        return None
    edges = pad_sequence([_edges(one, position.device) for one in spans], batch_first=True, padding_value=NEVER)
    # Positions count from 1: of a pinned one, an odd number of edges lie below it.
    below = torch.searchsorted(edges, position.reshape(len(sequences), -1).contiguous(), out_int32=True)
    return (below % 2 == 1).view(position.shape)


def never_expiring(
    policy: KVPolicy, sequences: abc.Sequence[Sequence], entries: Entries, packing: Packing | None = None
) -> Entries:
    """Entries, [K, N], of which those that are pinned never expire.

    Args:
        policy: of the layer.
        sequences: whose entries these are.
        entries: of the layer.
        packing: where those of each sequence stand; None where all are of one.
    """
    apart = entries.position[None] if packing is None else packing.unpack(entries.position)
    if (pinned := pinned_entries(policy, sequences, apart)) is None:
        return entries
    packed = pinned[0] if packing is None else packing.pack(pinned)
    return entries._replace(expiry=entries.expiry.masked_fill(packed, NEVER))


def find_pin_problem(policy: KVPolicy, request: Request, num_layers: int, num_heads: int) -> DocumentError | None:
    """Why what is pinned of a request cannot stay; None when it can.

    Args:
        policy: what survives in layers without a sliding window of their own.
        request: with spans that are in its prompt.
        num_layers, num_heads: of the model, kv heads of a layer.
    """
    if request.uncompressed:
        return None
    if policy.pins_instruction and request.instruction is None:
        return DocumentError("policy.pin_instruction: it is not said which tokens of the prompt are its instruction")
    pins, num_tokens = num_pins(policy, request), request.num_prompt_tokens + request.most_new_tokens
    stay = pins + policy.num_pinned
    for layer in range(num_layers if pins else 0):
        if (budget := policy.budget_at(layer)) is None:
            continue
        room = int(np.min(budget.most(Place(layer, num_layers, num_heads, stay), num_tokens)))
        if isinstance(budget.max_kept, int):  # a share gives way to what stays in any case
            room = min(budget.max_kept, room)
        if room < min(stay, num_tokens):
            return DocumentError(
                f"{pins} tokens of the prompt are pinned (policy.pin_first, policy.pin_instruction) and the newest "
                f"{policy.num_pinned} entries stay, too: that makes {stay}, and a head may hold {room} "
                f"(policy.budget.max_kept {budget.max_kept})"
            )
    return None


@lru_cache(_REMEMBERED)
def _joined(spans: tuple[range, ...], num_tokens: int) -> tuple[range, ...]:
    """Spans in order, within the prompt, those that touch as one."""
    joined: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        start, stop = span.start, min(span.stop, num_tokens)
        if joined and start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, stop))
        elif start < stop:
            joined.append(range(start, stop))
    return tuple(joined)


@lru_cache(_REMEMBERED)
def _edges(spans: tuple[range, ...], device: torch.device) -> Tensor:
    """[2 P] int32: where spans begin and end; remembered, for a copy in every layer would have the device wait."""
    return torch.tensor([edge for span in spans for edge in (span.start, span.stop)], dtype=torch.int32, device=device)
