"""Sequences of the training mixture, and rows of them packed for one forward pass.

A sequence is `<|document|> text (<|question|> q <|answer|> a <|end|>)*`. It always starts with the same first token,
and attention never crosses into its neighbours in the row. Several questions follow one text: each answers from the
same long context, so a row teaches many retrievals for the price of one reading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corm_batch.evaluation.base import Tokenizer
from corm_batch.evaluation.haystack import Haystack, Ids
from corm_batch.evaluation.suites.needles import one_of_several, place_number
from infra.training.conversations import Conversation, drawn
from infra.training.dialogues import dialogue
from infra.training.facts import TASKS
from infra.training.notes import note
from infra.training.reading import central_sentences, gaps
from infra.training.schedule import longest, mixture
from infra.training.stutter import sentences, stuttered

DOCUMENT, QUESTION, ANSWER, END = "<|document|>", "<|question|>", "<|answer|>", "<|end|>"
SPECIAL_TOKENS = ("<|pad|>", DOCUMENT, QUESTION, ANSWER, END)
CONVERSATIONS = ("dialogue_summary", "clinical_note")
"""Tasks whose rows are conversations."""
MEETINGS = ("meeting_summary", "meeting_query_summary")
"""Tasks whose documents are transcripts of meetings; facts are planted in them too."""
IN_MEETING, ABOUT_MEETING = 0.15, 0.5
"""Share of the texts with facts that are meetings; of those that stand there as a whole, share asked for a summary."""
STUTTER, STUTTERING = 0.35, ("summary", "conversation", "dialogue", "note")
"""Share of the answers that repeat themselves somewhere, and the kinds of sequences that have them."""
ANSWER_WEIGHT, AVOIDED = 4, 255
"""What the loss of an answer's token counts, against one of the text; what stands there for a token to be avoided."""
MIN_LENGTH, MAX_QUESTIONS, MAX_SEQUENCES = 192, 24, 384

Weights = NDArray[np.uint8]


class Row(NamedTuple):
    """Packed sequences that fill a row of T tokens.

    Attributes:
        ids: uint16 [T].
        weight: uint8 [T], what predicting a token counts in the loss: `ANSWER_WEIGHT` in an answer, 1 elsewhere; where
            an answer repeats itself `AVOIDED` for a token that begins a further word of a sentence, 0 for the others.
        cu_seqlens: int32 [MAX_SEQUENCES + 1], where each sequence starts; the end is repeated.
        max_seqlen: no sequence is longer; one number for every row of a stage, as compiled code depends on it.
    """

    ids: Ids
    weight: Weights
    cu_seqlens: NDArray[np.int32]
    max_seqlen: int


@dataclass(frozen=True)
class Instructions:
    """Human-written questions, summaries and titles.

    Attributes:
        paragraphs: (text, questions with answers), one entry a paragraph.
        summaries: (text, request, summary or title).
        conversations: what two or more people said, with its summary or note.
        meetings: those of the summaries whose text is a transcript of a meeting.
    """

    paragraphs: list[tuple[str, list[tuple[str, str]]]]
    summaries: Sequence[tuple[str, str, str]]
    conversations: list[Conversation] = field(default_factory=list)
    meetings: list[Conversation] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Instructions:
        """From Parquet files with the columns task, document, prompt and answer."""
        questions: dict[str, list[tuple[str, str]]] = defaultdict(list)
        summaries: list[Conversation] = []
        conversations: list[Conversation] = []
        meetings: list[Conversation] = []
        for path in paths:
            for row in pq.read_table(path, columns=["task", "document", "prompt", "answer"]).to_pylist():
                if row["task"] == "extractive_qa":
                    questions[row["document"]].append((row["prompt"].strip(), row["answer"]))
                    continue
                summary = Conversation(row["document"], row["prompt"].strip(), row["answer"].strip())
                (conversations if row["task"] in CONVERSATIONS else summaries).append(summary)
                if row["task"] in MEETINGS:
                    meetings.append(summary)
        return cls(list(questions.items()), summaries, conversations, meetings)


