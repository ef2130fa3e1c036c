"""Run ids: the name of a run, which its parts' names begin with.

Whatever the clocks say, it sorts after the names of all runs before. So a later run's rows are the newest even when an
earlier one, stopped in a commit, goes on after it.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta

from corm_batch.data.filesystem import list_files, write_whole
from corm_batch.data.parts import folder, list_parts
from corm_batch.errors import OutputError
from corm_batch.output import clock

_FORMAT = "%Y%m%dT%H%M%SZ"
_RUN = re.compile(r"\d{8}T\d{6}Z-")
_PART = re.compile(r".*/part-(?P<run>.*?)(?:-\d+)?\.\w+")
_STARTED = ".started"


def start_run(output_uri: str) -> str:
    """The id of a run that begins now, such as `20261126T134133Z-a710c4`; the lease of the output must be held.

    The time in it is that of the clock, or a second after the latest of a run before where the clock is behind that.
    The id is written down at once: a run that has committed nothing yet may still do so when it is no longer expected.

    Raises:
        SourceError: the output cannot be listed.
        OutputError: the id cannot be written down, or a part is named in a way that no run can be named after.
    """
    runs = f"{folder(output_uri, '_job')}/runs"
    before = {uri.rpartition("/")[2].removesuffix(_STARTED): uri for uri in list_files(f"{runs}/", (_STARTED,))}
    before |= {match["run"]: uri for uri in list_parts(folder(output_uri, "results")) if (match := _PART.match(uri))}
    started_at = clock.now()
    moment = started_at
    if timed := [run for run in before if _RUN.match(run)]:
        moment = max(moment, _time(max(timed)) + timedelta(seconds=1))
    run_id = f"{moment.strftime(_FORMAT)}-{uuid.uuid4().hex[:6]}"
    if (last := max(before, default="")) >= run_id:
        raise OutputError(
            f"{before[last]}: no run can be named after it, and rows to come would not be the newest; "
            f"rename it to sort before {run_id}, or move it away"
        )
    record = {"run_id": run_id, "started_at": started_at.isoformat()}
    write_whole(f"{runs}/{run_id}{_STARTED}", json.dumps(record).encode())
    return run_id


def _time(run_id: str) -> datetime:
    """The time in a run's id; the end of time for what looks like one and is none."""
    try:
        return datetime.strptime(run_id.partition("-")[0], _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1)
