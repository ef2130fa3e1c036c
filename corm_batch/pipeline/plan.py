"""JobPlan: what a job would read and what its caches would cost, found without weights and without Ray.

Up to `_MEASURED` documents are really read; of a larger archive the beginning of every split is. Of these the prompts
are put together and tokenized as in a run: all where they are few, else those of documents spread evenly over them, by
which the prompts of the others are estimated from their characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from corm_batch.bench.gpus import GpuEstimate, find_gpu
from corm_batch.data.document import Document
from corm_batch.data.sources.base import Split
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.errors import FileError, ModelLoadError
from corm_batch.output.ledger import Ledger, State
from corm_batch.output.run_records import EarlierRuns, read_records
from corm_batch.output.settings import AnswerSettings
from corm_batch.pipeline.intake import DocumentIds, FailedFile
from corm_batch.pipeline.model import answers_version, load_tokenizer, model_path, revision_hash
from corm_batch.pipeline.plan_gpu import KEPT_RATIOS, on_gpu
from corm_batch.pipeline.prompts import Asked, Refusal, Refusals, ask_nobody, prompt_sizes
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

_MEASURED, _SPLITS_MEASURED = 20_000, 200
_TOKENIZED_CHARS, _ASKING_S = 4_000_000, 60.0
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
        left_out: why rows that were read are none of its documents, and how many; `documents` counts them.
        measured: documents that were read for everything below.
        unusable: of these, rows that are none to ask about, as those without text; each would become a failed row.
        refused: why they are, and why the task refuses some of those it was asked for prompts of; the most first.
        too_long: of these, longer than the context; `task.overflow` says what happens to them.
        done, failed_before, todo: of these, answered by an earlier run, failed in it, and left to answer.
        earlier: what is said of rows that another job, or other settings, left in the output, and of those that lack
            columns of the source; one line each.
        max_model_len: tokens of prompt and answer together.
        tokenized: documents whose prompts were put together and tokenized; 0 when no tokenizer could be loaded, and
            tokens are those of the text alone, at 4 characters each.
        exact: whether those are all, so that nothing is estimated.
        prompts: to ask in all about the documents that are left to answer, of the whole source.
        prompt_tokens: of these prompts: what the run would read.
        verify_tokens: what verifying answers would read besides, about, in passes with uncompressed caches.
        from_answers: documents of which later prompts hold answers to earlier ones, taken to be as long as they may.
        tokens: prompt tokens of one document.
        histogram: (documents up to this many tokens and above the bin before, documents), by powers of two.
        kv_bytes_per_token: bytes of keys and values of one token, uncompressed.
        storage: name of the form of storage in which entries are kept.
        page_bytes_per_token: bytes of pages that one token takes in that form, where nothing of it has left.
        kv_bytes: uncompressed bytes of one document at its end, with all that is asked over one reading of it; of one
            in pieces, those of its largest.
        pool_bytes: one replica's page pool; None when it is measured where the model is loaded.
        documents_at_once: (kept ratio, documents of mean size that fit the pool together), in `REFERENCE_POOL_BYTES`
            where the pool is not known.
        earlier_runs: what earlier runs of the same model measured at this output; None where none is known.
        first_prompt: the first prompt, whole, special tokens and all; None when there is none.
        gpu: the same on a kind of card, when one was asked for.
    """

    files: int
    splits: int
    documents: int | None
    failed_files: tuple[FailedFile, ...]
    empty_files: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...]
    measured: int
    unusable: int
    refused: tuple[Refusal, ...]
    too_long: int
    done: int
    failed_before: int
    todo: int
    earlier: tuple[str, ...]
    max_model_len: int
    tokenized: int
    exact: bool
    prompts: int
    prompt_tokens: int
    verify_tokens: int
    from_answers: int
    tokens: Quantiles
    histogram: tuple[tuple[int, int], ...]
    kv_bytes_per_token: int
    storage: str
    page_bytes_per_token: int
    kv_bytes: Quantiles
    pool_bytes: int | None
    documents_at_once: tuple[tuple[float, int], ...]
    earlier_runs: EarlierRuns | None
    first_prompt: str | None
    gpu: GpuEstimate | None


