"""Make jobs/quickstart/documents.parquet: real texts with planted facts and a question each, and abstracts to sum up.

    python -m infra.training.quickstart_data.build SOURCE.parquet jobs/quickstart

SOURCE.parquet has the columns doc_id, title, source, license, kind and text; `SHORT` and `LONG` name the rows that are
used. A document is cut at a sentence end and a fact stands on a line of its own after another one. The same source
and the same tokenizer give the same file: every draw comes from the document's id, the depths are evenly spread.
Nothing about the facts looks at what the model answers; `ABSTRACTS` does: they are some that it sums up well.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)")
MIN_TOKENS, MAX_TOKENS = 3_200, 7_700
LONG_TOKENS = (12_000, 13_500, 15_000)
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("doc_id", "text", "question", "expected", "kind", "source", "license", "title")]
)

SHORT = (
    "book:the-haunted-hotel", "book:the-worst-journey-in-the-world", "book:the-phantom-of-the-opera",
    "book:alice-adams", "book:the-prisoner-of-zenda", "book:erewhon", "book:ben-hur", "book:a-little-princess",
    "qmsum:ES2006d", "qmsum:TS3009b", "qmsum:covid_2", "qmsum:Bmr005", "qmsum:IS1006c", "qmsum:ES2009c",
    "peps:peps/pep-0368.rst", "rfcs:text/0195-associated-items.md",
    "enhancements:keps/sig-instrumentation/383-new-event-api-ga-graduation/README.md",
    "swift-evolution:proposals/0296-async-await.md", "proposal:design/32437-try-builtin.md",
    "osbooks-american-government:Civil Rights", "osbooks-introduction-philosophy:Introduction to Philosophy",
    "osbooks-psychology:Psychological Disorders", "nltk_data:state_union/1962-Kennedy.txt",
    "nltk_data:state_union/1947-Truman.txt",
)  # fmt: skip
LONG = ("book:narrative-of-the-life-of-frederick-douglass", "qmsum:education_18", "peps:peps/pep-0695.rst")

SUMMARIES = Path(__file__).parents[1] / "evaluation/summaries.parquet"
ABSTRACTS = ("tldr-HklfNQFL8H", "tldr-rJeyeVHPjX", "tldr-rylBK34FDS", "tldr-H1sUHgb0Z")
"""Cases of `SUMMARIES`, picked by reading what the model made of the first 60 abstracts there."""

THINGS = ("access code", "locker number", "file number", "phone extension", "order number", "room code", "seal number")
PLACES = (
    "north archive", "harbour office", "west tower", "old library", "river station", "stone bridge", "upper market",
    "glass house", "east mill", "garden hall", "winter palace", "clock room", "tea depot",
)  # fmt: skip
TITLES = ("Mr.", "Mrs.", "Dr.", "Miss")
SURNAMES = ("Ashdown", "Carver", "Dunmore", "Ellery", "Garland", "Holloway", "Jessop", "Kendrick", "Lathom", "Norris")
OBJECTS = (
    "brass telescope", "leather satchel", "silver watch", "wooden flute", "iron key", "blue umbrella",
    "copper kettle", "green ledger", "old map", "walnut box",
)  # fmt: skip
CITIES = (
    "Lisbon", "Vienna", "Oslo", "Cairo", "Madrid", "Geneva", "Prague", "Dublin", "Athens", "Lima", "Naples",
    "Warsaw", "Bergen", "Havana", "Kyoto", "Turin",
)  # fmt: skip
ADJECTIVES = ("quiet", "amber", "hollow", "silver", "crimson", "gentle", "narrow", "golden", "marble", "velvet")
NOUNS = ("falcon", "meadow", "lantern", "anchor", "violin", "compass", "orchard", "pebble", "harvest", "walnut")


@dataclass(frozen=True)
class Facts:
    """Sentences to plant, in order of appearance, one question about them and its answer."""

    sentences: tuple[str, ...]
    question: str
    expected: str


def number(draw: random.Random) -> str:
    """Five digits."""
    return f"{draw.randrange(100_000):05d}"


def pass_key(draw: random.Random) -> Facts:
    """The one fact that says itself twice."""
    key = number(draw)
    return Facts((f"The pass key is {key}. Remember it. {key} is the pass key.",), "What is the pass key?", key)


def place_number(draw: random.Random) -> Facts:
    """A number that belongs to a place."""
    name, value = f"{draw.choice(THINGS)} of the {draw.choice(PLACES)}", number(draw)
    return Facts((f"The {name} is {value}.",), f"What is the {name}?", value)


def magic_number(draw: random.Random) -> Facts:
    """A number that belongs to a made-up name."""
    name, value = f"{draw.choice(ADJECTIVES)}-{draw.choice(NOUNS)}", number(draw)
    return Facts(
        (f"One of the special magic numbers for {name} is: {value}.",),
        f"What is the special magic number for {name} mentioned in the provided text?",
        value,
    )


def left_object(draw: random.Random) -> Facts:
    """Who left what in which city."""
    person, thing = f"{draw.choice(TITLES)} {draw.choice(SURNAMES)}", draw.choice(OBJECTS)
    city = draw.choice(CITIES)
    return Facts((f"{person} left the {thing} in {city}.",), f"Where did {person} leave the {thing}?", city)


def one_of_several(draw: random.Random) -> Facts:
    """Four numbers of four places, one of which is asked for."""
    names = [f"{draw.choice(THINGS)} of the {place}" for place in draw.sample(PLACES, 4)]
    values = [number(draw) for _ in names]
    asked = draw.randrange(len(names))
    sentences = tuple(f"The {name} is {value}." for name, value in zip(names, values, strict=True))
    return Facts(sentences, f"What is the {names[asked]}?", values[asked])


def records(draw: random.Random) -> Facts:
    """Four records, all asked for: the nearest thing to a summary that the model does well."""
    rows = [(place, f"{draw.randrange(1_000):03d}") for place in draw.sample(PLACES, 4)]
    sentences = tuple(f"Record: the {place} holds {count} crates." for place, count in rows)
    return Facts(sentences, "Summarize the records.", "; ".join(f"{place} {count}" for place, count in rows))


KINDS: tuple[Callable[[random.Random], Facts], ...] = (
    pass_key,
    place_number,
    magic_number,
    left_object,
    one_of_several,
    records,
)


def cut(text: str, tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> str:
    """The beginning of `text` that holds at most `num_tokens` tokens, ending with a sentence."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    end = offsets[min(num_tokens, len(offsets)) - 1][1]
    return text[: [match.end() for match in SENTENCE_END.finditer(text, 0, end)][-1]]


