"""The benchmark of kernels without a GPU: what it counts, and that its calls are ones the definitions take."""

import json
from pathlib import Path

import pytest
import torch

from corm_batch.bench.ceilings import Ceilings
from corm_batch.ops.select import Ops, select_ops
from corm_batch.storage.fp8 import Fp8
from corm_batch.storage.model import Model
from infra.measure.kernels import (
    CASES,
    append,
    causal,
    compact,
    decode,
    dense,
    entry_bytes,
    figures,
    gather,
    main,
    reduce,
    store,
    top,
    visible_pairs,
)

PLAIN, FP8 = (select_ops(torch.device("cpu"), form) for form in (Model(), Fp8()))
RESULT = Path(__file__).parents[3] / "infra/measure/results/h200-kernels.json"
CEILINGS = Ceilings(
    copy_gb_per_s=4000.0, read_gb_per_s=3000.0, matmul_tflop_per_s=500.0, causal_tflop_per_s=1.0, sdpa_tflop_per_s=1.0
)
TINY = [
    (append, {"S": 3, "K": 2, "N": 40}, 2 * 3 * 2 * 524),
    (store, {"K": 2, "N": 40, "kept": 9}, 2 * 2 * 9 * 524 + 2 * 2 * 40 + 4 * 2 * 31),
    (append, {"S": 3, "K": 2, "N": 40, "storage": "fp8"}, 3 * 2 * (524 + 276)),
    (store, {"K": 2, "N": 40, "kept": 9, "storage": "fp8"}, 2 * 9 * (524 + 276) + 2 * 2 * 40 + 4 * 2 * 31),
    (gather, {"K": 2, "N": 40, "born": 9}, 2 * 2 * 49 * 524),
    (gather, {"K": 2, "N": 40, "born": 9, "storage": "fp8"}, 2 * (40 * (524 + 276) + 9 * 2 * 524)),
    (append, {"S": 3, "K": 2, "N": 40, "storage": "think"}, 3 * 2 * (524 + 420)),
    (store, {"K": 2, "N": 40, "kept": 9, "storage": "think"}, 2 * 9 * (524 + 420) + 2 * 2 * 40 + 4 * 2 * 31),
    (gather, {"K": 2, "N": 40, "born": 9, "storage": "think"}, 2 * (40 * (524 + 420) + 9 * 2 * 524)),
    (append, {"S": 3, "K": 2, "N": 40, "storage": "lorc"}, 3 * 2 * (524 + 420)),
    (store, {"K": 2, "N": 40, "kept": 9, "storage": "lorc"}, 2 * 9 * (524 + 420) + 2 * 2 * 40 + 4 * 2 * 31),
    (gather, {"K": 2, "N": 40, "born": 9, "storage": "lorc"}, 2 * (40 * (524 + 420) + 9 * 2 * 524)),
    (compact, {"S": 3, "K": 2, "N": 40, "gone_percent": 0}, 8 * 3 * 2 * 40),
    (compact, {"S": 3, "K": 2, "N": 40, "gone_percent": 100}, 8 * 3 * 2 * 40),
    (top, {"K": 3, "N": 300, "count": 20}, 10 * 3 * 300),
    (dense, {"K": 8, "R": 3, "N": 5}, 4 * 128 * 32 * (3 + 4 + 5)),
    (dense, {"K": 32, "R": 5, "N": 5, "window": 2}, 4 * 128 * 32 * (1 + 2 + 2 + 2 + 2)),
    (reduce, {"K": 32, "R": 2, "N": 6, "gap_rule": False}, 2 * 128 * 32 * (5 + 6)),
    (reduce, {"K": 8, "R": 2, "N": 6, "gap_rule": True}, 2 * 128 * 32 * (5 + 6)),
    (causal, {"K": 8, "T": 4}, 4 * 128 * 32 * (1 + 2 + 3 + 4)),
]


