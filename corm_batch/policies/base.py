"""KVPolicy: which cached entries survive.

A policy is a frozen value; its fields are its hyper-parameters. It sees per-entry tensors and answers with numbers; it
never sees a page, a pool or a scheduler. The engine asks this and branches on nothing else:

    needs       what `rank` is to see beyond positions and expiries: keys, what queries found (a reduction); whether the
                policy looks at prompts itself (`observe`), or has the model read more behind them (`extra_passes`)
    columns     numbers of its own that it keeps with every entry; `born` fills them, and they move with the entry
    expiry      the last step at which a query may see a new entry, should no query find it important
    budget_at   how many entries the heads of a layer may hold
    rank        who stays when that is exceeded
    num_pinned  how many of the newest stay in any case; num_first: of a prompt's first; pins_instruction: whether what
                a prompt asks does

An entry leaves at the end of its expiry and its page is freed: "visible at step t" is `t <= expiry` for every policy,
one comparison in every kernel. Steps and positions are 1-based inside their own document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from corm_batch.budgets.base import Budget, BudgetField
from corm_batch.errors import SpecError
from corm_batch.ops.pages import NEVER, Column, Entries
from corm_batch.ops.reduction import ALL_ROWS
from corm_batch.policies.model import Model
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import ExtraPass, ExtraReading, Reading
from corm_batch.registry import Plugin


class KVPolicy(Plugin, kind="policy", package="corm_batch.policies"):
    """Which cached entries survive; as it stands, all of them.

    Attributes:
        engine_fields: fields of EngineConfig marked as changing no answer that change what this policy keeps.
        keeps_all: no entry ever leaves, so that answers are the model's own: none is rounded then, unless asked for.
    """

    engine_fields: ClassVar[frozenset[str]] = frozenset()
    keeps_all: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]] = ()
    """Numbers that are kept with every entry, one of 4 bytes a column."""

    one_choice: ClassVar[bool] = False
    """Whether all heads of a layer keep the same entries: those whose ranks are highest on average."""

    @property
    def needs(self) -> Needs:
        """What `rank` reads; nothing else is there to be read."""
        return Needs()

    @property
    def looks_for_question(self) -> bool:
        """Whether what stays is what a prompt's last tokens look at: the question, where it is known by then."""
        return self.needs.reduction is not None and self.needs.reduction.window < ALL_ROWS

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """Settings that calibration tries without being told to, none as it stands.

        Args:
            num_tokens: of a prompt, about.
        """
        return ()

    def for_model(self, model: Model) -> Self:
        """The policy as it serves one model; most of them know nothing of models.

        Raises:
            SpecError: it is for another one.
        """
        return self

    @property
    def num_pinned(self) -> int:
        """Newest entries of a head that `rank` never lets go."""
        return 0

    def born(self, layer: int, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """The policy's own columns of entries at their birth. Those of one do not depend on the others in the call.

        Args:
            layer: index of the layer.
            key, value: [K, N, D], keys with their rotary position.
            position: [K, N] int32.

        Returns:
            One [K, N] tensor for each of `columns`, of its type.
        """
        return ()

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Expiry of entries at their birth. That of one does not depend on the others in the call.

        Args:
            layer: index of the layer.
            position: [K, N] int32.

        Returns:
            [K, N] int32.
        """
        return torch.full_like(position, NEVER)

    def extra_passes(self, token_ids: np.ndarray, room: int) -> Sequence[ExtraPass]:
        """What the model shall read behind a prompt, pass by pass, one or more; asked where `needs.extra_passes`.

        Args:
            token_ids: [T] int64, the prompt.
            room: positions behind it that the model has: no pass is longer.

        Raises:
            DocumentError: there is too little room.
        """
        raise NotImplementedError

    def observe(self, layer: int, entries: Entries, reading: Reading) -> Entries:
        """What a pass over a prompt changes in its entries; asked before anything leaves.

        Args:
            layer: index of the layer.
            entries: [K, N], those kept so far and, as the last ones of every head, the pass's own; keys and values are
                there. Where `entries.position` is NEVER there is none.
            reading: the pass.

        Returns:
            `entries` with other expiries or columns of the policy's own.
        """
        return entries

    def observe_extra(self, layer: int, entries: Entries, reading: ExtraReading) -> tuple[Tensor, ...]:
        """What extra passes say of the tokens that they are about: [K, A] for each of `columns`, one pass behind the
        other; asked where `needs.extra_passes`, of all passes in a layer, none of which minds the others. Arguments as
        for `observe`; see `ExtraReading`."""
        raise NotImplementedError

    @property
    def num_first(self) -> int:
        """First entries of a prompt that never leave, whatever their rank; they count towards the budget."""
        return 0

    @property
    def pins_instruction(self) -> bool:
        """Whether a prompt's instruction never leaves, whatever its rank; its entries count towards the budget."""
        return False

    def budget_at(self, layer: int) -> Budget | None:
        """How many entries the heads of a layer may hold; None for no bound."""
        return None

    def rank(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """Who stays when a budget is exceeded: the highest, of equals the newest.

        Args:
            layer: index of the layer.
            entries: [..., K, N] of them. Where `entries.position` is NEVER there is none, and anything may stand in its
                other columns.
            step: the last step taken; a tensor is [..., 1, 1], a step for each sequence.

        Returns:
            [..., K, N] float32 or int32, of any sign; infinity, or NEVER, for those that must stay.
        """
        return entries.expiry


class Seen:
    """Entries as a policy sees them: what it needs, and what is its own.

    Args:
        policy: who looks.
        entries: [..., K, N].

    Attributes:
        position: [..., K, N] int32, NEVER where there is no entry.
        expiry: [..., K, N] int32, the last step at which a query may see it.
    """

    def __init__(self, policy: KVPolicy, entries: Entries) -> None:
        self._policy, self._entries = policy, entries
        self.position, self.expiry = entries.position, entries.expiry

    @property
    def key(self) -> Tensor:
        """[..., K, N, D].

        Raises:
            SpecError: the policy's needs do not name keys.
        """
        if not self._policy.needs.keys:
            raise SpecError(f"policy {self._policy.name}: reads keys, which its needs do not name")
        return self._entries.key

    @property
    def statistic(self) -> Tensor:
        """[..., K, N] float32, what the reduction's statistic has gathered.

        Raises:
            SpecError: the policy's needs name no reduction.
        """
        if self._policy.needs.reduction is None:
            raise SpecError(f"policy {self._policy.name}: reads a statistic, but its needs name no reduction")
        return self._entries.statistic

    def __getitem__(self, name: str) -> Tensor:
        """[..., K, N], the policy's own column of that name.

        Raises:
            SpecError: it has none.
        """
        for column, tensor in zip(self._policy.columns, self._entries.own, strict=True):
            if column.name == name:
                return tensor
        raise SpecError(f"policy {self._policy.name}: reads column {name!r}, which is not among its columns")


def recent_stay(rank: Tensor, entries: Seen, step: int | Tensor, recent: int) -> Tensor:
    """`rank`, with the newest `recent` entries of each head at the top."""
    top = torch.inf if rank.is_floating_point() else NEVER
    return rank.masked_fill(entries.position > step - recent, top)


class EvictingPolicy(KVPolicy):
    """Entries leave, but for the first ones of a prompt and for its instruction where these are pinned."""

    pin_first: int = Field(0, ge=0, description="first entries of a prompt that never leave, part of the budget")
    pin_instruction: bool = Field(
        False, description="what of a prompt is not the document's text never leaves, part of the budget"
    )

    @property
    def num_first(self) -> int:
        """`pin_first`."""
        return self.pin_first

    @property
    def pins_instruction(self) -> bool:
        """`pin_instruction`."""
        return self.pin_instruction


class BudgetedPolicy(EvictingPolicy):
    """What a head may hold is bounded, as a budget says; the newest entries are part of that and never leave.

    The bound is applied after prefill, after each chunk and at compactions; between these a head holds what was born.
    """

    budget: BudgetField | None = Field(
        None, description="entries a head may hold: a budget by its name; null: no bound"
    )
    recent: int = Field(256, ge=1, description="newest entries that never leave, part of the budget")

    @model_validator(mode="after")
    def _recent_entries_fit(self) -> Self:
        budget = self.budget
        if budget is not None and isinstance(budget.max_kept, int) and budget.max_kept < self.recent + self.pin_first:
            pinned = f"recent ({self.recent})" + (f" and pin_first ({self.pin_first})" if self.pin_first else "")
            raise ValueError(f"budget.max_kept ({budget.max_kept}) must be at least {pinned}, which never leave")
        return self

    @property
    def num_pinned(self) -> int:
        """`recent`."""
        return self.recent

    def budget_at(self, layer: int) -> Budget | None:
        """The same budget for every layer."""
        return self.budget

    def rank(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The newest `recent` entries first, then the latest to expire."""
        return recent_stay(entries.expiry, entries, step, self.recent)


class ScoringPolicy(BudgetedPolicy):
    """Nothing expires; the highest scores stay."""

    budget: BudgetField = Field(
        {"name": "uniform", "max_kept": 1024},
        validate_default=True,
        description="entries a head may hold: a budget by its name",
    )

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """What decides who stays; arguments as for `rank`.

        Returns:
            [..., K, N] float32, of any sign.
        """
        raise NotImplementedError

    def rank(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The newest `recent` entries first, then the highest score."""
        return recent_stay(self.score(layer, entries, step), entries, step, self.recent)
