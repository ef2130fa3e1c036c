"""check_policy(): a policy is tried on a few entries before it decides about any document's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from corm_batch.budgets.base import Place
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import DocumentError, SpecError
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries
from corm_batch.ops.rotary import Rotary
from corm_batch.ops.select import PLAIN
from corm_batch.policies.base import KVPolicy, Seen
from corm_batch.policies.reading import ExtraPass, ExtraReading, Reading

T = TypeVar("T")

_ENTRIES = 9


def check_policy(policy: KVPolicy, shape: ModelShape, dtype: torch.dtype) -> None:
    """Ask the policy everything it will be asked, in every layer.

    Args:
        policy: to try.
        shape: of the model it is to serve.
        dtype: of keys and values.

    Raises:
        SpecError: it reads what it did not declare, answers with another shape or type than it should, or its budget is
            for another model.
    """
    num_heads = shape.num_kv_heads
    key, position = _keys(shape, dtype, _ENTRIES)
    passes = _extra_passes(policy, shape) if policy.needs.extra_passes else []
    for layer in range(shape.num_layers):
        recent = policy.num_pinned + policy.num_first
        _check_layer(policy, Place(layer, shape.num_layers, num_heads, recent), key, position)
        if policy.needs.prompt:
            _check_observation(policy, layer, shape, dtype)
        if passes:
            _check_extra(policy, layer, shape, dtype, passes)


def least_room(policy: KVPolicy, max_model_len: int) -> int:
    """Tokens of the context that a prompt has to leave free for what the policy has the model read behind it.

    Args:
        policy: as it serves a model.
        max_model_len: tokens of the context.
    """
    if not policy.needs.extra_passes:
        return 0
    prompt = np.zeros(max_model_len, np.int64)

    def suffices(room: int) -> bool:
        try:
            return bool(policy.extra_passes(prompt, room))
        except DocumentError:
            return False

    return next(filter(suffices, range(1, max_model_len)), max_model_len)


def _check_layer(policy: KVPolicy, place: Place, key: Tensor, position: Tensor) -> None:
    """The same of one layer."""
    layer, lead = place.layer, position.shape
    expiry = _asked(policy, "expiry", lambda: policy.expiry(layer, position))
    _expect(policy, "expiry", expiry, lead, torch.int32)
    own = _asked(policy, "born", lambda: policy.born(layer, key, key, position))
    if len(own) != len(policy.columns):
        raise SpecError(f"policy {policy.name}: born gives {len(own)} columns, {len(policy.columns)} are declared")
    for column, tensor in zip(policy.columns, own, strict=True):
        if column.width is not None:
            raise SpecError(f"policy {policy.name}: column {column.name!r} must hold one number for an entry")
        _expect(policy, f"born, column {column.name!r}", tensor, lead, column.dtype)
    budget = policy.budget_at(layer)
    if budget is None:
        return
    entries = Entries(key, key, position, expiry, torch.rand(lead, generator=torch.Generator().manual_seed(0)), own)
    several, step = entries.map(lambda tensor: tensor.expand(2, *tensor.shape)), torch.full((2, 1, 1), _ENTRIES).int()
    rank = _asked(policy, "rank", lambda: policy.rank(layer, Seen(policy, entries), _ENTRIES))
    batch = _asked(policy, "rank", lambda: policy.rank(layer, Seen(policy, several), step))
    _expect(policy, "rank", rank, lead, torch.float32, torch.int32)
    _expect(policy, "rank of two sequences", batch, (2, *lead), torch.float32, torch.int32)
    most = _asked(policy, "budget", lambda: budget.most(place, _ENTRIES))
    if isinstance(most, int) and budget.shared:
        limits = _asked(policy, "budget", lambda: budget.split(place, most, rank, position > 0))
        _expect(policy, "split of the budget", limits, lead[:1], torch.int32, torch.int64)
    elif not isinstance(most, int) and len(most) != place.num_heads:
        raise SpecError(f"policy {policy.name}: its budget is for {len(most)} kv heads, a layer has {place.num_heads}")


def _keys(shape: ModelShape, dtype: torch.dtype, count: int) -> tuple[Tensor, Tensor]:
    """So many keys, [K, N, D], and their positions, [K, N]."""
    key = torch.linspace(-1, 1, shape.num_kv_heads * count * shape.head_dim).view(shape.num_kv_heads, count, -1)
    return key.to(dtype), torch.arange(1, count + 1, dtype=torch.int32).expand(shape.num_kv_heads, -1)


def _extra_passes(policy: KVPolicy, shape: ModelShape) -> Sequence[ExtraPass]:
    """What the policy wants to have read behind a prompt."""
    if policy.needs.prompt:
        raise SpecError(f"policy {policy.name}: needs either the prompt's passes or extra ones, not both")
    prompt = np.zeros(_ENTRIES, np.int64)
    passes = _asked(policy, "extra_passes", lambda: policy.extra_passes(prompt, 1 << 20))
    for token_ids, _ in passes:
        if not len(token_ids) or token_ids.min() < 0 or token_ids.max() >= shape.vocab_size:
            raise SpecError(
                f"policy {policy.name}: an extra pass must have tokens of 0..{shape.vocab_size - 1}, got "
                f"{token_ids.tolist()}"
            )
    if not passes:
        raise SpecError(f"policy {policy.name}: extra_passes gives none")
    about = [place for one in passes for place in one.about]
    if len(set(about)) < len(about):
        raise SpecError(f"policy {policy.name}: two extra passes are about one token: {[one.about for one in passes]}")
    return passes


def _check_observation(policy: KVPolicy, layer: int, shape: ModelShape, dtype: torch.dtype) -> None:
    """What the policy makes of a prompt."""
    tokens, (key, position) = torch.zeros(_ENTRIES, dtype=torch.int64), _keys(shape, dtype, _ENTRIES)
    expiry, own = policy.expiry(layer, position), policy.born(layer, key, key, position)
    entries = Entries(key, key, position, expiry, torch.zeros(position.shape), own)
    query = key.repeat_interleave(shape.num_heads // shape.num_kv_heads, dim=0)
    reading = Reading(
        query, torch.zeros(query.shape[:2]), _ENTRIES, _ENTRIES, tokens, shape.head_dim**-0.5,
        rotary=Rotary(torch.ones(shape.head_dim // 2)) if policy.needs.rotary else None,
    )  # fmt: skip
    found = _asked(policy, "observe", lambda: policy.observe(layer, entries, reading))
    _expect(policy, "expiry as observed", found.expiry, position.shape, torch.int32)
    for column, tensor in zip(policy.columns, found.own, strict=True):
        _expect(policy, f"column {column.name!r} as observed", tensor, position.shape, column.dtype)


def _check_extra(
    policy: KVPolicy, layer: int, shape: ModelShape, dtype: torch.dtype, passes: Sequence[ExtraPass]
) -> None:
    """What the policy makes of extra passes, all of them at once, behind a prompt each."""
    cpu, sizes = torch.device("cpu"), np.array([len(one.token_ids) for one in passes])
    rows, where = Packing.of(sizes, cpu), Packing.of(sizes + _ENTRIES, cpu)
    key, _ = _keys(shape, dtype, int(where.sizes.sum()))
    position = torch.cat([torch.arange(1, size + 1, dtype=torch.int32) for size in where.sizes]).expand(len(key), -1)
    expiry, own = policy.expiry(layer, position), policy.born(layer, key, key, position)
    entries = Entries(key, key, position, expiry, torch.zeros(position.shape), own)
    asking = torch.cat(
        [torch.arange(part.stop - size, part.stop) for part, size in zip(where.slices, sizes, strict=True)]
    )
    query = key[:, asking].repeat_interleave(shape.num_heads // shape.num_kv_heads, dim=0)
    tokens = torch.from_numpy(np.concatenate([one.token_ids for one in passes]))
    abouts = tuple(one.about for one in passes)
    reading = ExtraReading(
        query, position[0, asking], tokens, rows, where, abouts, PLAIN, shape.head_dim**-0.5
    )  # fmt: skip
    found = _asked(policy, "observe_extra", lambda: policy.observe_extra(layer, entries, reading))
    if len(found) != len(policy.columns):
        raise SpecError(
            f"policy {policy.name}: observe_extra gives {len(found)} columns, {len(policy.columns)} are declared"
        )
    lead = len(key), sum(map(len, abouts))
    for column, tensor in zip(policy.columns, found, strict=True):
        _expect(policy, f"column {column.name!r} as observed", tensor, lead, column.dtype)


def _asked(policy: KVPolicy, what: str, call: Callable[[], T]) -> T:
    """What the call gives; whatever is wrong with it is the policy's fault."""
    try:
        return call()
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(f"policy {policy.name}: {what} failed: {type(error).__name__}: {error}") from error


def _expect(policy: KVPolicy, what: str, found: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Refuse another shape or type."""
    if tuple(found.shape) != tuple(shape) or found.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise SpecError(
            f"policy {policy.name}: {what} gives {found.dtype} of shape {tuple(found.shape)}, expected {wanted} of "
            f"shape {tuple(shape)}"
        )
