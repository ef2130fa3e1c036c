"""convert(): a model's folder changed into another one, which says in `conversion.json` what it was made of.

    {"weights": {"name": "kv_heads", ...}, "model": "...", "weights_sha256": "...",
     "texts": {"source": "...", "license": "...", "texts": 16, "tokens": 8192, "sha256": "..."}}

The file is one of those whose hash tells which model a job's answers are of. Knows nothing of how weights are changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corm_batch.engine.checkpoint import load_config, quantization, weights_sha256
from corm_batch.errors import OutputError, SpecError, UnsupportedModelError
from corm_batch.weights.base import Weights

RECORD = "conversion.json"


@dataclass(frozen=True)
class Texts:
    """What a change of weights is found on.

    Attributes:
        token_ids: of each prompt.
        source: where the texts are from.
        license: of the texts.
    """

    token_ids: Sequence[Sequence[int]]
    source: str
    license: str

    def record(self) -> dict[str, Any]:
        """What of them is told."""
        digest = hashlib.sha256()
        for ids in self.token_ids:
            digest.update(len(ids).to_bytes(8, "little") + np.asarray(ids, "<u4").tobytes())
        return {
            "source": self.source,
            "license": self.license,
            "texts": len(self.token_ids),
            "tokens": sum(map(len, self.token_ids)),
            "sha256": digest.hexdigest(),
        }


def check(weights: Weights, path: str, folder: Path, revision: str | None = None) -> None:
    """Look before anything is loaded.

    Raises:
        SpecError: the folder is there or is none of this machine, or a field does not suit the model.
        ModelLoadError, UnsupportedModelError: the model cannot be read, or changed.
    """
    if folder.parts[:1] and folder.parts[0].endswith(":"):
        raise SpecError(f"--output {folder}: expected a local folder, which may be uploaded as it is")
    if folder.exists():
        raise SpecError(f"--output {folder}: is there already; a model is written to a new folder")
    config = load_config(path, revision)
    if method := quantization(config):
        raise UnsupportedModelError(f"model.name: {path!r} is quantised with {method}: convert what it was made from")
    if getattr(config, "pod", None):
        raise UnsupportedModelError(
            f"model.name: {path!r} has layers that share keys (pod): convert what it was made of"
        )
    weights.refuse(config)


def convert(
    weights: Weights, path: str, texts: Texts, folder: Path, device: torch.device, revision: str | None = None
) -> dict[str, Any]:
    """Change a model and write it to a folder, which gets its name last; what its record says.

    Args:
        weights: the change.
        path, revision: of the model, as `load_plain`.
        texts: what it is found on.
        folder: must not be there.
        device: where texts are read.

    Raises:
        SpecError, ModelLoadError, UnsupportedModelError: as `check`.
        OutputError: the folder cannot be written.
    """
    from corm_batch.engine.plain import load_plain  # here: who lists what weights may become starts without it

    check(weights, path, folder, revision)
    model = load_plain(path, device, revision)
    token_ids = [torch.tensor(ids, device=device) for ids in texts.token_ids]
    made = weights.change(model, token_ids)
    record = {
        "weights": weights.to_spec(),
        "model": path,
        "weights_sha256": weights_sha256(path),
        "texts": texts.record(),
    }
    write(made, path, folder, record, revision)
    return record


def write(model: Any, path: str, folder: Path, record: dict[str, Any], revision: str | None = None) -> None:
    """A changed model in a folder of its own, with the tokenizer of the one at `path` and the record.

    Raises:
        OutputError: the folder cannot be written.
    """
    from corm_batch.engine.plain import save_plain  # here, as above

    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_plain(model, path, part, revision)
        (part / RECORD).write_text(f"{json.dumps(record, indent=1)}\n", encoding="utf-8")
        part.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