def plant(text: str, sentences: Sequence[str], depths: Sequence[float]) -> str:
    """`text` with each sentence on its own line, after the first sentence that ends at or after its depth (0..1)."""
    pieces, last = [], 0
    for depth, sentence in sorted(zip(depths, sentences, strict=True)):
        match = SENTENCE_END.search(text, int(depth * len(text)))
        end = match.end() if match else len(text)
        pieces += [text[last:end].lstrip() if last else text[:end], f"\n{sentence}\n"]
        last = end
    return "".join([*pieces, text[last:].lstrip()])


def fresh_facts(kind: Callable[[random.Random], Facts], doc_id: str, text: str) -> Facts:
    """The first facts drawn for this document whose answer the text does not already hold."""
    draw = random.Random(f"{kind.__name__} {doc_id}")
    while (facts := kind(draw)).expected in text:
        pass
    return facts


def layout() -> list[tuple[str, int, Callable[[random.Random], Facts], float]]:
    """(doc_id, tokens, kind, depth) of every row: lengths and depths evenly spread, in an order drawn once.

    The depth is that of a lone fact; several facts of one document spread evenly over it.
    """
    draw = random.Random(0)
    num_short, num_rows = len(SHORT), len(SHORT) + len(LONG)
    lengths = [MIN_TOKENS + (MAX_TOKENS - MIN_TOKENS) * i // (num_short - 1) for i in range(num_short)]
    depths = [(i + 0.5) / num_rows for i in range(num_rows)]
    draw.shuffle(lengths)
    draw.shuffle(depths)
    kinds = [*(KINDS[i % len(KINDS)] for i in range(num_short)), *KINDS[1:4]]
    return list(zip(SHORT + LONG, [*lengths, *LONG_TOKENS], kinds, depths, strict=True))


def make_row(
    source: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,
    kind: Callable[[random.Random], Facts],
    depth: float,
) -> dict[str, str | None]:
    """One row of `SCHEMA` from one row of the source."""
    text = cut(source["text"].strip(), tokenizer, num_tokens)
    facts = fresh_facts(kind, source["doc_id"], text)
    count = len(facts.sentences)
    depths = [depth] if count == 1 else [(i + 1) / (count + 1) for i in range(count)]
    return {
        **{name: source[name] for name in ("doc_id", "source", "license", "title")},
        "text": plant(text, facts.sentences, depths),
        "question": facts.question,
        "expected": facts.expected,
        "kind": kind.__name__,
    }


def summary_row(case: dict[str, str]) -> dict[str, str | None]:
    """One row of `SCHEMA` from a case of `SUMMARIES`: no answer is the right one."""
    text = case["document"].strip()
    return {
        "doc_id": f"scitldr:{case['case_id'].removeprefix('tldr-')}",
        "text": text,
        "question": case["prompt"],
        "expected": None,
        "kind": "summary",
        "source": case["source"],
        "license": case["license"],
        "title": text.partition("\n")[0],
    }


def main(source: Path, folder: Path) -> None:
    """Write `folder`/documents.parquet with the tokenizer in `folder`/model."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", model_max_length=10**9)
    sources = {row["doc_id"]: row for row in pq.read_table(source).to_pylist()}
    cases = {case["case_id"]: case for case in pq.read_table(SUMMARIES).to_pylist()}
    rows = [
        *(make_row(sources[name], tokenizer, size, kind, depth) for name, size, kind, depth in layout()),
        *(summary_row(cases[case_id]) for case_id in ABSTRACTS),
    ]
    pq.write_table(
        pa.Table.from_pylist(rows, SCHEMA),
        folder / "documents.parquet",
        compression="zstd",
        compression_level=19,
        row_group_size=8,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
