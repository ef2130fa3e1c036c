"""Questions about a paragraph, alone and in a long text, with SQuAD's own scores."""

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.evaluation.base import Suite


def test_every_question_is_asked_alone_and_planted_and_scored_against_every_answer(tmp_path, tokenizer):
    row = {"context": "The ferry leaves at noon.", "question": "When does it leave?", "answers": ["noon", "at noon"]}
    pq.write_table(pa.Table.from_pylist([row, row | {"question": "What leaves?"}]), tmp_path / "squad.parquet")
    pq.write_table(pa.table({"kind": ["haystack"], "text": ["Nobody spoke. " * 200]}), tmp_path / "book.parquet")
    files = {"questions": str(tmp_path / "squad.parquet"), "haystack": str(tmp_path / "book.parquet")}
    suite = Suite.from_spec({"name": "squad", "planted_tokens": 128, **files})
    alone, planted = suite.cases(tokenizer, [], 1)
    assert (alone.group, planted.group) == ("squad alone", "squad planted")
    assert alone.document == row["context"]
    assert row["context"] in planted.document
    assert 100 < len(tokenizer.encode(planted.document, add_special_tokens=False).ids) <= 130
    assert alone.question == row["question"]
    assert suite.score(alone, "At noon!") == {"exact": 1.0, "f1": 1.0}
    assert suite.score(alone, "at midnight") == {"exact": 0.0, "f1": 0.5}
