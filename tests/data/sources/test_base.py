from collections.abc import Iterator

import pytest

from corm_batch.data.document import Document
from corm_batch.data.sources.base import Source, Split


def test_sources_that_ship():
    assert {"parquet", "jsonl"} <= set(Source.registered())
    assert all(source.summary().endswith(".") for source in Source.registered().values())


def test_a_new_source_is_one_class():
    class Letters(Source, name="letters_of_test"):
        """A document for each letter."""

        letters: str

        def splits(self, columns=()) -> list[Split]:
            return [Split("memory", index, 1) for index in range(len(self.letters))]

        def read(self, split, columns) -> Iterator[Document]:
            yield Document(str(split.index), self.letters[split.index])

    source = Source.from_spec({"name": "letters_of_test", "letters": "ab"})
    assert [document.text for split in source.splits() for document in source.read(split, ())] == ["a", "b"]
    with pytest.raises(TypeError, match="abstract"):
        Source()
