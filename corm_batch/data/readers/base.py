"""Reader: what a file that is one document says, page by page. Knows nothing of where the file lies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from corm_batch.registry import Plugin


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        text: all of it.
        has_picture: whether there is one on it; a page with a picture and no text has been scanned.
        problem: why it cannot be read, though others of its file can; empty when it has been read.
    """

    text: str
    has_picture: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Content:
    """What a file says.

    Attributes:
        pages: one where the file knows nothing of pages.
        title: as the file has it, if it does.
        is_paged: whether its pages are numbered, so that one can be named.
    """

    pages: Sequence[Page]
    title: str | None = None
    is_paged: bool = False


class Reader(Plugin, kind="reader", package="corm_batch.data.readers"):
    """A kind of file.

    Attributes:
        suffixes: ends of the names of such files, in lower case.
        needs: modules that are not there unless they are installed besides, by the extra `documents`.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, content: bytes) -> Content:
        """What the bytes of a file say.

        Raises:
            Exception: they cannot be read, and why.
        """

    def missing(self) -> list[str]:
        """The modules of `needs` that are not there."""
        return [name for name in self.needs if find_spec(name) is None]
