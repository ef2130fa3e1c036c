"""Time every Triton kernel at the shapes of the workloads, beside what the card was measured to reach.

    python -m infra.measure.kernels --output infra/measure/results/NAME.json
    python -m infra.measure.kernels --only append decode
    python -m infra.measure.kernels --storage fp8

It takes about 10 GB of the GPU. Inputs are random: bfloat16, heads 128 wide, 32 query heads in prefill, pages of 16;
entries are stored as the model computes them, or in the form that a shape names.
A time is a median of triton.testing's do_bench, launches included, and for decode and append of do_bench_cudagraph;
append's holds one small copy that puts the lengths back. What compaction changes is put back before each run, and the
time that this takes alone is taken off.

    decode_attention  bytes: key, value, position and expiry of every entry; for votes expiry and statistic, in and out
    append_entries    bytes: key, value, position, expiry and statistic of every new entry, in and out
                      (of another form: in as the model computes them, out as stored; so for store and gather)
    store_entries     bytes: the same of every kept entry; twice the mask of what to keep; the statistic of the others
    gather_entries    bytes: the same of every stored and every new entry
    compact_lists     bytes: position and expiry of every entry; where any go, all of those that stay, in and out
    top_entries       bytes: every rank, every candidate and every answer once
    dense_attention, causal_attention, reduce_columns  operations: 4 (the last: 2) * head_dim * attending pairs * heads

The share is that of the faster of a measured copy and a measured sum (bytes), or of the rate at which the products of
a layer of llama2-7b ran (operations); see corm_batch/bench/ceilings.py.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from corm_batch.bench.ceilings import Ceilings, measure_ceilings
from corm_batch.bench.workload import WORKLOADS
from corm_batch.cli.console import label, number, output_console, print_table
from corm_batch.ops.basis import Basis
from corm_batch.ops.causal import causal_attention
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries, Lists, Pages, entry_columns, page_bytes, projected, stored_bytes
from corm_batch.ops.reduction import Reduction
from corm_batch.ops.rotary import Rotary
from corm_batch.ops.select import Ops, select_ops
from corm_batch.report.units import percent_text
from corm_batch.storage.base import Storage

DTYPE, D, H, C, WINDOW, SCALE = torch.bfloat16, 128, 32, 16, 256, 128**-0.5


@dataclass(frozen=True)
class Call:
    """A kernel with its inputs; `reset` puts back, untimed, what a run changed."""

    run: Callable[[], object]
    amount: int
    unit: Literal["bytes", "flop"] = "bytes"
    reset: Callable[[], object] | None = None
    in_graph: bool = False


def entry_bytes(columns: int, storage: str = "model") -> int:
    """Bytes of an entry's key and value in a form and as many of position, expiry and statistic."""
    return stored_bytes(find_form(storage), D, DTYPE) + 4 * columns


def find_form(storage: str) -> Storage:
    """A form of storage by its name."""
    return Storage.from_spec({"name": storage})


def choose_channels(S: int, K: int, storage: str) -> Tensor | None:
    """[S, K, W] of random channels of keys that lists store; None for all."""
    form = find_form(storage)
    order = torch.rand(S, K, D).argsort(dim=-1)[..., : form.columns(D, DTYPE)[0].width]
    return order.sort(dim=-1).values.to(torch.uint8) if form.prunes_keys else None