@dataclass
class _Measured:
    """What reading the documents gave: states of all, and of the usable ones whether they are to do, their characters,
    and every `stride`-th of them; broken files; whether all was read; and rows, those that are no documents too."""

    states: list[State] = field(default_factory=list)
    todo: list[bool] = field(default_factory=list)
    chars: list[int] = field(default_factory=list)
    kept: list[Document] = field(default_factory=list)
    kept_chars: int = 0
    stride: int = 1
    failed: dict[str, FailedFile] = field(default_factory=dict)
    whole: bool = True
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: Refusals = field(default_factory=Refusals)

    def add(self, document: Document, state: State, problem: str | None) -> None:
        self.states.append(state)
        if document.text is None or problem is not None:
            self.refused.add(document, problem or "it has no text")
            return
        if len(self.chars) % self.stride == 0:
            self.kept.append(document)
            self.kept_chars += len(document.text)
        self.chars.append(len(document.text))
        self.todo.append(state == "new")
        while len(self.kept) > 1 and self.kept_chars > _TOKENIZED_CHARS:
            self.kept, self.stride = self.kept[::2], 2 * self.stride
            self.kept_chars = sum(self.chars[:: self.stride])

    def refusals(self, asked: Sequence[Asked]) -> tuple[Refusal, ...]:
        """Why nothing is asked about some of all, those included of which the task refuses so."""
        for document, one in zip(self.kept, asked, strict=False):
            if one.refusal is not None:
                self.refused.add(document, one.refusal)
        return self.refused.sorted()


def plan_job(spec: JobSpec, gpu: str | None = None) -> JobPlan:
    """Look at the source, the output and the model's config; `gpu` is the name of a card to say more about.

    Raises:
        SpecError: no figures of such a card; no file has the columns asked for.
        SourceError: the documents, or the parts of an earlier run, cannot be read.
        ModelLoadError: there is no such model.
    """
    if gpu is not None:
        find_gpu(gpu)
    path, dtype = model_path(spec.model), getattr(torch, spec.model.dtype)
    shape = ModelShape.from_pretrained(path, spec.model.revision, spec.model.trust_remote_code)
    tokenizer, page = _tokenizer(spec, path), (dtype, spec.policy.columns, spec.engine.page_size)
    usual, model_hash = usual_storage(spec.policy, shape, dtype), revision_hash(spec.model)
    ledger = Ledger.of(spec, AnswerSettings.of(spec, model_hash, answers_version(spec, tokenizer), usual))
    spec, splits, measured = spec.storing(usual), spec.splits(), _Measured()
    for document, problem in _documents(spec, splits, measured):
        measured.add(document, ledger.state(document), problem)
    max_model_len, form = shape.context(spec.engine.max_model_len), spec.engine.form
    asked = ask_nobody(spec, measured.kept, tokenizer, shape, _ASKING_S) if tokenizer is not None else []
    sizes = prompt_sizes(measured.chars, measured.stride, asked, max_model_len, spec.task.max_new_tokens)
    todo, per_token = np.array(measured.todo, dtype=bool), shape.kv_bytes_per_token(dtype)
    stored = shape.storing(spec.engine.sharing).page_bytes_per_token(form, *page)
    documents = None if any(split.num_rows < 0 for split in splits) else sum(split.num_rows for split in splits)
    scale = documents / measured.rows if documents and measured.states and not measured.whole else 1.0
    prompts, pool = round(scale * float(sizes.prompts[todo].sum())), _known_pool_bytes(spec)
    return JobPlan(
        files=len({split.uri for split in splits}),
        splits=len(splits),
        documents=documents,
        failed_files=tuple(measured.failed.values()),
        empty_files=tuple(split.uri for split in splits if split.num_rows == 0 and split.error is None),
        left_out=tuple(measured.left_out.most_common()),
        measured=len(measured.states),
        unusable=len(measured.states) - len(measured.chars),
        refused=measured.refusals(asked),
        too_long=int(np.count_nonzero(sizes.too_long)),
        done=measured.states.count("ok"),
        failed_before=measured.states.count("failed"),
        todo=measured.states.count("new"),
        earlier=tuple(rows.text for rows in ledger.earlier()),
        max_model_len=max_model_len,
        tokenized=len(asked),
        exact=measured.whole and len(asked) == len(measured.chars),
        prompts=prompts,
        prompt_tokens=round(scale * float(sizes.tokens[todo].sum())),
        verify_tokens=round((spec.verify.share if spec.verify else 0.0) * scale * float(sizes.verified[todo].sum())),
        from_answers=sum(one.from_answers > 0 for one in asked),
        tokens=_quantiles(sizes.tokens),
        histogram=_histogram(sizes.tokens),
        kv_bytes_per_token=per_token,
        kv_bytes=_quantiles(sizes.held * per_token),
        pool_bytes=pool,
        storage=form.name,
        page_bytes_per_token=stored,
        documents_at_once=_documents_at_once(spec, pool, sizes.held * stored),
        earlier_runs=EarlierRuns.of_model(read_records(spec.output.uri), model_hash),
        first_prompt=_first_prompt(tokenizer, asked),
        gpu=None if gpu is None else on_gpu(spec, gpu, path, tokenizer, asked, sizes, prompts),
    )


