"""Reading and writing pages."""

from __future__ import annotations

import pytest
import torch

from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.ops.pages import NEVER, Column, Entries, Pages, entry_columns, read_pages, update_pages, write_pages
from tests.ops.forms import FORMS, FP8, INT4, MODEL, decoded, encoded


def empty_pages(num_pages=6, page_size=4, width=4):
    return Pages(
        torch.zeros(num_pages, page_size, width), torch.zeros(num_pages, page_size, width),
        torch.zeros(num_pages, page_size, dtype=torch.int32), torch.zeros(num_pages, page_size, dtype=torch.int32),
        torch.zeros(num_pages, page_size),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_in_list_order(form):
    pages = encoded(empty_pages(), form)
    entries = Entries(
        torch.randn(6, 4), torch.randn(6, 4), torch.arange(1, 7).int(), torch.arange(10, 16).int(), torch.rand(6)
    )
    table = torch.tensor([[5, 2, 0]])
    index = torch.arange(6)
    write_pages(pages, table[0, index // 4], index % 4, entries, form)
    read, stored = read_pages(pages, table, torch.tensor([6]), form), decoded(encoded(entries, form), form)
    for got, want in zip(read.tensors, stored.tensors, strict=True):
        assert torch.equal(got[0, :6], want)
    assert (read.position[0, 6:] == NEVER).all()


def test_an_empty_list_reads_as_padding():
    read = read_pages(empty_pages(), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([0, 0]), MODEL)
    assert (read.position == NEVER).all()
    for form in (MODEL, FP8, INT4):
        nothing = torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])
        assert read_pages(encoded(empty_pages(), form), *nothing, form).key.shape == (2, 0, 4)


def test_updates_go_to_the_pages_of_the_list_alone():
    pages = empty_pages()
    table = torch.tensor([[3, 1]])
    update_pages(pages, table, torch.arange(8).int()[None], torch.arange(8).float()[None])
    assert pages.expiry[3].tolist() == [0, 1, 2, 3]
    assert pages.statistic[1].tolist() == [4, 5, 6, 7]
    assert pages.expiry[[2, 4, 5]].abs().sum() == 0


def test_heads_of_an_odd_width_are_refused_where_numbers_are_bytes():
    assert [column.width for column in entry_columns(MODEL, 7, torch.float16)[:2]] == [7, 7]
    with pytest.raises(UnsupportedModelError, match=r"engine\.storage: .* an even width, got 7"):
        entry_columns(FP8, 7, torch.float16)


@pytest.mark.parametrize("column", [Column("rank", torch.float64), Column("seen", torch.int8), Column("two", width=1)])
def test_columns_of_a_policy_are_numbers_of_four_bytes(column):
    with pytest.raises(SpecError, match=f"column {column.name}: got .*, allowed are 4 bytes without one"):
        entry_columns(MODEL, 8, torch.float16, (Column("norm"), column))
