"""Pages: the memory that holds every cached entry, and the three ways to touch it: read, write, extend.

    page p  [ key 0 .. C-1 | value 0 .. C-1 | position 0 .. C-1 | expiry | statistic | own | scales ]   bytes

    page p, slot c  ->  key[p, c], value[p, c]   the entry itself, keys with the rotary position they were born with
                        scales[i][p, c]          what the form of storage has beside their numbers, one tensor each
                        position[p, c]           1-based position of its token
                        expiry[p, c]             last step at which a query may see it
                        statistic[p, c]          what queries found of it, as the policy's reduction gathers it
                        own[i][p, c]             the policy's own columns, one tensor each
                        further[i][p, c]         the same token's value in a layer that has its key here

How keys and values lie there is the form's to say (`ops.form`): they are encoded where an entry is written, decoded
where it is read. A column moves with its entry, byte for byte, whatever happens to it. `entry_columns` says what there
is, of what type and width: bytes of an entry are counted from it and nowhere else. A page is so many bytes, the same
for whoever holds it; what stands where in it follows from the columns and from how many entries it has, so that lists
of wide entries and of narrow ones, of which a page takes more, may live in one pool. Page 0 is never handed out: table
padding points at it, so reads of padding are harmless and writes to it are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, Self

import torch
from torch import Tensor

from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.ops.basis import Basis
from corm_batch.ops.form import Form, Stored

NEVER = torch.iinfo(torch.int32).max
"""As an expiry: the entry is never evicted. As a position: there is no entry here, no query sees it."""
_ALIGNED = 16
"""Bytes: columns and pages begin at multiples of them, which is what a thread of a GPU reads at a time."""


class Column(NamedTuple):
    """What is stored of an entry under one name.

    Attributes:
        name: of the column.
        dtype: of its numbers.
        width: how many an entry has, as a last dimension; None for a single number without one.
    """

    name: str
    dtype: torch.dtype = torch.float32
    width: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of one entry."""
        return self.dtype.itemsize * (1 if self.width is None else self.width)

    def zeros(self, *lead: int, device: torch.device | None = None) -> Tensor:
        """The column of `lead` entries."""
        shape = lead if self.width is None else (*lead, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=device)


def entry_columns(form: Form, head_dim: int, dtype: torch.dtype, own: Iterable[Column] = ()) -> tuple[Column, ...]:
    """Everything that is stored of an entry, in the order of `Pages`.

    Args:
        form: in which keys and values are stored.
        head_dim: width of a key and of a value.
        dtype: of both, as the model computes them.
        own: the policy's columns.

    Raises:
        UnsupportedModelError: a key or value in this form is no whole number of the 16-bit words that kernels read.
        SpecError: a column of the policy's is no single number of 4 bytes.
    """
    key, value = form.columns(head_dim, dtype)
    if key.num_bytes % 2 or value.num_bytes % 2:
        raise UnsupportedModelError(
            f"engine.storage: keys and values of bytes need heads of an even width, got {head_dim}"
        )
    known = Column("position", torch.int32), Column("expiry", torch.int32), Column("statistic")
    for column in (single := (*known, *own, *form.scales)):
        if column.num_bytes != 4 or column.width is not None:  # kernels find all of them at one place
            raise SpecError(
                f"column {column.name}: got {column.dtype} of width {column.width}, allowed are 4 bytes without one"
            )
    return key, value, *single


def page_bytes(page_size: int, columns: Iterable[Column]) -> int:
    """Bytes of one page of entries that have these columns."""
    return _places(page_size, columns)[-1]


def columns_within(pages: Tensor, columns: Sequence[Column], page_size: int) -> list[Tensor]:
    """Each column of so many entries a page, [P, C] or [P, C, D], in pages of bytes, [P, page_bytes or more] uint8."""
    tensors = []
    for column, start in zip(columns, _places(page_size, columns), strict=False):
        flat = pages[:, start : start + page_size * column.num_bytes].view(column.dtype)
        tensors.append(flat if column.width is None else flat.unflatten(1, (page_size, column.width)))
    return tensors


