"""A file that is written piece by piece, and is at its place whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from corm_batch.data.filesystem import filesystem, writing
from corm_batch.data.local_files import hidden_beside, synced
from corm_batch.data.patience import patiently
from corm_batch.data.uri import is_s3


@contextmanager
def published(uri: str) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of what is at `uri` once it is closed; after an error that stays.

    It grows beside its place, hidden from listings; one for a store in this machine's folder for temporary files.

    Raises:
        OutputError: it cannot be written; also what the caller writes to it.
    """
    fs, path = filesystem(uri)
    with writing(uri), ExitStack() as stack:
        place = Path(path)
        if is_s3(uri):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()), place.name)
        growing = stack.enter_context(hidden_beside(place))
        with synced(growing) as file:
            yield file
        if is_s3(uri):
            patiently(fs.put_file, str(growing), path)
        else:
            os.replace(growing, path)