ComposerArguments = tuple[Tokenizer, Ids, Sequence[str], Instructions]
"""What every composer of a run gets, beside its seed."""


class Composer(Haystack):
    """Draws sequences and rows; everything follows from the seed.

    Args:
        tokenizer: with `SPECIAL_TOKENS`.
        text: natural text, one document after the other.
        words: plain words for made-up names.
        instructions: human-written questions and summaries; may be empty.
        seed: of every draw.
    """

    def __init__(
        self, tokenizer: Tokenizer, text: Ids, words: Sequence[str], instructions: Instructions, seed: int | str
    ) -> None:
        super().__init__(tokenizer, text, words, seed)
        self.instructions = instructions
        vocabulary = tokenizer.get_vocab()
        self.special = {token: np.array([vocabulary[token]], np.uint16) for token in SPECIAL_TOKENS}
        self.word_starts = np.array([i for piece, i in vocabulary.items() if piece[0] == "Ġ" and piece[1:].isalnum()])

    def facts(self, length: int, task: str | None = None) -> tuple[Ids, list[tuple[str, str]]]:
        """A text of about `length` tokens with planted facts, and questions about them.

        Some texts are of a meeting. One that is there as a whole may be asked for its summary between the facts, so
        that the question tells which of both is wanted.

        Args:
            length: of the text.
            task: name of the one task to draw; None draws up to three tasks and mixes them in one text.
        """
        if task is None:
            drawn = self.random.choices(list(TASKS), list(TASKS.values()), k=self.random.randint(1, 3))
            makers = [
                maker for maker in dict.fromkeys(drawn) if maker is not place_number or one_of_several not in drawn
            ]
        else:
            makers = [maker for maker in TASKS if maker.__name__ == task]
        facts = self.made(makers, length)
        text: Ids | None = None
        meetings = self.instructions.meetings
        if meetings and self.random.random() < IN_MEETING:
            (meeting,) = self.random.choices(meetings, [len(meeting.said) for meeting in meetings])
            text = self.encode(meeting.said)
            whole = len(text) + sum(map(self.tokens, facts.lines)) <= length - 32
            if whole and self.random.random() < ABOUT_MEETING:
                facts.questions.append((meeting.request, meeting.summary))
        return self.planted(facts, length, text)

    def paragraphs(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """One to twelve paragraphs that people asked about: alone, together, or in a text of about `length` tokens."""
        kind = self.random.choice(("alone", "together", "planted"))
        most = min(12, length // 400, len(self.instructions.paragraphs))
        count = 1 if kind == "alone" else self.random.randint(1, max(1, most))
        chosen = self.random.sample(self.instructions.paragraphs, count)
        questions = [question for _, asked in chosen for question in asked]
        texts = [text for text, _ in chosen]
        document = self.plant(texts, length - 128) if kind == "planted" else self.encode("\n".join(texts))
        return document, self.random.sample(questions, len(questions))

    def gaps(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """Natural text and sentences of it with gaps."""
        text = self.slice(length - 128)
        return text, gaps(self.tokenizer.decode(text.tolist()), self.random, MAX_QUESTIONS)

    def sentences(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """Natural text and its central sentences."""
        text = self.slice(length - 160)
        asked = central_sentences(self.tokenizer.decode(text.tolist()), self.random)
        return text, [asked] if asked else []

    def summary(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """A text that someone summarised or gave a title; the drawn length is not asked for."""
        text, request, summary = self.random.choice(self.instructions.summaries)
        return self.encode(text), [(request, summary)]

    def conversation(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """A conversation that someone summarised, varied; the drawn length is not asked for."""
        said, request, summary = drawn(self.instructions.conversations, self.random)
        return self.encode(said), [(request, summary)]

    def dialogue(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """A made-up dialogue and its summary; as many exchanges as fit the length, at most eight."""
        said, request, summary = dialogue(self.random, self.random.randint(1, min(8, length // 60)))
        return self.encode(said), [(request, summary)]

    def note(self, length: int) -> tuple[Ids, list[tuple[str, str]]]:
        """A made-up visit to a doctor and the note of it; the drawn length is not asked for."""
        said, request, written = note(self.random)
        return self.encode(said), [(request, written)]

    def sequence(
        self, document: Ids, questions: Sequence[tuple[str, str]], stutter: bool = False
    ) -> tuple[Ids, Weights]:
        """Token ids and their weights; at most `MAX_QUESTIONS` questions, whose answers repeat themselves if told."""
        pieces: list[tuple[Ids, Weights | int]] = [(self.special[DOCUMENT], 1), (document, 1)]
        for question, answer in questions[:MAX_QUESTIONS]:
            said, again, rest = stuttered(f" {answer}", self.random) if stutter else (f" {answer}", "", "")
            pieces += [(self.special[QUESTION], 1), (self.encode(f" {question}"), 1), (self.special[ANSWER], 1)]
            pieces += [(self.encode(said), ANSWER_WEIGHT), self.repeated(again)]
            pieces += [(self.encode(rest), ANSWER_WEIGHT), (self.special[END], ANSWER_WEIGHT)]
        weights = [np.broadcast_to(np.asarray(weight, np.uint8), ids.shape) for ids, weight in pieces]
        return np.concatenate([ids for ids, _ in pieces]), np.concatenate(weights)

    def repeated(self, again: str) -> tuple[Ids, Weights]:
        """Token ids and weights of a repetition. How a sentence begins may be right, and so may the end of a word: what
        is to be avoided is going on with the same words."""
        encoded = [self.encode(sentence) for sentence in sentences(again)]
        weights = []
        for ids in encoded:
            starts = np.isin(ids, self.word_starts)
            weights.append(np.where(starts & (starts.cumsum() > 1), AVOIDED, 0).astype(np.uint8))
        return np.concatenate(encoded), np.concatenate(weights)

    def draw(self, most: int, progress: float) -> tuple[Ids, Weights]:
        """One sequence at this share of the run; lengths are spread evenly over their logarithm, up to `most`."""
        length = int(MIN_LENGTH * (most / MIN_LENGTH) ** self.random.random())
        usable = {
            "paragraphs": bool(self.instructions.paragraphs),
            "summary": bool(self.instructions.summaries),
            "conversation": bool(self.instructions.conversations),
        }
        shares = {kind: share for kind, share in mixture(progress).items() if usable.get(kind, True)}
        kind = self.random.choices(list(shares), list(shares.values()))[0]
        if kind == "text":
            return self.sequence(self.slice(length - 1), [])
        stutter = kind in STUTTERING and self.random.random() < STUTTER
        document, questions = getattr(self, kind)(length)
        return self.sequence(document, questions, stutter)

    def row(self, num_tokens: int, progress: float) -> Row:
        """Sequences that fill `num_tokens`; what is over at the end is natural text.

        Args:
            num_tokens: of the row.
            progress: share of the run that is done, 0..1; later sequences are longer, the last ones of another mixture.
        """
        most = min(num_tokens, longest(progress))
        pieces: list[tuple[Ids, Weights]] = []
        room = num_tokens
        while room >= MIN_LENGTH and len(pieces) < MAX_SEQUENCES - 1:
            ids, weight = self.draw(most, progress)
            if len(ids) <= min(room, most):
                pieces.append((ids, weight))
                room -= len(ids)
            elif len(ids) > room:
                break
        while room > 0 and len(pieces) < MAX_SEQUENCES:
            rest = min(room, most)
            pieces.append(self.sequence(self.slice(rest - 1), []))
            room -= len(pieces[-1][0])
        if room:
            raise ValueError(
                f"{num_tokens} tokens do not fill up: {len(pieces)} sequences of {len(self.text)} tokens of text"
            )
        starts = np.full(MAX_SEQUENCES + 1, num_tokens, np.int32)
        starts[: len(pieces)] = np.cumsum([0, *(len(ids) for ids, _ in pieces[:-1])])
        return Row(np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces]), starts, most)
