"""A calibration in words: what it says first, and the cells of its table, as terminal, page and spec show them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from corm_batch.audit.bounds import CONFIDENCE, upper_bound
from corm_batch.audit.statement import at_most
from corm_batch.calibration.loss import nats_of, share_of
from corm_batch.calibration.result import Calibration, Loss, Tried
from corm_batch.report.evaluation import entries_text
from corm_batch.report.units import counted, percent_text, seconds_text

HEADS = ("documents", "loss", "95 %", "changed", "peak/full", "documents/h")
_CERTAIN = f"{100 * CONFIDENCE:g} % confidence"
_WORTH_SAYING = 1.0
"""A bound of the loss below this rise of perplexity is one that somebody may want."""
_ABOUT = {
    "chosen": "chosen",
    "within": "confirmed, more bytes",
    "above": "not within the limit",
    "not confirmed": "not confirmed",
    "dropped": "dropped",
    "keeps all": "frees nothing",
    "failed": "failed",
    "full cache": "the full cache, against itself",
}


def loss_text(nats: float) -> str:
    """Nats a token as a rise of perplexity: `0.31%`."""
    return f"{100 * share_of(nats):.2f}%"


def bounds_text(loss: Loss) -> str:
    """`-0.10%..0.62%`."""
    return f"{loss_text(loss.low)}..{loss_text(loss.high)}"


def state_text(tried: Tried) -> str:
    """What became of a policy."""
    return f"failed: {tried.failure}" if tried.failure is not None else _ABOUT[tried.state]


def cells(tried: Tried) -> tuple[str, ...]:
    """The texts under `HEADS`."""
    loss = tried.loss
    changed = "-" if tried.changed is None else f"{tried.changed} of {tried.compared}"
    return (
        str(loss.documents) + (" held out" if tried.held_out else "") if loss else "-",
        loss_text(loss.mean) if loss else "-",
        bounds_text(loss) if loss else "-",
        changed,
        percent_text(tried.peak_ratio),
        "-" if tried.documents_per_hour is None else f"{tried.documents_per_hour:,.0f}",
    )


def statement(result: Calibration) -> list[str]:
    """What has come of it, a sentence each."""
    if (chosen := result.of(result.chosen)) is not None:
        return [f"{chosen.label}", *promise(result, chosen)]
    lines = [f"no policy is shown to lose at most {limit_text(result)}, with {_CERTAIN}, and to free anything"]
    if (best := result.of(result.best)) is not None and best.held_out is not None:
        lines.append(f"the best that was found: {best.label}")
        lines += promise(result, best)
        lines += _advice(result, best.held_out)
    elif any(one.state == "not confirmed" for one in result.tried):
        lines.append("there was no time for the documents that confirm the choice: give it more, as --minutes 30")
    return lines


def _advice(result: Calibration, best: Loss) -> Iterator[str]:
    """What else there is to do where nothing is shown to meet the limit."""
    if best.mean <= result.limit:
        yield "more documents, or more minutes, may show that it is within the limit"
    if best.high < nats_of(_WORTH_SAYING):
        yield f"it is shown to meet --max-loss {math.ceil(1000 * share_of(best.high)) / 10:g}%"
    yield "nothing is lost by policy: {name: full}"


def limit_text(result: Calibration) -> str:
    """`1% (0.00995 nats a token)`."""
    return f"{100 * share_of(result.limit):.3g}% ({result.limit:.3g} nats a token)"


def promise(result: Calibration, tried: Tried) -> list[str]:
    """What a finalist loses, changes and holds."""
    found = tried.held_out
    lines = []
    if found is not None:
        documents = f"{counted(found.documents, 'document')} that had no part in the choice"
        measured = f"{loss_text(found.mean)} ({bounds_text(found)}) on {documents}"
        lines.append(f"loses at most {loss_text(found.high)}, with {_CERTAIN}; {measured}")
    if tried.changed is not None and tried.changed_at_most is not None:
        fewest = (
            f"{counted(tried.compared, 'document')} cannot show less than {at_most(upper_bound(0, tried.compared))}"
        )
        most = f"with {_CERTAIN} at most {at_most(tried.changed_at_most)} of all ({fewest})"
        lines.append(f"{tried.changed} of {tried.compared} would have been answered otherwise; {most}")
    lines.append(f"holds {percent_text(tried.peak_ratio)} of an uncompressed cache's bytes at its peak")
    return lines


def about_rows(result: Calibration) -> Iterator[tuple[str, str]]:
    """How it was measured, as (name, text)."""
    yield "limit", f"{limit_text(result)}: a rise of the perplexity of the full cache's own answers"
    yield "model", f"{result.model['name']}, {result.model['dtype']}, on {result.device}"
    if result.storage != "model":
        yield "entries", entries_text([result.storage], result.model.get("storage"))
    drawn = "all of the source" if result.whole else "the first that were read of a larger source"
    said = f"{result.chosen_on} to choose, {result.held_out} to confirm; drawn by hash from {result.read:,}, {drawn}"
    yield "documents", said
    answered = result.chosen_on + result.held_out
    each = (
        "one of each"
        if result.prompts == answered
        else "a document in pieces has several, and those after its first answers hold the full cache's"
    )
    yield "prompts", f"{result.prompts:,} of about {result.prompt_tokens:,} tokens: {each}"
    if result.unanswered:
        yield "without an answer", f"{counted(result.unanswered, 'document')}: {'; '.join(result.reasons)}"
    read = "once for all policies" if result.shared_pass else "by every policy for itself"
    yield "prompts are read", read
    yield "time", f"{seconds_text(result.seconds)} of {result.minutes:g} minutes"
    yield "command", result.command
