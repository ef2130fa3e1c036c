"""Decoder: several tokens of every running sequence without a word from the host in between.

On a GPU a step is a captured graph, replayed: kernels read pages, lengths and positions from tensors that stay where
they are, and the token a step chooses is the next one's input. On a CPU a step is an ordinary forward pass.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from corm_batch.engine.decode_batch import DecodeBatch
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.sampler import Sampled, prepare, sample
from corm_batch.engine.sequence import Chosen, Row, Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.ops.decode import rows_at_once
from corm_batch.policies.base import KVPolicy

_STEPS = {"cpu": (1, 1), "cuda": (4, 16)}
"""Fewest and most steps between two looks at the tokens. A look costs a GPU about a step of a small model; a step
beyond a sequence's end costs that sequence's share of it."""


@dataclass(frozen=True)
class Captured:
    """A recorded step: the batch it reads, and the logits it leaves, [rows, V]."""

    batch: DecodeBatch
    graph: torch.cuda.CUDAGraph
    logits: Tensor

    def replay(self) -> Tensor:
        """Take the step."""
        self.graph.replay()
        return self.logits


class Decoder:
    """Decode steps of one replica.

    Args:
        model: whose forward pass a step is.
        cache: where the entries are.
        policies, full: as `DecodeBatch`.
    """

    def __init__(
        self, model: LoadedModel, cache: KVCache, policies: abc.Sequence[KVPolicy], full: abc.Sequence[KVPolicy]
    ) -> None:
        self.model, self.cache, self.policies, self.full = model, cache, policies, full
        self._fewest_steps, self.most_steps = _STEPS[model.device.type]
        self._graphs: dict[tuple[int, bool], Captured] = {}  # by rows, and whether some share entries
        self._version = 0
        self._memory_pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    def num_steps(self, sequences: abc.Sequence[Sequence]) -> int:
        """Steps until it is worth a look at the tokens; one where a rule has to look at each."""
        if self.model.rules.reads_history:
            return 1
        left = min(sequence.request.most_new_tokens - len(sequence.output) for sequence in sequences)
        return max(self._fewest_steps, min(self.most_steps, left))

    def run(self, sequences: abc.Sequence[Sequence], num_steps: int) -> list[Chosen]:
        """The next `num_steps` tokens of each sequence, chosen, or those of the answer to score.

        Room for the steps' entries has been reserved; a sequence that ends on the way goes on to the last step.
        """
        batch, forward = self._forward(len(sequences), any(one.source is not None for one in sequences))
        batch.load(sequences)
        choice = prepare(self.model, [Row(sequence, len(sequence.output)) for sequence in sequences], num_steps)
        steps = []
        for step in range(num_steps):
            sampled = sample(forward()[: len(sequences)], choice, step)
            self.model.ranks.share(sampled.tokens)
            choice.note(sampled.tokens)
            batch.advance(sampled.tokens)
            steps.append(sampled)
        return [Chosen(*columns) for columns in zip(*Sampled.stacked(steps).columns(), strict=True)]

    def forget_graphs(self) -> None:
        """Let go of every captured step, whoever may still name it.

        NCCL does not give up a group while a graph holds its collectives: it waits, for ever.
        """
        for captured in list(self._graphs.values()):  # a thread that notices a failure calls this, too
            captured.graph.reset()
        self._graphs.clear()

    def _forward(self, num_sequences: int, sharing: bool) -> tuple[DecodeBatch, Callable[[], Tensor]]:
        """A batch with room for so many sequences, and the function that runs it."""
        if self._memory_pool is None:
            batch = self._batch(num_sequences, sharing)
            return batch, lambda: self.model.forward(batch)
        # Graphs read the table where it was. A capture is a forward pass, so all ranks make it or none.
        if self.cache.agree(int(self._version == self.cache.table.version)) == 0:
            self.forget_graphs()
            self._memory_pool = torch.cuda.graph_pool_handle()  # the old pool ends with its last graph
            self._version = self.cache.table.version
        size = graph_size(num_sequences, [size for size, shares in self._graphs if shares == sharing])
        if (size, sharing) not in self._graphs:
            self._graphs[size, sharing] = self._capture(self._batch(size, sharing))
        captured = self._graphs[size, sharing]
        return captured.batch, captured.replay

    def _batch(self, size: int, sharing: bool) -> DecodeBatch:
        """One with so many rows, some of which begin with the same entries, or none."""
        shape = self.model.shape
        at_once = rows_at_once(shape.num_heads // shape.num_kv_heads) if sharing else 1
        return DecodeBatch(size, self.cache, self.policies, self.full, at_once)

    def _capture(self, batch: DecodeBatch) -> Captured:
        """Record a step; warm-up passes before it, with rows that are no sequence, compile what needs compiling."""
        torch.cuda.empty_cache()  # streams and graphs are the driver's, which cannot ask for what lies unused here
        stream = torch.cuda.Stream(self.model.device)
        stream.wait_stream(torch.cuda.current_stream(self.model.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.model.forward(batch)
        torch.cuda.current_stream(self.model.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory_pool):
            logits = self.model.forward(batch)
        return Captured(batch, graph, logits)


def graph_size(num_sequences: int, captured: Iterable[int] = ()) -> int:
    """Rows of the graph that runs `num_sequences`: a power of two up to 16, then a multiple of 16; or of one that has
    been captured and has at most an eighth more rows. A capture takes as long as a dozen steps and more.

    Never one row alone: compiled layers have code of their own for a single token.
    """
    size = -(-num_sequences // 16) * 16 if num_sequences > 16 else max(2, 1 << (num_sequences - 1).bit_length())
    return min((rows for rows in captured if size <= rows <= size + size // 8), default=size)
