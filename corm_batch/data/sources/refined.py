"""refined(): what a job reads of a source: the rows that its filter takes, in groups where it says so."""

from __future__ import annotations

from corm_batch.data.sources.base import Refinement, Source
from corm_batch.data.sources.filtered import Filtered
from corm_batch.data.sources.grouped import Grouped


def refined(source: Source) -> Source:
    """The source as its `filter` and `group_by` say; itself where it has neither."""
    if isinstance(source, Refinement):
        return source
    found = source if source.filter is None else Filtered(of=source)
    return (
        found
        if source.group_by is None
        else Grouped(of=found, by=source.group_by, separator=getattr(source, "text_separator", "\n\n"))
    )
