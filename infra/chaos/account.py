"""Account of a chaos series: what was lost, twice or different, and which fault each repetition is due to.

A document may be begun again only when its last attempt was in flight in an actor that was killed, in flight under a
driver that was ended, or finished and not committed when its driver was ended, or beside a document that kills
replicas.
Anything else is a violation.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Answer = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Bounds:
    """The settings that bound repetitions.

    Attributes:
        in_flight: documents in one actor at most.
        replicas: actors at most.
        part: documents of a part.
    """

    in_flight: int
    replicas: int
    part: int


@dataclass
class Repeated:
    """Documents that one fault made be begun again.

    Attributes:
        fault: the journal's entry.
        in_flight, uncommitted: in flight, or finished and not committed, when it struck.
        after: begun by a driver that did not know yet that the output is another's.
    """

    fault: Mapping[str, Any]
    in_flight: int = 0
    uncommitted: int = 0
    after: int = 0

    def exceeds(self, bounds: Bounds) -> bool:
        """Whether that is more than was in flight there, and for a driver one uncommitted part."""
        if self.fault["actors"]:
            return self.uncommitted > 0 or self.in_flight > bounds.in_flight * len(self.fault["actors"])
        part = 0 if self.fault["kind"] == "terminate" else bounds.part
        everywhere = bounds.in_flight * bounds.replicas
        return self.uncommitted > part or self.in_flight > everywhere or self.after > part + everywhere


@dataclass
class Account:
    """What a series did.

    Attributes:
        documents: of the undisturbed run.
        lost, duplicated: documents without a row, rows beside the first of a document.
        different: documents whose row differs from that of the undisturbed run.
        recomputed: attempts beside the first of a document, of which by_documents are due to those that kill replicas.
        worst: of one fault of each kind, documents recomputed.
        violations: recomputed without a cause or beyond the bound; one line each.
    """

    documents: int
    lost: int
    duplicated: int
    different: int
    recomputed: int = 0
    by_documents: int = 0
    worst: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is lost, twice, different or recomputed without a cause."""
        return not (self.lost or self.duplicated or self.different or self.violations)

    def to_json(self) -> dict[str, Any]:
        """Every figure."""
        return asdict(self)


def account(
    journal: Sequence[Mapping[str, Any]],
    rows: Sequence[tuple[str, str, Answer]],
    expected: Mapping[str, Answer],
    killers: set[str],
    bounds: Bounds,
) -> Account:
    """Compare and count.

    Args:
        journal: events of drivers, engines and faults, oldest first.
        rows: (document, run, answer) of every row of every part.
        expected: the answers of the undisturbed run.
        killers: documents that may cost a replica.
        bounds: of the job.
    """
    found: dict[str, Answer] = {document: answer for document, _, answer in rows}
    result = Account(
        documents=len(expected),
        lost=len(expected.keys() - found.keys()),
        duplicated=len(rows) - len(found),
        different=sum(found[document] != expected.get(document) for document in found),
    )
    _attribute(result, journal, {(document, run) for document, run, _ in rows}, killers, bounds)
    return result


def _attribute(
    result: Account,
    journal: Sequence[Mapping[str, Any]],
    committed: set[tuple[str, str]],
    killers: set[str],
    bounds: Bounds,
) -> None:
    """Find the fault of every attempt that was not its document's last."""
    runs = {(entry["driver"], entry["document"]): entry["run"] for entry in journal if entry["event"] == "row"}
    faults = [Repeated(entry) for entry in journal if entry["event"] == "fault"]
    by_actor = {actor: one for one in faults for actor in one.fault["actors"]}
    by_driver = {one.fault["driver"]: one for one in faults if not one.fault["actors"] and one.fault["driver"]}
    attempts: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in journal:
        ended = by_driver.get(entry.get("driver"))
        if entry["event"] == "begin" and ended is not None and entry["at"] > ended.fault["at"]:
            ended.after += 1
            result.recomputed += 1
        elif entry["event"] == "begin":
            attempts[entry["document"]].append(entry)
    dangerous = {entry["actor"] for document in killers for entry in attempts[document]}
    for document, tries in attempts.items():
        for this, following in itertools.pairwise(tries):
            result.recomputed += 1
            driver, actor, goes_on = this["driver"], this["actor"], following["driver"] == this["driver"]
            run = None if goes_on else runs.get((driver, document))
            if run is not None and (document, run) in committed:
                result.violations.append(f"{document}: begun again though committed by {run}")
            elif run is not None and driver in by_driver:
                by_driver[driver].uncommitted += 1
            elif actor in by_actor:
                by_actor[actor].in_flight += 1
            elif actor in dangerous:
                result.by_documents += 1
            elif not goes_on and driver in by_driver:
                by_driver[driver].in_flight += 1
            else:
                result.violations.append(f"{document}: begun again by {following}, after {this}")
    worst: Counter[str] = Counter()
    for one in faults:
        worst[one.fault["kind"]] = max(worst[one.fault["kind"]], one.in_flight + one.uncommitted + one.after)
        if one.exceeds(bounds):
            result.violations.append(
                f"{one.fault}: {one.in_flight} in flight, {one.uncommitted} uncommitted, {one.after} after"
            )
    result.worst = dict(sorted(worst.items()))
