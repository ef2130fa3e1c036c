"""Guard: whether a running job should go on, by the documents of it that were verified so far."""

from __future__ import annotations

from corm_batch.audit.bounds import CONFIDENCE, lower_bound
from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.selection import is_chosen
from corm_batch.audit.statement import more_than


class Guard:
    """Counts the chosen documents of one run.

    A chosen document counts from when it is read, and as one that does not differ until it is known to. Long documents
    are answered first and short ones last, and eviction does more to long ones: the documents that are done would speak
    for the job badly, the documents that were read speak for it as well as the order of the source does.
    """

    def __init__(self, config: VerifyConfig | None) -> None:
        """A guard that never says no without `config` or its `stop_above`."""
        self._share = 0.0 if config is None else config.share
        self._stop_above = None if config is None else config.stop_above
        self._chosen = 0
        self._differing = 0
        self.bound = 0.0

    def read(self, doc_id: str) -> None:
        """Take note of a document that will be answered."""
        if self._stop_above is not None:
            self._chosen += is_chosen(doc_id, self._share)

    def found(self, differing: int) -> None:
        """Take note of how many of those that were read are known to differ by now."""
        if self._stop_above is not None and differing > self._differing:
            self.bound = max(self.bound, lower_bound(differing, self._chosen))
        self._differing = differing

    @property
    def stops(self) -> bool:
        """Whether the share of documents that differ is above `stop_above`, with 95 % confidence whenever asked."""
        return self._stop_above is not None and self.bound > self._stop_above

    @property
    def reason(self) -> str:
        """Why the job should not go on; empty while it should."""
        if not self.stops:
            return ""
        return (
            f"{self._differing:,} of {self._chosen:,} documents to verify would have been answered otherwise, with "
            f"{100 * CONFIDENCE:g} % confidence more than {more_than(self.bound)} of all; verify.stop_above is "
            f"{100 * (self._stop_above or 0):g} %"
        )
