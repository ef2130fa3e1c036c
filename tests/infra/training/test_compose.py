"""Sequences are what their docstring says, rows are full of them, and a seed says which."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.evaluation.haystack import common_words
from infra.training.compose import (
    ANSWER,
    ANSWER_WEIGHT,
    AVOIDED,
    DOCUMENT,
    END,
    IN_MEETING,
    MAX_QUESTIONS,
    MAX_SEQUENCES,
    MIN_LENGTH,
    QUESTION,
    STUTTER,
    Instructions,
)
from infra.training.conversations import Conversation
from infra.training.schedule import LAST_MIXTURE, MIXTURE, STAGES
from tests.infra.training.conftest import FERRY, ORCHARD, VISIT

BOUNDARIES = [end for end, _ in STAGES[:-1]]
PROGRESS = [0.0, *BOUNDARIES, *(end + 1e-9 for end in BOUNDARIES), 0.999, 1.0]
SEQUENCES = ("facts", "paragraphs", "gaps", "sentences", "summary", "conversation", "dialogue", "note")
ROW = 12_000


def decode(tokenizer, ids):
    return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


def sequences(row):
    """Token ids and weights of each sequence of a row."""
    bounds = np.unique(row.cu_seqlens)
    return list(zip(np.split(row.ids, bounds[1:-1]), np.split(row.weight, bounds[1:-1]), strict=True))


def expected_mask(tokenizer, ids):
    """True from behind each answer mark up to the end mark, both found by reading."""
    marks, inside, mask = {tokenizer.token_to_id(ANSWER): True, tokenizer.token_to_id(END): False}, False, []
    for token in ids.tolist():
        mask.append(inside)
        inside = marks.get(token, inside)
    return np.array(mask)


@pytest.mark.parametrize("progress", PROGRESS)
def test_a_row_is_full_of_whole_sequences_that_are_no_longer_than_the_stage_allows(compose, tokenizer, progress):
    longest = next(longest for end, longest in STAGES if progress <= end)
    row = compose(f"row {progress}").row(ROW, progress)
    assert (row.ids.dtype, row.ids.shape) == (np.uint16, (ROW,))
    assert (row.weight.dtype, row.weight.shape) == (np.uint8, (ROW,))
    assert (row.cu_seqlens.dtype, row.cu_seqlens.shape) == (np.int32, (MAX_SEQUENCES + 1,))
    assert row.max_seqlen == longest

    starts = np.unique(row.cu_seqlens)
    assert (starts[0], starts[-1]) == (0, ROW)
    assert (np.diff(row.cu_seqlens)[: len(starts) - 1] > 0).all()
    assert (row.cu_seqlens[len(starts) - 1 :] == ROW).all()
    assert np.diff(starts).max() <= longest
    assert np.flatnonzero(row.ids == tokenizer.token_to_id(DOCUMENT)).tolist() == starts[:-1].tolist()


def test_a_row_shorter_than_the_stage_allows_holds_it_back(compose):
    row = compose(0).row(1000, 1.0)
    assert row.max_seqlen == len(row.ids) == 1000
    tiny = compose(0).row(MIN_LENGTH - 1, 0.0)
    assert np.unique(tiny.cu_seqlens).tolist() == [0, MIN_LENGTH - 1]
    assert (tiny.weight == 1).all()


def test_later_rows_use_the_longer_sequences(compose):
    lengths = {p: np.diff(np.unique(compose(1).row(60_000, p).cu_seqlens)) for p in (0.0, 1.0)}
    assert lengths[0.0].max() <= 2048 < lengths[1.0].max()


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_answers_with_their_end_marks_weigh_more_and_repetitions_in_them_are_not_learned(
    compose, tokenizer, progress
):
    count = Counter()
    for ids, weight in sequences(compose("mask").row(40_000, progress)):
        count.update(set(weight.tolist()))
        asked = np.flatnonzero(ids == tokenizer.token_to_id(QUESTION))
        document = asked[0] if len(asked) else len(ids)
        assert (weight[:document] == 1).all()
        np.testing.assert_array_equal(weight[document:] != 1, expected_mask(tokenizer, ids[document:]))
        repeated = np.flatnonzero(np.isin(weight, (0, AVOIDED)))
        if len(repeated):  # one block, which stands right before it and behind which the answer goes on or ends
            first, last = repeated[0], repeated[-1]
            assert len(repeated) == last - first + 1
            assert (weight[first - 1], weight[last + 1]) == (ANSWER_WEIGHT, ANSWER_WEIGHT)
            assert ids[first - 1] == ids[last]
    assert count.keys() == {0, 1, ANSWER_WEIGHT, AVOIDED}
    assert count[ANSWER_WEIGHT] >= 5


def test_a_sequence_reads_document_question_answer_end(compose, tokenizer):
    composer = compose(0)
    questions = [("Who planted it?", "Ada Brand"), ("How many?", "<40>, 12; 7")]
    ids, weight = composer.sequence(composer.encode(ORCHARD), questions)
    assert decode(tokenizer, ids) == (
        f"<|document|>{ORCHARD}<|question|> Who planted it?<|answer|> Ada Brand<|end|>"
        "<|question|> How many?<|answer|> <40>, 12; 7<|end|>"
    )
    assert decode(tokenizer, ids[weight == ANSWER_WEIGHT]) == " Ada Brand<|end|> <40>, 12; 7<|end|>"


def test_a_sequence_asks_a_limited_number_of_questions(compose, tokenizer):
    composer = compose(0)
    ids, weight = composer.sequence(composer.encode("Text."), [(f"What {i}?", str(i)) for i in range(60)])
    assert (ids == tokenizer.token_to_id(QUESTION)).sum() == MAX_QUESTIONS == 24
    assert decode(tokenizer, ids[weight == ANSWER_WEIGHT]) == "".join(f" {i}<|end|>" for i in range(MAX_QUESTIONS))


@pytest.mark.parametrize("kind", ["note", "dialogue"])
def test_what_is_learned_of_a_stutter_is_the_answer_token_by_token(compose, tokenizer, kind):
    composer = compose(kind)
    for _ in range(40):
        document, ((request, answer),) = getattr(composer, kind)(400)
        ids, weight = composer.sequence(document, [(request, answer)], stutter=True)
        learned = ids[weight == ANSWER_WEIGHT]
        np.testing.assert_array_equal(learned, [*composer.encode(f" {answer}"), tokenizer.token_to_id(END)])
        assert (weight == 0).any()


def test_of_a_repetition_the_words_behind_the_first_of_each_sentence_are_avoided(compose, tokenizer):
    composer = compose("avoid")
    ids, weight = composer.repeated("  He planted apples.  Ada Brand planted 12 pears.")
    assert decode(tokenizer, ids) == "  He planted apples.  Ada Brand planted 12 pears."
    avoided = {decode(tokenizer, [token]).strip() for token in ids[weight == AVOIDED]}
    kept = {decode(tokenizer, [token]).strip() for token in ids[weight == 0]}
    assert set(weight.tolist()) == {0, AVOIDED}
    assert {"He", "A", "1", "2", "."} & avoided == set()
    assert "." in kept
    assert any("planted".startswith(piece) and piece for piece in avoided)


def test_some_answers_of_the_kinds_that_people_read_stutter_and_no_others(compose, monkeypatch):
    composer, drawn = compose("stutter"), []
    for kind in SEQUENCES:
        real = getattr(composer, kind)
        monkeypatch.setattr(composer, kind, lambda length, kind=kind, real=real: drawn.append(kind) or real(length))
    stuttering, count = Counter(), Counter()
    for _ in range(800):
        drawn.append("text")
        _, weight = composer.draw(512, 0.9)
        count[drawn[-1]] += 1
        stuttering[drawn[-1]] += bool((weight == 0).any())
    told = {"summary", "conversation", "dialogue", "note"}
    assert +stuttering == {kind: stuttering[kind] for kind in told}
    assert stuttering.total() / sum(count[kind] for kind in told) == pytest.approx(STUTTER, abs=0.08)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(compose):
    def rows(seed):
        composer = compose(seed)
        return [composer.row(4096, progress) for progress in (0.1, 0.5, 0.9)]

    first, again, other = rows("a"), rows("a"), rows("b")
    for one, two, three in zip(first, again, other, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))
        assert not np.array_equal(one.ids, three.ids)


@pytest.mark.parametrize("material", [None, Instructions([], [])])
def test_every_kind_of_the_mixture_is_drawn_and_those_without_material_are_left_out(compose, monkeypatch, material):
    composer, drawn = compose(0) if material is None else compose(0, instructions=material), {"text"}

    def note(kind, real):
        monkeypatch.setattr(composer, kind, lambda length: drawn.add(kind) or real(length))

    for kind in SEQUENCES:
        note(kind, getattr(composer, kind))
    for _ in range(250):
        composer.draw(1024, 0.0)
    assert drawn == set(MIXTURE) - (set() if material is None else {"paragraphs", "summary", "conversation"})


def test_the_last_rows_have_more_conversations(compose, monkeypatch):
    composer, drawn = compose(0), []
    monkeypatch.setattr(composer, "dialogue", lambda length: drawn.append(length) or (composer.slice(length), []))
    counts = []
    for progress in (0.2, 0.9):
        for _ in range(400):
            composer.draw(256, progress)
        counts.append(len(drawn))
        drawn.clear()
    expected = [400 * shares["dialogue"] for shares in (MIXTURE, LAST_MIXTURE)]
    assert counts == pytest.approx(expected, abs=25)
    assert counts[0] < counts[1]


def test_lengths_are_spread_evenly_over_their_logarithm(compose):
    composer = compose(0, instructions=Instructions([], []))
    composer.facts = composer.gaps = composer.sentences = composer.dialogue = composer.note = lambda n: (
        composer.slice(n - 1),
        [],
    )
    lengths = np.array([len(composer.draw(8192, 0.0)[0]) for _ in range(2000)])
    assert MIN_LENGTH <= lengths.min() <= lengths.max() <= 8192
    middle = np.sqrt(MIN_LENGTH * 8192)
    assert abs((lengths < middle).mean() - 0.5) < 0.05


LINE = st.text("abc XYZ 0123456789-:;,<>\"'", min_size=1, max_size=60).filter(lambda line: line.strip())


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=40), st.integers(1, 3000), st.integers(0, 10**6))
def test_planting_keeps_lines_whole_and_in_order_and_the_text_around_them(compose, tokenizer, lines, length, seed):
    lines = [f"@{line}@" for line in lines]  # stands nowhere in the books
    composer = compose(seed)
    encoded = [composer.encode(f"\n{line}") for line in lines]
    planted = composer.plant(lines, length).tolist()
    whole = decode(tokenizer, planted)
    place = 0
    for line in lines:
        place = whole.index(f"\n{line}", place) + len(line) + 1
        assert whole[place : place + 1] in ("", "\n")
    room = max(16, length - sum(map(len, encoded)))
    newlines = len(planted) - room - sum(map(len, encoded))
    assert 0 <= newlines <= len(lines)


def test_lines_stand_behind_sentences_and_the_text_around_them_goes_on(compose, tokenizer, text):
    composer = compose("behind")
    whole = decode(tokenizer, composer.plant([f"@{i}@" for i in range(30)], 4000))
    planted = re.compile(r"((?:\n@\d+@)+)\n?")
    before = planted.split(whole)[:-1:2]
    assert re.findall(r"@(\d+)@", whole) == [str(i) for i in range(30)]
    assert len(before) > 15
    assert all(piece.rstrip("\n").endswith((".", "!", "?", '."')) for piece in before)
    assert planted.sub("", whole) in decode(tokenizer, text)


@pytest.mark.parametrize("length", [192, 1000, 4000])
def test_facts_of_up_to_three_tasks_share_a_text_and_no_name_has_two_numbers(compose, tokenizer, length):
    composer = compose(length)
    sizes = []
    for _ in range(40):
        document, questions = composer.facts(length)
        whole = decode(tokenizer, document)
        sizes.append(len(document))
        assert 1 <= len(questions) <= MAX_QUESTIONS
        assert len(dict(questions)) == len(questions)
        for question, answer in questions:
            if question.startswith("What is the ") and " of the " in question:
                name = question.removeprefix("What is the ").removesuffix("?")
                assert whole.count(f"The {name} is ") == whole.count(f"The {name} is {answer}.") == 1
    assert 0.7 * length <= np.median(sizes) <= length + 32


def test_facts_of_one_task_are_of_that_task_only(compose):
    composer = compose(0)
    for _ in range(10):
        _, questions = composer.facts(400, "key_value")
        assert all(question.startswith("What is the value associated with the key") for question, _ in questions)


@pytest.mark.parametrize(("sentences", "length"), [(8, 1500), (800, 1500)])
def test_facts_are_planted_in_meetings_and_whole_ones_are_asked_for_their_summary_too(
    compose, tokenizer, sentences, length
):
    said = "".join(f"PhD D: Channel {i} hums. " for i in range(sentences))
    meeting = Conversation(said, "Summarize the whole meeting", "Channels hum.")
    composer, count = compose("meeting", instructions=Instructions([], [], [], [meeting])), Counter()
    for _ in range(300):
        document, questions = composer.facts(length)
        whole = decode(tokenizer, document)
        asked = (meeting.request, meeting.summary) in questions
        held = whole.count(" hums.")
        assert len(document) <= length + 32
        assert len(questions) > asked
        assert not asked or held == sentences
        count.update(meeting=held > 0, asked=asked)
    assert count["meeting"] / 300 == pytest.approx(IN_MEETING, abs=0.07)
    assert bool(count["asked"]) == (sentences == 8)
    assert count["asked"] < count["meeting"]


def test_paragraphs_bring_their_own_questions_and_stay_whole(compose, tokenizer, instructions):
    composer, seen = compose(0), set()
    asked = dict(instructions.paragraphs)
    for _ in range(60):
        document, questions = composer.paragraphs(1200)
        whole = decode(tokenizer, document)
        held = [paragraph for paragraph in (ORCHARD, FERRY) if paragraph in whole]
        assert sorted(questions) == sorted(question for paragraph in held for question in asked[paragraph])
        seen.add((len(held), len(whole) > 1000))
    assert seen == {(1, False), (2, False), (1, True), (2, True)}


def test_a_summary_is_of_its_whole_text_whatever_the_length(compose, tokenizer, instructions):
    document, questions = compose(0).summary(200)
    ((whole, request, summary),) = instructions.summaries
    assert (decode(tokenizer, document), questions) == (whole, [(request, summary)])


def test_a_dialogue_is_asked_for_its_summary(compose, tokenizer):
    composer = compose("dialogue")
    lengths = set()
    for length in (MIN_LENGTH, 400, 8192) * 5:
        document, ((request, summary),) = composer.dialogue(length)
        assert request.startswith("Summari")
        assert len(document) + len(composer.encode(summary)) < 1000
        lengths.add(decode(tokenizer, document).count("\n"))
    assert len(lengths) > 3


def test_a_conversation_is_one_that_people_summarised(compose, tokenizer):
    composer = compose(0)
    for _ in range(5):
        document, ((request, summary),) = composer.conversation(200)
        assert (request, "tea" in summary, "tea" in decode(tokenizer, document)) == (VISIT.request, True, True)


def test_a_note_has_headings_and_its_visit_a_doctor(compose, tokenizer):
    document, ((request, written),) = compose("note").note(200)
    assert "note" in request
    assert written.startswith("CHIEF COMPLAINT\n\n")
    assert decode(tokenizer, document).startswith("[doctor] ")


def test_instructions_are_read_from_parquet_and_grouped_by_paragraph(tmp_path):
    rows = [
        ("extractive_qa", ORCHARD, " Who planted it? ", "Ada Brand"),
        ("summary", FERRY, "Sum it up. ", " A ferry. "),
        ("extractive_qa", FERRY, "When?", "at noon"),
        ("extractive_qa", ORCHARD, "How many?", "forty"),
        ("dialogue_summary", VISIT.said, VISIT.request, f" {VISIT.summary}\n"),
        ("clinical_note", FERRY, "Write a note.", "FERRY"),
        ("meeting_summary", ORCHARD, "Sum it up.", "Trees."),
    ]
    columns = ("task", "document", "prompt", "answer")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, part in zip(paths, (rows[:2], rows[2:]), strict=True):
        pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in part]), path)
    read = Instructions.read(paths)
    assert read.paragraphs == [
        (ORCHARD, [("Who planted it?", "Ada Brand"), ("How many?", "forty")]),
        (FERRY, [("When?", "at noon")]),
    ]
    assert read.summaries == [(FERRY, "Sum it up.", "A ferry."), (ORCHARD, "Sum it up.", "Trees.")]
    assert read.meetings == read.summaries[1:]
    assert read.conversations == [VISIT, Conversation(FERRY, "Write a note.", "FERRY")]
    assert Instructions.read([]) == Instructions([], [])


def test_common_words_are_plain_and_the_most_frequent_come_first(tokenizer):
    ids = tokenizer.encode("the cats saw the Dog, 2 cats and the extraordinarily old it", add_special_tokens=False).ids
    assert common_words(tokenizer, np.array(ids, np.uint16)) == ["the", "cats", "saw", "and", "old"]
    assert common_words(tokenizer, np.array(ids, np.uint16), count=1) == ["the"]