def _places(page_size: int, columns: Iterable[Column]) -> list[int]:
    """Where in a page each column begins, and where the page ends."""
    sizes = (-(-page_size * column.num_bytes // _ALIGNED) * _ALIGNED for column in columns)
    return list(accumulate(sizes, initial=0))


def kv_bytes(head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of an entry in an uncompressed cache, which has a key and a value as the model computes them alone."""
    return 2 * head_dim * dtype.itemsize


def stored_bytes(form: Form, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of an entry's key and value in this form, which is what a query reads of it."""
    return sum(column.num_bytes for column in (*form.columns(head_dim, dtype), *form.scales))


class Pages(NamedTuple):
    """The columns of a pool, in pages of one kind; see the module's drawing. All of them are views of the same bytes:
    from one page to the next it is equally far in all, and what a page has of a column is contiguous."""

    key: Tensor  # [P, C, D]
    value: Tensor  # [P, C, D]
    position: Tensor  # [P, C] int32
    expiry: Tensor  # [P, C] int32
    statistic: Tensor  # [P, C] float32
    own: tuple[Tensor, ...] = ()  # [P, C] each
    scales: tuple[Tensor, ...] = ()  # [P, C] each
    further: tuple[Tensor, ...] = ()  # [P, C, D] each; there for those who move entries alone

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of `entry_columns`, other layers' values behind them."""
        return (*self[:5], *self.own, *self.scales, *self.further)

    @property
    def bytes(self) -> tuple[Tensor, ...]:
        """The same, uint8, for those who move entries whatever they are; torch can do less with narrow numbers."""
        return tuple(column.view(torch.uint8) for column in self.tensors)

    @property
    def size(self) -> int:
        """Entries a page, C above."""
        return self.position.shape[1]

    @property
    def stride(self) -> int:
        """Bytes from one page to the next."""
        return self.position.stride(0) * self.position.element_size()

    @classmethod
    def within(cls, pages: Tensor, columns: Sequence[Column], page_size: int, num_scales: int = 0) -> Self:
        """Columns of so many entries a page, in pages of bytes, [P, page_bytes or more] uint8."""
        return cls.of(columns_within(pages, columns, page_size), num_scales)

    @classmethod
    def of(cls, tensors: Iterable[Tensor], num_scales: int = 0) -> Self:
        """What has these as its `tensors`, the last ones scales."""
        key, value, position, expiry, statistic, *others = tensors
        num_own = len(others) - num_scales
        return cls(key, value, position, expiry, statistic, tuple(others[:num_own]), tuple(others[num_own:]))


class Entries(NamedTuple):
    """Entries taken out of their pages and decoded, or not yet in any; padding has position NEVER."""

    key: Tensor  # [..., K, N, D]
    value: Tensor  # [..., K, N, D]
    position: Tensor  # [..., K, N] int32
    expiry: Tensor  # [..., K, N] int32
    statistic: Tensor  # [..., K, N] float32
    own: tuple[Tensor, ...] = ()  # [..., K, N] each

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of `entry_columns`."""
        return (*self[:5], *self.own)

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Self:
        """What has these as its `tensors`."""
        key, value, position, expiry, statistic, *own = tensors
        return cls(key, value, position, expiry, statistic, tuple(own))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Every tensor changed in the same way."""
        return self.of(map(change, self.tensors))


class Lists(NamedTuple):
    """Where one layer keeps its entries: a list of pages for every slot and kv head.

    A batch names its sequences by slot; slot -1 is no sequence at all (a batch padded to a fixed size): nothing is read
    or written for it and what comes out of its row means nothing. A list's entries stand in the order of their
    positions.
    """

    table: Tensor  # [slots, K, P] int32 page ids, padded with 0
    length: Tensor  # [slots, K] int32 entries stored
    slot: Tensor  # [S] int64 the sequences of the batch
    shared: Tensor  # [slots, K] int32 entries at its beginning that others read, too: nothing votes on or moves them
    channels: Tensor | None = (
        None  # [slots, K, W] uint8 those of its keys that are stored, ascending; None: all of them
    )
    basis: Basis | None = None  # the directions in which keys and values are stored; None: as they are


def narrowed(wide: Tensor, channels: Tensor | None) -> Tensor:
    """Keys or queries [..., D] without the channels that their list does not store: [..., W].

    Args:
        wide: the keys or queries.
        channels: [..., W] as `Lists` has them, of the same or of broadcast dimensions; None for all.
    """
    return wide if channels is None else wide.gather(-1, channels.long().expand(*wide.shape[:-1], -1))


def widened(narrow: Tensor, channels: Tensor | None, head_dim: int) -> Tensor:
    """Keys [..., W] with zeros in the channels that their list does not store: [..., D]; what was empty stays so."""
    if channels is None or not narrow.shape[-1]:
        return narrow
    wide = narrow.new_zeros(*narrow.shape[:-1], head_dim)
    return wide.scatter_(-1, channels.long().expand(narrow.shape), narrow)


def projected(entries: Entries, basis: Basis | None, dim: int = 0) -> Entries:
    """Entries [K, N] as lists in this basis store them; None: as they are.

    Args:
        entries: of one sequence or several.
        basis: of their layer.
        dim: where their heads are; 1: they are [N, K].
    """
    if basis is None:
        return entries
    key, value = basis.project(*(column.transpose(0, dim) for column in entries[:3]))
    return entries._replace(key=key.transpose(0, dim), value=value.transpose(0, dim))


def read_pages(
    pages: Pages, table: Tensor, length: Tensor, form: Form, channels: Tensor | None = None, head_dim: int = 0,
    basis: Basis | None = None,
) -> Entries:  # fmt: skip
    """Copy lists of pages out as padded, contiguous entries.

    Args:
        pages: the pool.
        table: [..., K, P] int, page ids of each list, padded with 0.
        length: [..., K] int, entries in each list.
        form: in which they are stored.
        channels, head_dim: [..., K, W] those of their keys that are stored, and the width of whole ones; None for all.
        basis: in which they are stored.

    Returns:
        Entries with N = P * C; beyond `length` the position is NEVER and the rest is whatever the page held.
    """
    num_slots, flat = table.shape[-1] * pages.size, table.reshape(-1)
    lead = (*table.shape[:-1], num_slots)
    read = [column.index_select(0, flat).view(*lead, *column.shape[2:]) for column in pages.tensors]
    key, value, position, expiry, statistic, own, scales, _ = Pages.of(read, len(pages.scales))
    behind = torch.arange(num_slots, device=table.device) >= length[..., None]
    key, value = form.decode(Stored(key, value, scales))
    if channels is not None:
        key = widened(key, channels[..., None, :], head_dim)
    if basis is not None:
        key, value = basis.rebuild(key, value, position)
    return Entries(key, value, position.masked_fill(behind, NEVER), expiry, statistic, own)


def write_pages(pages: Pages, page: Tensor, slot: Tensor, entries: Entries, form: Form) -> None:
    """Put M entries into their places.

    Args:
        pages: the pool, changed in place.
        page, slot: [M] int64, where each entry goes.
        entries: key and value [M, D], the others [M].
        form: in which they are stored.
    """
    key, value, scales = form.encode(entries.key, entries.value)
    stored = Pages(key, value, *entries[2:], scales)
    for column, new in zip(pages.tensors, stored.tensors, strict=True):
        column.index_put_((page, slot), new.to(column.dtype))


def update_pages(pages: Pages, table: Tensor, expiry: Tensor, statistic: Tensor) -> None:
    """Write back what a step learned of whole lists of pages.

    Args:
        pages: the pool, changed in place.
        table: [..., P] int64, as given to `read_pages`.
        expiry, statistic: [..., N] with N = P * C.
    """
    flat = table.reshape(-1)
    pages.expiry.index_copy_(0, flat, expiry.reshape(-1, pages.size))
    pages.statistic.index_copy_(0, flat, statistic.reshape(-1, pages.size))