def test_an_entry_is_key_value_and_numbers_of_four_bytes():
    assert [entry_bytes(columns) for columns in (0, 2, 3)] == [512, 520, 524]
    assert entry_bytes(3, "fp8") == 2 * 128 + 2 * 4 + 12


@pytest.mark.parametrize(
    ("rows", "entries", "window", "pairs"), [(3, 3, None, 6), (1, 7, None, 7), (2, 4, 3, 6), (4, 4, 2, 7)]
)
def test_pairs_that_attend(rows, entries, window, pairs):
    assert visible_pairs(rows, entries, window) == pairs


@pytest.mark.parametrize(("build", "shape", "amount"), TINY)
def test_a_call_runs_and_is_counted(build, shape, amount):
    call = build(FP8 if shape.get("storage") == "fp8" else PLAIN, **shape)
    assert call.amount == amount
    for _ in range(2):
        if call.reset is not None:
            call.reset()
        call.run()


@pytest.mark.parametrize(("votes", "each"), [(False, 520), (True, 536)])
def test_a_decode_step_counts_what_its_lists_hold(votes, each):
    call = decode(PLAIN, S=3, K=2, G=2, N=40, votes=votes)
    assert call.amount % each == 0
    assert 36 <= call.amount / each / 6 <= 44
    call.run()
    assert call.in_graph


def test_half_of_the_entries_gone_are_read_and_not_moved():
    call = compact(PLAIN, S=4, K=4, N=500, gone_percent=50)
    moved = call.amount - 8 * 4 * 4 * 500
    assert moved % (2 * 524) == 0
    assert 0.4 < moved / (2 * 524) / (4 * 4 * 500) < 0.6


def test_compaction_finds_the_same_lists_every_time():
    sums = []

    def compact_lists(pages, lists, step):
        sums.append((int(lists.length.sum()), int((pages.expiry == 1).sum())))
        return PLAIN.compact_lists(pages, lists, step)

    call = compact(PLAIN._replace(compact_lists=compact_lists), S=2, K=2, N=60, gone_percent=30)
    for _ in range(2):
        call.reset()
        call.run()
    assert sums[0] == sums[1]
    assert sums[0][0] == 2 * 2 * 60


def test_rates_and_shares():
    assert figures(8_000_000, "bytes", 0.004, CEILINGS) == {
        "ms": 0.004, "bytes": 8_000_000, "gb_per_s": 2000.0, "share": 0.5,
    }  # fmt: skip
    assert figures(10**12, "flop", 4.0, CEILINGS) == {
        "ms": 4.0, "flop": 10**12, "tflop_per_s": 250.0, "share": 0.5,
    }  # fmt: skip


def test_every_kernel_is_measured():
    unmeasured = {"append_values"}  # half of what append_entries writes
    assert {kernel for kernel, _, _ in CASES} == {*Ops._fields, "causal_attention"} - unmeasured


def test_the_result_in_the_repository_is_of_these_cases_and_adds_up():
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    ceilings = Ceilings.model_validate(record["ceilings"])
    cases = [(kernel, shape) for kernel, _, shape in CASES]
    assert [(row["kernel"], row["shape"]) for row in record["rows"]] == cases
    for row in record["rows"]:
        unit = "bytes" if "bytes" in row else "flop"
        counted = {name: value for name, value in row.items() if name not in ("kernel", "shape")}
        assert figures(row[unit], unit, row["ms"], ceilings) == pytest.approx(counted, rel=0.01, abs=0.002)


def test_an_unknown_kernel_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "prefetch"])
    assert "append_entries" in capsys.readouterr().err


@pytest.mark.gpu
def test_one_kernel_on_a_gpu(tmp_path, capsys):
    main(["--only", "append", "--output", str(tmp_path / "append.json")])
    record = json.loads((tmp_path / "append.json").read_text())
    assert [row["kernel"] for row in record["rows"]] == ["append_entries"] * 2
    assert all(0 < row["ms"] < 10 and 0 < row["share"] < 1 for row in record["rows"])
    assert record["device"] == torch.cuda.get_device_name()
    assert "append_entries" in capsys.readouterr().out
