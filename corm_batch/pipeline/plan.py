"""JobPlan: what a job would read and what its caches would cost, found without weights and without Ray.

Up to `_MEASURED` documents are really read; of a larger archive the beginning of every split is. Tokens are estimated
from characters, by a rate taken from a few documents that do go through the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from corm_batch.data.document import Document
from corm_batch.data.sources.base import Split
from corm_batch.engine.memory import pool_bytes
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import FileError, ModelLoadError
from corm_batch.output.ledger import Ledger, State
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline.intake import FailedFile
from corm_batch.pipeline.model import load_tokenizer, model_path, revision_hash
from corm_batch.spec import JobSpec, ModelSection

_MEASURED = 20_000
_SPLITS_MEASURED = 200
_TOKENIZED, _TOKENIZED_CHARS = 16, 20_000
_CHARS_PER_TOKEN = 4.0  # English text, when there is no tokenizer to ask
_KEPT_RATIOS = (1.0, 0.5, 0.25, 0.1)
REFERENCE_POOL_BYTES = 10 * 2**30


@dataclass(frozen=True)
class Quantiles:
    """Median, 99th percentile and maximum over the documents."""

    p50: int
    p99: int
    max: int


@dataclass(frozen=True)
class JobPlan:
    """What a job would do.

    Attributes:
        files, splits, documents: in the source; `documents` is None when the files do not say.
        failed_files, empty_files: of these, what cannot be read as far as it was looked at, and what holds no rows.
        measured: documents that were read for everything below.
        unusable: of these, rows without text or id; each would become a failed row.
        too_long: of these, longer than the context; `task.overflow` says what happens to them.
        done, failed_before, todo: of these, answered by an earlier run, failed in it, and left to answer.
        max_model_len: tokens of prompt and answer together.
        chars_per_token: how tokens were estimated, and whether that rate comes from the model's own tokenizer.
        tokens: estimated tokens of one document.
        histogram: (documents up to this many tokens and above the bin before, documents), by powers of two.
        kv_bytes_per_token: bytes of keys and values of one token, uncompressed.
        kv_bytes: uncompressed bytes of one document at its end; a document longer than the context counts as a full
            context, for it is answered piece by piece.
        pool_bytes: one replica's page pool; None when it is measured where the model is loaded.
        documents_at_once: (kept ratio, documents of mean size that fit the pool together), in `REFERENCE_POOL_BYTES`
            where the pool is not known.
    """

    files: int
    splits: int
    documents: int | None
    failed_files: tuple[FailedFile, ...]
    empty_files: tuple[str, ...]
    measured: int
    unusable: int
    too_long: int
    done: int
    failed_before: int
    todo: int
    max_model_len: int
    chars_per_token: float
    chars_per_token_measured: bool
    tokens: Quantiles
    histogram: tuple[tuple[int, int], ...]
    kv_bytes_per_token: int
    kv_bytes: Quantiles
    pool_bytes: int | None
    documents_at_once: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class _Measured:
    """What reading the documents gave: characters of the usable ones, states of all, a few texts, broken files."""

    chars: list[int]
    states: list[State]
    texts: list[str]
    failed: dict[str, FailedFile]


def plan_job(spec: JobSpec) -> JobPlan:
    """Look at the source, the output and the model's config.

    Raises:
        SourceError: the documents, or the parts of an earlier run, cannot be read.
        SpecError: no file has the columns asked for.
        ModelLoadError: there is no such model.
    """
    path = model_path(spec.model)
    shape = ModelShape.from_pretrained(path, spec.model.revision, spec.model.trust_remote_code)
    ledger = Ledger.read(spec.output.uri, AnswerSettings.of(spec, revision_hash(spec.model)), spec.name)
    splits = spec.splits()
    measured = _measure(spec, splits, ledger)
    rate = _chars_per_token(spec.model, path, measured.texts)
    tokens = np.ceil(np.array(measured.chars) / (rate or _CHARS_PER_TOKEN)).astype(np.int64)
    max_model_len = shape.context(spec.engine.max_model_len)
    per_token = shape.kv_bytes_per_token(getattr(torch, spec.model.dtype))
    kv_bytes = np.minimum(tokens + spec.task.max_new_tokens, max_model_len) * per_token
    rows = [split.num_rows for split in splits]
    pool = _known_pool_bytes(spec)
    return JobPlan(
        files=len({split.uri for split in splits}),
        splits=len(splits),
        documents=None if min(rows) < 0 else sum(rows),
        failed_files=tuple(measured.failed.values()),
        empty_files=tuple(split.uri for split in splits if split.num_rows == 0 and split.error is None),
        measured=len(measured.states),
        unusable=len(measured.states) - len(measured.chars),
        too_long=int(np.count_nonzero(tokens + spec.task.max_new_tokens > max_model_len)),
        done=measured.states.count("ok"),
        failed_before=measured.states.count("failed"),
        todo=measured.states.count("new"),
        max_model_len=max_model_len,
        chars_per_token=rate or _CHARS_PER_TOKEN,
        chars_per_token_measured=rate is not None,
        tokens=_quantiles(tokens),
        histogram=_histogram(tokens),
        kv_bytes_per_token=per_token,
        kv_bytes=_quantiles(kv_bytes),
        pool_bytes=pool,
        documents_at_once=_documents_at_once(spec, REFERENCE_POOL_BYTES if pool is None else pool, kv_bytes),
    )


def _measure(spec: JobSpec, splits: Sequence[Split], ledger: Ledger) -> _Measured:
    """Read documents and keep what the plan needs of them."""
    found = _Measured([], [], [], {})
    between = max(1, min(_MEASURED, sum(split.num_rows for split in splits)) // _TOKENIZED)
    for document in _documents(spec, splits, found.failed):
        found.states.append(ledger.state(document))
        if document.text is None:
            continue
        if len(found.chars) % between == 0 and len(found.texts) < _TOKENIZED:
            found.texts.append(document.text[:_TOKENIZED_CHARS])
        found.chars.append(len(document.text))
    return found


def _documents(spec: JobSpec, splits: Sequence[Split], failed: dict[str, FailedFile]) -> Iterator[Document]:
    """Every document, or of a large archive the first ones of splits that lie evenly over it.

    Files that turn out to be broken are put into `failed`; those that already are known to be are, wherever they lie.
    """
    failed.update({split.uri: FailedFile(split.uri, split.error) for split in splits if split.error is not None})
    splits = [split for split in splits if split.num_rows]
    rows = [split.num_rows for split in splits]
    if min(rows, default=0) >= 0 and sum(rows) <= _MEASURED:
        quota = None
    else:
        splits = splits[:: -(-len(splits) // _SPLITS_MEASURED)]
        quota = -(-_MEASURED // len(splits))
    for split in splits:
        try:
            yield from islice(spec.source.read(split, spec.task.source_columns), quota)
        except FileError as error:
            failed.setdefault(error.uri, FailedFile(error.uri, error.reason))


def _chars_per_token(model: ModelSection, path: str, texts: Sequence[str]) -> float | None:
    """Characters a token of these texts; None when the tokenizer cannot be loaded or there is no text."""
    try:
        tokenizer = load_tokenizer(model, path)
    except ModelLoadError:
        return None
    num_tokens = sum(len(tokenizer.token_ends(text)) for text in texts)
    return sum(map(len, texts)) / num_tokens if num_tokens else None


def _quantiles(values: np.ndarray) -> Quantiles:
    """All zero without values."""
    if not values.size:
        return Quantiles(0, 0, 0)
    p50, p99 = np.quantile(values, [0.5, 0.99], method="higher")
    return Quantiles(int(p50), int(p99), int(values.max()))


def _histogram(tokens: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Documents by the power of two their token count does not exceed; bins in between are there though empty."""
    powers = [max(0, int(count) - 1).bit_length() for count in tokens]
    return tuple((2**power, powers.count(power)) for power in range(min(powers), max(powers) + 1)) if powers else ()


def _known_pool_bytes(spec: JobSpec) -> int | None:
    """The pool of one replica where no GPU has to be measured; None where one has to, or may have to."""
    device, here = spec.model.device, spec.cluster.address is None and not torch.cuda.is_available()
    if spec.engine.kv_memory is None and device != "cpu" and not (device == "auto" and here):
        return None
    return pool_bytes(spec.engine, torch.device("cpu"))


def _documents_at_once(spec: JobSpec, pool: int, kv_bytes: np.ndarray) -> tuple[tuple[float, int], ...]:
    """How many documents of mean size one pool holds, by how much of them is kept."""
    if not kv_bytes.size:
        return ()
    mean = float(kv_bytes.mean())
    return tuple((ratio, min(int(pool / (mean * ratio)), spec.engine.max_sequences)) for ratio in _KEPT_RATIOS)