def _documents(spec: JobSpec, splits: Sequence[Split], found: _Measured) -> Iterator[tuple[Document, str | None]]:
    """Every document, or of a large archive the first ones of splits that lie evenly over it; and why it is unusable.

    Files that turn out to be broken are put into `found`; those that already are known to be are, wherever they lie.
    """
    found.failed.update({split.uri: FailedFile(split.uri, split.error) for split in splits if split.error is not None})
    splits = [split for split in splits if split.num_rows]
    rows = [split.num_rows for split in splits]
    quota = None
    if min(rows, default=0) < 0 or sum(rows) > _MEASURED:
        step = -(-len(splits) // _SPLITS_MEASURED)
        splits, found.whole = splits[::step], step == 1
        quota = -(-_MEASURED // len(splits))
    ids = DocumentIds(splits)
    for split in splits:
        before = found.rows
        try:
            for number, document in enumerate(islice(spec.source.read(split, spec.task.columns_read), quota)):
                found.rows += 1
                if document.left_out is None:
                    yield ids.settle(document, split, number)
                else:
                    found.left_out[document.left_out] += 1
        except FileError as error:
            found.failed.setdefault(error.uri, FailedFile(error.uri, error.reason))
        found.whole &= quota is None or found.rows - before < quota


def _tokenizer(spec: JobSpec, path: str) -> PromptTokenizer | None:
    """None when it cannot be loaded."""
    try:
        return load_tokenizer(spec.model, path)
    except ModelLoadError:
        return None


def _first_prompt(tokenizer: PromptTokenizer | None, asked: Sequence[Asked]) -> str | None:
    """None where there is none, or no tokenizer."""
    first = next((one.first for one in asked if one.first is not None), None)
    return tokenizer.spelled(first) if tokenizer is not None and first is not None else None


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
    return spec.engine.pool_bytes("cpu")


def _documents_at_once(spec: JobSpec, pool: int | None, page_bytes: np.ndarray) -> tuple[tuple[float, int], ...]:
    """How many documents of mean size one pool holds, by how much of them is kept; of those that hold anything."""
    page_bytes = page_bytes[page_bytes > 0]
    if not page_bytes.size:
        return ()
    pool, mean = REFERENCE_POOL_BYTES if pool is None else pool, float(page_bytes.mean())
    return tuple((ratio, min(int(pool / (mean * ratio)), spec.engine.max_sequences)) for ratio in KEPT_RATIOS)
