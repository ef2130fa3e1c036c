"""What 8-bit weights are worth: the engine with weights as stored and in fp8, one after the other on one card.

    python -m infra.measure.fp8 --workload llama3.1-8b-4k:256 --workload llama3.1-8b-16k:64 --output RESULT.json

A workload is NAME:DOCUMENTS with the names of `corm-batch bench`; weights are random and drawn on the card. Beside the
engine's figures stand those of the products alone: one layer's, in the model's dtype and of 8-bit numbers, at as many
rows as a prefill and as a decode step have.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from corm_batch.bench.bench import device_name
from corm_batch.bench.ceilings import products_per_s
from corm_batch.bench.engine_run import measure_engine
from corm_batch.bench.model import random_model
from corm_batch.bench.workload import Workload, find_workload
from corm_batch.engine.config import WeightForm
from infra.measure.record import begin_record, write_record

_ROWS = (16384, 4096, 424, 112, 16)


def measure(workloads: Sequence[Workload], form: WeightForm, device: torch.device) -> list[dict[str, Any]]:
    """Figures of every workload, all of one model, with weights in one form."""
    gc.collect()  # the model before
    first = workloads[0]
    model = random_model(first.model, first.torch_dtype, device, weights=form)
    weight_bytes = sum(parameter.nbytes for parameter in model.module.parameters())
    rows = []
    for workload in workloads:
        policy = workload.policy("corm")
        assert policy is not None
        found = measure_engine(model, workload, policy, "exact")
        rows.append(
            {
                "workload": workload.name,
                "weights": form,
                "weight_bytes": weight_bytes,
                "documents": found.documents,
                "documents_in_flight": found.documents_in_flight,
                "documents_per_hour": round(3600 * found.documents / found.wall_s, 1),
                "prefill_tokens_per_s": round(found.prefill_tokens_per_s),
                "decode_ms_per_step": found.decode_ms_per_step,
            }
        )
        print(rows[-1], flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def product_rates(workload: Workload, device: torch.device) -> list[dict[str, Any]]:
    """10^12 operations a second of one layer's products, by form of the weights and number of rows."""
    rates = []
    for rows in _ROWS:
        forms = {form: round(products_per_s(workload, device, form, rows) / 1e12, 1) for form in get_args(WeightForm)}
        rates.append({"rows": rows, **forms})
        print(rates[-1], flush=True)
    return rates


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the ratios, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", required=True, metavar="NAME:DOCUMENTS")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    asked = [workload.split(":") for workload in options.workload]
    workloads = [find_workload(name, int(documents)) for name, documents in asked]
    if any(workload.model != workloads[0].model for workload in workloads):
        parser.error("--workload: of one model each time")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = begin_record("fp8", device=device_name(device), torch=torch.__version__)
    record["products_tflop_per_s"] = product_rates(workloads[0], device)
    record["rows"] = [row for form in get_args(WeightForm) for row in measure(workloads, form, device)]
    rates = {(row["workload"], row["weights"]): row["documents_per_hour"] for row in record["rows"]}
    record["fp8_over_stored"] = {
        workload.name: round(rates[workload.name, "fp8"] / rates[workload.name, "stored"], 3) for workload in workloads
    }
    write_record(record, options.output)


if __name__ == "__main__":
    main()
