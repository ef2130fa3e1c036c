"""The benchmark: every engine on every workload, one after the other, each on a device that is otherwise empty."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import torch

from corm_batch.bench.ceilings import Ceilings, measure_ceilings
from corm_batch.bench.engine_run import measure_engine
from corm_batch.bench.generate_run import measure_generate
from corm_batch.bench.limit import document_limit_s, propagated, weight_bytes
from corm_batch.bench.model import random_model
from corm_batch.bench.result import BenchResult, Figures, JobFigures, Measured, Prefill, Row
from corm_batch.bench.workload import EngineName, LlamaShape, Workload
from corm_batch.engine.config import EngineConfig, WeightForm
from corm_batch.engine.loader import LoadedModel
from corm_batch.errors import CormBatchError, DocumentError, EngineError, ModelError, SpecError
from corm_batch.storage.base import Storage

MeasureJob = Callable[[Workload, Row, torch.device], JobFigures]
_LIBRARIES = ("corm-batch", "torch", "transformers", "triton")


def run_bench(
    workloads: Sequence[Workload],
    engines: Sequence[EngineName],
    device: torch.device,
    prefill: Prefill,
    command: str,
    time_limit_s: float | None = None,
    weights: Sequence[WeightForm] = ("stored",),
    storages: Sequence[str] = ("model",),
    propagations: Sequence[str | None] = (None,),
    on_row: Callable[[BenchResult], None] = lambda result: None,
    measure_job: MeasureJob | None = None,
) -> BenchResult:
    """Measure every engine on every workload.

    Args:
        workloads, engines: what, in this order.
        device: where.
        prefill: how `corm` and `full` read prompts.
        command: noted in the result.
        weights: forms of the weights of `corm` and `full`, each measured; `generate` knows the workload's dtype alone.
        storages: names of forms of storage of `corm` and `full`, each measured with each form of weights.
        propagations: by name, or None for none, of `corm` and `full`, each measured with each form.
        time_limit_s: after as many seconds no further measurement starts; None for no limit.
        on_row: called with the result so far whenever it has grown by a row.
        measure_job: measures `corm` and `full` once more inside a whole job; None: not asked for.

    Raises:
        SpecError: a workload's CORM settings contradict each other; nothing was measured.
    """
    for workload in workloads:
        workload.policy("corm")
    started = time.monotonic()
    result = BenchResult(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        device=device_name(device),
        workloads={workload.name: workload for workload in workloads},
    )
    prepared = _Prepared(device, result.ceilings)
    for workload in workloads:
        for form, storage, leaving, engine in product(weights, storages, propagations, engines):
            if engine == "generate" and (form, storage, leaving) != ("stored", "model", None):
                continue
            read = "exact" if engine == "generate" else prefill
            forms = {"weights": form, "storage": storage, "propagation": leaving}
            row = Row(workload=workload.name, engine=engine, prefill=read, **forms)
            if time_limit_s is not None and time.monotonic() - started > time_limit_s:
                outcome = {"reason": f"not measured: the time limit of {time_limit_s:g} s had passed"}
            else:
                outcome = _outcome(prepared, workload, row)
                if measure_job is not None and engine != "generate" and "figures" in outcome:
                    outcome |= _job_outcome(prepared, workload, row, measure_job)
            result.rows.append(row.model_copy(update=outcome))
            on_row(result)
    return result


class _Prepared:
    """The model the device holds, and the ceilings measured so far.

    Args:
        device: where both are made.
        ceilings: by name of the workload; grows.
    """

    def __init__(self, device: torch.device, ceilings: dict[str, Ceilings]) -> None:
        self.device, self.ceilings = device, ceilings
        self._made: tuple[LlamaShape, torch.dtype, bool, WeightForm] | None = None
        self._model: LoadedModel | None = None

    def ready_for(self, workload: Workload, row: Row) -> LoadedModel:
        """The workload's model as the row's engine takes it, alone on the device, its ceilings measured.

        Raises:
            SpecError: the device is too small for its weights.
        """
        refuse_too_large(workload, row.weights, _total_bytes(self.device))
        _free(self.device)
        wanted = workload.model, workload.torch_dtype, row.engine != "generate", row.weights
        if self._model is None or self._made != wanted:
            self.clear()  # the old weights go before the new ones come
            shape, dtype, as_loaded, weights = wanted
            self._model, self._made = random_model(shape, dtype, self.device, as_loaded, weights), wanted
        if workload.name not in self.ceilings:
            self.ceilings[workload.name] = measure_ceilings(workload, self.device)
            _free(self.device)
        return self._model

    def clear(self) -> None:
        """Leave the device to others."""
        self._model = None
        _free(self.device)


def _job_outcome(prepared: _Prepared, workload: Workload, row: Row, measure_job: MeasureJob) -> dict[str, Any]:
    """What a whole job made of a row, or why it made nothing of it."""
    prepared.clear()
    try:
        return {"job": measure_job(workload, row, prepared.device)}
    except CormBatchError as error:
        return {"reason": f"through the job: {error}"}


def _outcome(prepared: _Prepared, workload: Workload, row: Row) -> dict[str, Any]:
    """One measurement; of what cannot run, the reason."""
    try:
        model, policy = prepared.ready_for(workload, row), workload.policy(row.engine)
        if policy is None:
            measured = measure_generate(model, workload)
        else:
            measured = measure_engine(model, workload, policy, row.prefill, row.storage, row.rule)
    except torch.OutOfMemoryError as error:
        return {"reason": f"out of memory: {str(error).splitlines()[0]}"}
    except (DocumentError, EngineError, ModelError, SpecError) as error:
        return {"reason": str(error)}
    ceilings, peak_bytes = prepared.ceilings[workload.name], _peak_bytes(model.device)
    return {"figures": derive_figures(workload, ceilings, measured, row, peak_bytes)}


def derive_figures(
    workload: Workload, ceilings: Ceilings, measured: Measured, row: Row, peak_bytes: int | None
) -> Figures:
    """Rates over the whole run, and the share of what the device could do with as many documents in flight."""
    max_kept = workload.max_kept if row.engine == "corm" else workload.prompt_tokens
    chunk_size = workload.prompt_tokens if row.prefill == "exact" else EngineConfig().chunk_size
    run_share, pairs = propagated(row.rule, workload.model.num_layers, workload.prompt_tokens, chunk_size, max_kept)
    held, kept_ratio = max(1, measured.documents_in_flight), measured.kept_ratio
    storage = Storage.from_spec({"name": row.storage})
    limit = 3600 / document_limit_s(workload, ceilings, held, kept_ratio, pairs, row.weights, storage, run_share)
    per_s = measured.documents / measured.wall_s
    return Figures(
        documents=measured.documents,
        wall_s=measured.wall_s,
        documents_per_hour=3600 * per_s,
        prompt_tokens_per_s=per_s * workload.prompt_tokens,
        output_tokens_per_s=per_s * workload.output_tokens,
        prefill_tokens_per_s=measured.prefill_tokens_per_s,
        decode_ms_per_step=measured.decode_ms_per_step,
        documents_in_flight=measured.documents_in_flight,
        kv_bytes_per_document=measured.kv_bytes_per_document,
        kept_ratio=kept_ratio,
        peak_memory_bytes=peak_bytes,
        limit_documents_per_hour=limit,
        limit_share=3600 * per_s / limit,
    )


def refuse_too_large(workload: Workload, weights: WeightForm, total: int | None) -> None:
    """Refuse weights that are more than the `total` bytes of a device; None where nobody knows how many it has.

    Raises:
        SpecError: they are; the message says how much is needed and what would take less.
    """
    needed = weight_bytes(workload, weights)
    if total is None or needed <= total:
        return
    least = weight_bytes(workload, "fp8")
    less = f"; --weights fp8 takes {least / 2**30:.1f} GiB" if least < needed and least <= total else ""
    raise SpecError(
        f"the weights take {needed / 2**30:.1f} GiB, more than the device's memory of {total / 2**30:.1f} GiB{less}"
    )


def _total_bytes(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _free(device: torch.device) -> None:
    """Give back what earlier measurements held, and start counting memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """What results call a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str | None]:
    """None for what is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return versions
