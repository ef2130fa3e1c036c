"""A decode step's attention in layers that share keys (`pod`), beside a plain layer's over as many entries, on a GPU.

    python -m infra.measure.shared_keys --output infra/measure/results/h200-shared_keys.json

A member reads its own list, of the newest tokens, and its owner's, in which it has values of its own; bytes are counted
as `infra.measure.kernels` counts them, and none of the owner's own values.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from corm_batch.bench.ceilings import measure_ceilings
from corm_batch.bench.workload import WORKLOADS
from corm_batch.kv.layout import Layout, valued
from corm_batch.ops.decode import Distant
from corm_batch.ops.pages import Pages, entry_columns
from corm_batch.ops.select import select_ops
from infra.measure.kernels import (
    DTYPE,
    LISTS,
    SCALE,
    C,
    Call,
    D,
    entry_bytes,
    figures,
    find_form,
    make_lists,
    median_ms,
)
from infra.measure.record import begin_record, write_record

FORMS = ("model", "int8", "fp8", "int4")
RECENT = 128


def with_values(pages: Pages, storage: str) -> Pages:
    """An owner's pages with the values of one member, as that one reads them."""
    form = find_form(storage)
    layout = Layout([entry_columns(form, D, DTYPE)], C, len(form.scales), [1])
    (whole,) = layout.views(torch.empty(len(pages.key), layout.page_bytes, dtype=torch.uint8))
    mine = valued(whole, 1)
    for column, old in zip(mine.tensors, pages.tensors, strict=True):
        column.copy_(old)
    return mine


def calls(S: int, K: int, G: int, N: int, storage: str, recent: int = RECENT) -> dict[str, Call]:
    """Attention of S sequences of K heads of N entries, G queries each: plain, and a member's; on torch's device."""
    far, theirs = make_lists(S, K, N, storage=storage)
    ops = select_ops(far.key.device, find_form(storage))
    step, query = theirs.length.max().repeat(S), torch.randn(S, K * G, D, dtype=DTYPE)
    pages, lists = make_lists(S, K, recent, spread=0.0, storage=storage)
    distant = Distant(with_values(far, storage), theirs._replace(slot=lists.slot), 0, recent)
    amount = int(theirs.length.sum()) * entry_bytes(2, storage)
    both = amount + int(lists.length.sum()) * entry_bytes(2, storage)
    return {
        "plain": Call(lambda: ops.decode_attention(far, theirs, query, step, None, SCALE), amount, in_graph=True),
        "member": Call(
            lambda: ops.decode_attention(pages, lists, query, step, None, SCALE, None, None, None, distant),
            both,
            in_graph=True,
        ),
    }


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    output = parser.parse_args(arguments).output
    device = torch.device("cuda")
    ceilings, rows = measure_ceilings(WORKLOADS["llama2-7b-16k"], device), list[dict[str, Any]]()
    for storage in FORMS:
        for S, K, G, N in (LISTS[1], LISTS[2], LISTS[3]):
            shape = dict(S=S, K=K, G=G, N=N, storage=storage)
            with device:
                found = calls(S, K, G, N, storage)
            for name, call in found.items():
                rows.append(
                    {"kernel": name, "shape": shape, **figures(call.amount, call.unit, median_ms(call), ceilings)}
                )
            del found, call
            torch.cuda.empty_cache()
    record = begin_record("shared_keys", device=torch.cuda.get_device_name(), ceilings=ceilings.model_dump())
    write_record(record | {"rows": rows}, output)


if __name__ == "__main__":
    main()
