"""PartWriter: finished documents in, parts out. A part is two files, memory then results; the second is the commit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from corm_batch.data.filesystem import write_whole
from corm_batch.data.kinds import array_of
from corm_batch.data.parts import Table, encode_part, folder, part_name
from corm_batch.output import clock
from corm_batch.output.lease import Lease
from corm_batch.output.refill import Refill
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.spec import OutputSection


class PartWriter:
    """Collects rows and publishes them part by part; `refill` sees to the columns of rows that are there already.

    Nothing of a part can be seen before its results file is there, complete; a memory file without one belongs to
    nobody, and readers join on (doc_id, run_id).
    """

    def __init__(self, output: OutputSection, rows: RowBuilder, lease: Lease) -> None:
        """A writer to the place, in the format and at the pace `output` says."""
        self._output = output
        self._builder = rows
        self._lease = lease
        self.refill = Refill(rows.carried, lease)
        self._rows: list[DocumentRow] = []
        self._oldest = 0.0
        self._number = 0

    def add(self, row: DocumentRow) -> None:
        """Take one document's rows; they are safe after the next `commit`."""
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(row)

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        full = len(self._rows) >= self._output.part_documents
        return full or bool(self._rows and time.monotonic() - self._oldest >= self._output.part_seconds)

    def commit(self) -> int:
        """Publish what was added since the last commit; how many documents that were.

        Raises:
            LeaseError: the output belongs to another driver by now.
            OutputError: the part cannot be written; what was committed before is intact.
        """
        if not self._rows:
            return 0
        self._lease.check()
        now = clock.now()
        results = [{**one, "committed_at": now} for row in self._rows for one in self._builder.stored(row)]
        memory = [row.memory for row in self._rows]
        self._publish("memory", pa.Table.from_pylist(memory, schema=self._builder.memory_schema))
        self._publish("results", self._results(results))
        count = len(self._rows)
        self._rows = []
        self._number += 1
        return count

    def _results(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows with what they carry over: of its type, or where a value is of another, this part's column is."""
        table = pa.Table.from_pylist(rows, schema=self._builder.result_schema)
        for field in self._builder.carried:
            values = array_of([row.get(field.name) for row in rows], field.type)
            table = table.append_column(field.with_type(values.type), values)
        return table

    def _publish(self, table: Table, rows: pa.Table) -> None:
        name = part_name(self._builder.run_id, self._number, self._output.part_format)
        content = encode_part(rows, self._output.part_format)
        write_whole(f"{folder(self._output.uri, table)}/{name}", content)