def choose_basis(K: int, storage: str) -> Basis | None:
    """Random directions in which a layer's heads store keys and values; None for all."""
    if not (form := find_form(storage)).low_rank:
        return None
    key, value = (torch.linalg.qr(torch.randn(K, D, D)).Q[..., : column.width] for column in form.columns(D, DTYPE))
    return Basis.of(key, value, Rotary(5e5 ** (-torch.arange(D // 2) / (D // 2))), DTYPE)


def visible_pairs(num_rows: int, num_entries: int, window: int | None = None) -> int:
    """(query, key) pairs that attend when the newest `num_rows` of `num_entries` tokens ask."""
    return sum(min(step, window or step) for step in range(num_entries - num_rows + 1, num_entries + 1))


def packed(num_heads: int, num_tokens: int) -> Tensor:
    """[heads, tokens, D] as a forward pass lays it out: token after token."""
    return torch.randn(num_tokens, num_heads, D, dtype=DTYPE).transpose(0, 1)


def make_entries(K: int, N: int) -> Entries:
    """[K, N] of one prompt."""
    position = torch.arange(1, N + 1, dtype=torch.int32).repeat(K, 1)
    return Entries(packed(K, N), packed(K, N), position, position + WINDOW, torch.zeros(K, N))


def make_pages(P: int, storage: str) -> Pages:
    """A pool of random entries that never expire."""
    columns = entry_columns(form := find_form(storage), D, DTYPE)
    widths = [column.width or D for column in columns[:2]] if form.prunes_keys or form.low_rank else [D, D]
    key, value, scales = form.encode(*(torch.randn(P, C, width, dtype=DTYPE) for width in widths))
    stored = key, value, *(torch.tensor(number, dtype=torch.int32) for number in (1, NEVER)), torch.zeros(()), *scales
    pages = Pages.within(torch.empty(P, page_bytes(C, columns), dtype=torch.uint8), columns, C, len(scales))
    for column, new in zip(pages.tensors, stored, strict=True):
        column.copy_(new)
    return pages


def make_lists(S: int, K: int, N: int, spread: float = 0.1, storage: str = "model") -> tuple[Pages, Lists]:
    """S x K lists whose lengths are within `spread` of N, with room for one more, in shuffled pages."""
    length = (N * (1 + spread * (2 * torch.rand(S, K) - 1))).int()
    P = int(length.max()) // C + 1
    table = (torch.randperm(S * K * P) + 1).int().view(S, K, P)
    pages = make_pages(S * K * P + 1, storage)
    pages.position[table.long()] = torch.arange(1, P * C + 1, dtype=torch.int32).view(P, C)
    columns = table, length, torch.randperm(S), torch.zeros_like(length)
    return pages, Lists(*columns, choose_channels(S, K, storage), choose_basis(K, storage))


def decode(ops: Ops, S: int, K: int, G: int, N: int, votes: bool, storage: str = "model") -> Call:
    """One step of S sequences."""
    pages, lists = make_lists(S, K, N, storage=storage)
    query, step = torch.randn(S, K * G, D, dtype=DTYPE), lists.length.max().repeat(S)
    reduction = Reduction(WINDOW, "step") if votes else None
    amount = int(lists.length.sum()) * entry_bytes(6 if votes else 2, storage)
    return Call(lambda: ops.decode_attention(pages, lists, query, step, reduction, SCALE), amount, in_graph=True)


def append(ops: Ops, S: int, K: int, N: int, storage: str = "model") -> Call:
    """One new entry for every list."""
    pages, lists = make_lists(S, K, N, storage=storage)
    key, value = (torch.randn(S, K, D, dtype=DTYPE) for _ in range(2))
    old, amount = lists.length.clone(), S * K * (entry_bytes(3) + entry_bytes(3, storage))
    entries = Entries(key, value, old + 1, old + WINDOW, torch.zeros(S, K))
    return Call(lambda: (lists.length.copy_(old), ops.append_entries(pages, lists, entries)), amount, in_graph=True)


def store(ops: Ops, K: int, N: int, kept: int, storage: str = "model") -> Call:
    """A prompt of N tokens of which each head keeps some at random."""
    chosen = torch.rand(K, N).topk(kept).indices
    keep = torch.zeros(K, N, dtype=torch.bool).scatter_(1, chosen, True)
    entries, num_pages = make_entries(K, N), K * -(-kept // C)
    own = (torch.randperm(num_pages) + 1).int()
    pages, used = make_pages(num_pages + 1, storage), torch.zeros(1, dtype=torch.int32)
    amount = K * kept * (entry_bytes(3) + entry_bytes(3, storage)) + 2 * K * N + 4 * K * (N - kept)
    packing, stops = Packing.of([N], used.device), torch.tensor([0, num_pages], dtype=torch.int32)
    where = packing, own, stops, own[:0], used, choose_channels(1, K, storage)
    latent = projected(entries, choose_basis(K, storage))
    return Call(lambda: ops.store_entries(pages, latent, keep, *where), amount)


def gather(ops: Ops, K: int, N: int, born: int, storage: str = "model") -> Call:
    """What a sequence holds and a chunk of new entries."""
    pages, lists = make_lists(1, K, N, spread=0.0, storage=storage)
    table, new = lists.table[:1, :, : -(-N // C)], make_entries(K, born)
    amount = K * (N * (entry_bytes(3) + entry_bytes(3, storage)) + 2 * born * entry_bytes(3))
    where = table, lists.length[:1], new, None, lists.channels
    return Call(lambda: ops.gather_entries(pages, *where, basis=lists.basis), amount)


def compact(ops: Ops, S: int, K: int, N: int, gone_percent: int, storage: str = "model") -> Call:
    """Lists of N of whose entries some have expired, at random."""
    pages, lists = make_lists(S, K, N, spread=0.0, storage=storage)
    pages.expiry[100 * torch.rand(pages.expiry.shape) < gone_percent] = 1
    before, step = pages.expiry.clone(), torch.full((S,), N, dtype=torch.int32)
    stay = int(((before > N) & (pages.position <= N))[lists.table.long()].sum())
    amount = 8 * S * K * N + (2 * stay * entry_bytes(3, storage) if gone_percent else 0)
    return Call(lambda: ops.compact_lists(pages, lists, step), amount,
                reset=lambda: (pages.expiry.copy_(before), lists.length.fill_(N)))  # fmt: skip


def top(ops: Ops, K: int, N: int, count: int) -> Call:
    """Ranks as CORM makes them: recent tokens, then by expiry; one in five is no candidate."""
    position = torch.arange(N, dtype=torch.int32).expand(K, -1)
    rank = torch.randint(N, N + WINDOW, (K, N), dtype=torch.int32) + WINDOW * (position > N - WINDOW)
    candidate = torch.rand(K, N) < 0.8
    return Call(lambda: ops.top_entries(rank, position, candidate, count), 10 * K * N)


def dense(ops: Ops, K: int, R: int, N: int, window: int | None = None) -> Call:
    """A chunk of R tokens behind N - R others."""
    query, (key, value, first, *_) = packed(H, R), make_entries(K, N)
    last, step = first + window - 1 if window else torch.full_like(first, NEVER), first[0, N - R :]
    amount = 4 * D * H * visible_pairs(R, N, window)
    return Call(lambda: ops.dense_attention(query, key, value, step, first, last, SCALE), amount, "flop")


def reduce(ops: Ops, K: int, R: int, N: int, gap_rule: bool) -> Call:
    """The newest R of N tokens vote."""
    query, entries, wanted = packed(H, R), make_entries(K, N), Reduction(WINDOW, "step")
    last, lse = torch.full_like(entries.position, NEVER), torch.full((H, R), 8.0)
    arguments = wanted, query, lse, entries.position[0, N - R :], entries, last, SCALE
    return Call(lambda: ops.reduce_columns(*arguments, gap_rule=gap_rule), 2 * D * H * visible_pairs(R, N), "flop")


def causal(ops: Ops, K: int, T: int) -> Call:
    """A whole prompt."""
    (query, key, value), amount = (packed(n, T) for n in (H, K, K)), 4 * D * H * visible_pairs(T, T)
    return Call(lambda: causal_attention(query, key, value, SCALE, dense=ops.dense_attention), amount, "flop")


Case = tuple[str, Callable[..., Call], dict[str, Any]]
LISTS = ((190, 32, 1, 1100), (100, 32, 1, 2200), (256, 8, 4, 1100), (7, 8, 4, 131072))
PROMPTS = [(256, N, False) for N in (4096, 16384, 131072)] + [(2048, 4096, True)]
RANKS = ((32, 4096, 1024), (32, 131072, 2048), (6000, 1300, 1024))
CASES: list[Case] = [
    *(("decode_attention", decode, dict(S=S, K=K, G=G, N=N, votes=v)) for S, K, G, N in LISTS for v in (False, True)),
    *(("append_entries", append, dict(S=S, K=K, N=1100)) for S, K in ((190, 32), (256, 8))),
    *(("dense_attention", dense, dict(K=K, R=2048, N=4096)) for K in (32, 8)),
    ("dense_attention", dense, dict(K=32, R=16384, N=16384, window=4096)),
    *(("reduce_columns", reduce, dict(K=K, R=R, N=N, gap_rule=gap)) for K in (32, 8) for R, N, gap in PROMPTS),
    *(("store_entries", store, dict(K=32, N=N, kept=kept)) for N, kept in ((4096, 1024), (131072, 2048))),
    *(("gather_entries", gather, dict(K=K, N=2048, born=2048)) for K in (32, 8)),
    *(("compact_lists", compact, dict(S=190, K=32, N=1280, gone_percent=percent)) for percent in (10, 0)),
    *(("top_entries", top, dict(K=K, N=N, count=count)) for K, N, count in RANKS),
    *(("causal_attention", causal, dict(K=K, T=T)) for K in (32, 8) for T in (4096, 16384)),
]  # fmt: skip
STORED = (decode, append, store, gather, compact)
"""What depends on the form in which entries are stored."""


def median_ms(call: Call) -> float:
    """Of one run, inputs reset."""
    from triton.testing import do_bench, do_bench_cudagraph  # torch for CPU has no triton

    torch.cuda.synchronize()  # the graph has a stream of its own, which does not wait for the inputs
    bench = do_bench_cudagraph if call.in_graph else do_bench
    if call.reset is None:
        return float(bench(call.run, return_mode="median"))
    both = bench(lambda: (call.reset(), call.run()), return_mode="median")
    return float(both - bench(call.reset, return_mode="median"))


def figures(amount: int, unit: str, ms: float, ceilings: Ceilings) -> dict[str, float]:
    """What was counted, its rate, and the share of the ceiling that this is."""
    rate, ceiling = amount / ms * 1e3, ceilings.bytes_per_s if unit == "bytes" else ceilings.matmul_per_s
    name, scale = ("gb_per_s", 1e9) if unit == "bytes" else ("tflop_per_s", 1e12)
    return {"ms": round(ms, 5), unit: amount, name: round(rate / scale, 1), "share": round(rate / ceiling, 3)}


def print_rows(device: str, ceilings: Ceilings, rows: list[dict[str, Any]]) -> None:
    """The table, under what the card reaches."""
    columns = [label("kernel"), label("shape"), *map(number, ("ms", "GB/s", "TFLOP/s", "of the ceiling"))]
    cells = [
        (row["kernel"], " ".join(f"{name}={size}" for name, size in row["shape"].items()), f"{row['ms']:.3f}",
         *(str(row.get(rate, "-")) for rate in ("gb_per_s", "tflop_per_s")), percent_text(row["share"]))
        for row in rows
    ]  # fmt: skip
    bounds = f"ceilings: {ceilings.bytes_per_s / 1e9:.0f} GB/s, {ceilings.matmul_tflop_per_s:.0f} TFLOP/s"
    print_table(output_console(), f"Kernels on {device} ({bounds})", columns, cells)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="kernels whose names begin so")
    form_help = "those alone that read or write entries stored so; eigen, which wants a file, is read as lorc is"
    parser.add_argument("--storage", choices=Storage.by_name_alone(), help=form_help)
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if case[0].startswith(tuple(options.only))]
    if (form := options.storage) is not None:
        cases = [(name, build, {**shape, "storage": form}) for name, build, shape in cases if build in STORED]
    if not cases:
        parser.error(f"--only: no such kernel; known: {', '.join(dict.fromkeys(case[0] for case in CASES))}")
    device, name, rows = torch.device("cuda"), torch.cuda.get_device_name(), list[dict[str, Any]]()
    ceilings = measure_ceilings(WORKLOADS["llama2-7b-16k"], device)
    for kernel, build, shape in cases:
        with device:
            call = build(select_ops(device, find_form(shape.get("storage", "model"))), **shape)
        rows.append({"kernel": kernel, "shape": shape, **figures(call.amount, call.unit, median_ms(call), ceilings)})
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {library: version(library) for library in ("torch", "triton")},
        "device": name,
        "ceilings": ceilings.model_dump(),
        "rows": rows,
    }
    print_rows(name, ceilings, rows)
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
