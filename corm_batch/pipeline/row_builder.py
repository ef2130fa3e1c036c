"""row_builder(): what makes the rows of a run, with all about the run that readers may ask the files for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version

from corm_batch.data.carried import carried_fields
from corm_batch.data.schema import memory_schema, result_schema
from corm_batch.data.sources.base import Split
from corm_batch.output.rows import RowBuilder
from corm_batch.output.settings import SETTINGS, AnswerSettings
from corm_batch.spec import JobSpec

_PACKAGES = ("corm-batch", "torch", "transformers", "ray", "pyarrow")


def row_builder(
    spec: JobSpec, model_hash: str, answer_settings: AnswerSettings, run_id: str, splits: Sequence[Split]
) -> RowBuilder:
    """That of a run of this job, which names its form of storage, by the run's name, over what it has to read."""
    metadata = {
        "corm_batch.job": spec.name,
        "corm_batch.run_id": run_id,
        **dict(zip(SETTINGS, (answer_settings.to_metadata(), spec.to_yaml(), model_hash), strict=True)),
        "corm_batch.fingerprint": answer_settings.fingerprint,
        "corm_batch.versions": json.dumps(versions()),
    }
    constants = {
        "policy": json.dumps(spec.policy.to_spec()),
        "dtype": spec.model.dtype if spec.engine.form.name == "model" else spec.engine.form.name,
        "page_size": spec.engine.page_size,
    }
    results, memory = result_schema(spec.task.result_fields, metadata), memory_schema(metadata)
    carried = carried_fields(spec.output.columns, splits)
    return RowBuilder(run_id, answer_settings.fingerprint, results, memory, constants, spec.task.exploded, carried)


def versions() -> dict[str, str]:
    """Those of the packages that answers may depend on."""
    return {package: version(package) for package in _PACKAGES}
