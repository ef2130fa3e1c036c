"""What stands in a page, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.kv.layout import Layout, valued
from corm_batch.ops.pages import Column, entry_columns, page_bytes
from tests.kv.uneven import columns_of
from tests.ops.forms import FORMS, MODEL


@pytest.mark.parametrize("form", FORMS)
def test_layers_that_are_alike_have_one_number_and_one_run(form):
    columns = entry_columns(form, 16, torch.bfloat16)
    layout = Layout([columns] * 5, 16, len(form.scales))
    assert (layout.sizes, layout.by_layer, layout.runs) == (16, [16] * 5, [slice(0, 5)])
    assert layout.page_bytes == page_bytes(16, columns) == 16 * sum(column.num_bytes for column in columns)
    assert layout.most_pages(33, 2, 1) == 2 * 5 * 3


def test_narrower_entries_are_more_a_page_of_the_same_bytes():
    layout = Layout([columns_of(*widths) for widths in ((16, 16), (8, 12), (8, 12), (16, 16), (4, 4))], 4)
    assert layout.page_bytes == 4 * (128 + 12)
    assert layout.by_layer == [4, 5, 5, 4, 12]  # six of 92 bytes would fit, but their columns begin at multiples of 16
    assert layout.sizes.tolist() == [[4], [5], [5], [4], [12]]
    assert layout.runs == [slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 5)]
    assert layout.most_pages(13, 3) == 3 * (3 + 2 + 2 + 3 + 1)
    lengths = np.array([[0, 4], [5, 6], [1, 10], [5, 8], [12, 13]])
    assert (-(-lengths // layout.sizes)).tolist() == [[0, 1], [1, 2], [1, 2], [2, 2], [1, 2]]


@pytest.mark.parametrize("page_size", [1, 4, 5, 16])
def test_columns_of_a_page_stand_side_by_side_and_over_no_other(page_size):
    layout = Layout([columns_of(16, 8), columns_of(4, 4)], page_size)
    memory = torch.zeros(3, layout.page_bytes, dtype=torch.uint8)
    for pages in layout.views(memory):
        memory.zero_()
        for number, column in enumerate(pages.tensors, 1):
            start = column.data_ptr() - memory.data_ptr()
            assert start % 16 == 0
            assert column.shape[:2] == (3, pages.size)
            column[1] = number
        assert not memory[[0, 2]].any()
        for number, column in enumerate(pages.tensors, 1):
            assert (column[1] == number).all()
        assert pages.stride == layout.page_bytes


def test_own_columns_are_those_between_the_known_ones_and_the_form_s():
    own = Column("norm"), Column("level", torch.int32)
    for form in (MODEL, FORMS[1].values[0]):
        layout = Layout([entry_columns(form, 8, torch.float32, own)], 4, len(form.scales))
        assert layout.own_columns == own


@pytest.mark.parametrize("form", FORMS)
def test_further_values_stand_behind_the_rest_each_with_scales_of_its_own(form):
    columns = entry_columns(form, 16, torch.float32)
    layout = Layout([columns] * 4, 4, len(form.scales), [0, 2, 0, 1])
    value, *scales = columns[1], *columns[len(columns) - len(form.scales) // 2 :][: len(form.scales) // 2]
    more = sum(column.num_bytes for column in (value, *scales))
    assert layout.page_bytes == 4 * (sum(column.num_bytes for column in columns) + 2 * more)
    assert layout.by_layer[1] == 4 <= layout.by_layer[3] <= layout.by_layer[0] == layout.by_layer[2]
    assert layout.weights.tolist() == [1, layout.by_layer[0] / 4, 1, layout.by_layer[0] / layout.by_layer[3]]
    memory = torch.zeros(3, layout.page_bytes, dtype=torch.uint8)
    whole = layout.views(memory)[1]
    assert (len(whole.further), layout.own_columns) == (2, ())
    own, first, second = (valued(whole, number) for number in range(3))
    for number, pages in enumerate((own, first, second), 1):
        pages.value.view(torch.uint8).fill_(number)
        for scale in pages.scales[len(form.scales) // 2 :]:
            scale.fill_(number)
    for number, pages in enumerate((own, first, second), 1):
        assert (pages.value.view(torch.uint8) == number).all()
        assert all((scale == number).all() for scale in pages.scales[len(form.scales) // 2 :])
        assert pages.key.data_ptr() == own.key.data_ptr()
        assert len(pages.scales) == len(form.scales)
        assert pages.further == ()
