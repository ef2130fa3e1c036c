"""EngineAsker: the model as one document's task sees it, and what the answers cost.

Knows nothing of rows or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corm_batch.engine.request import MemoryStats, Request, SamplingParams
from corm_batch.errors import DocumentError
from corm_batch.pipeline.engine_thread import EngineThread
from corm_batch.tasks.base import Answer, Prompt
from corm_batch.text.tokenize import PromptTokenizer
from corm_batch.text.windows import cut_beginning, cut_windows


class EngineAsker:
    """Implements `corm_batch.tasks.base.Asker` for one document.

    Attributes:
        memory: the statistics of every prompt answered so far.
    """

    def __init__(self, doc_id: str, tokenizer: PromptTokenizer, engine: EngineThread, max_model_len: int) -> None:
        self._doc_id = doc_id
        self._tokenizer = tokenizer
        self._engine = engine
        self._max_model_len = max_model_len
        self._asked = 0
        self.memory: list[MemoryStats] = []

    async def ask(self, prompt: Prompt, sampling: SamplingParams, stop: Sequence[str] = ()) -> Answer:
        """One answer.

        Raises:
            DocumentError: the prompt does not fit, or the engine refuses it.
            BrokenEngineError: the engine failed as a whole.
        """
        token_ids = self._tokenizer.encode(prompt)
        if len(token_ids) + sampling.max_new_tokens > self._max_model_len:
            raise DocumentError(
                f"{len(token_ids)} prompt tokens and {sampling.max_new_tokens} for the answer do not fit "
                f"the model's context of {self._max_model_len}"
            )
        self._asked += 1
        request = Request(
            id=f"{self._doc_id}#{self._asked}",  # the same in every run: it seeds the sampling
            token_ids=token_ids,
            sampling=sampling,
            stop=self._tokenizer.stop_check(stop),
        )
        completion = await self._engine.answer(request)
        if completion.error is not None:
            raise completion.error
        self.memory.append(completion.memory)
        text = self._tokenizer.decode(completion.token_ids, stop)
        return Answer(text=text, finish_reason=completion.finish_reason, mean_logprob=completion.mean_logprob)

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether prompt and answer fit the model's context."""
        return len(self._tokenizer.encode(prompt)) + max_new_tokens <= self._max_model_len

    def windows(self, text: str, prompt: Callable[[str], Prompt], max_new_tokens: int) -> list[str]:
        """Cut `text` into consecutive pieces, each of which fits when put through `prompt`.

        Raises:
            DocumentError: the instruction alone fills the context.
        """
        room = self._room(prompt, max_new_tokens)
        ends = self._tokenizer.token_ends(text)
        return cut_windows(text, ends, room, lambda piece: self.fits(prompt(piece), max_new_tokens))

    def truncate(self, text: str, prompt: Callable[[str], Prompt], max_new_tokens: int) -> str:
        """The longest beginning of `text` that fits when put through `prompt`.

        Raises:
            DocumentError: the instruction alone fills the context.
        """
        room = self._room(prompt, max_new_tokens)
        ends = self._tokenizer.token_ends(text)
        return cut_beginning(text, ends, room, lambda piece: self.fits(prompt(piece), max_new_tokens))

    def _room(self, prompt: Callable[[str], Prompt], max_new_tokens: int) -> int:
        """Tokens left for text."""
        return self._max_model_len - max_new_tokens - len(self._tokenizer.encode(prompt("")))


def total(memory: Sequence[MemoryStats]) -> MemoryStats:
    """The statistics of all prompts of one document as one: sums, and ratios weighted by entries."""
    if not memory:
        return MemoryStats()
    kept_per_layer = tuple(map(sum, zip(*(item.kept_per_layer for item in memory), strict=True)))
    # kept_ratio = entries kept / entries of a full cache, and every prompt's entries are equally large
    full = sum(item.kv_bytes_full for item in memory)
    kept = sum(item.kept_ratio * item.kv_bytes_full for item in memory)
    evicted = sum(item.evicted_entries for item in memory)
    shares = [item.evicted_attention_mass for item in memory]
    known = [share for share in shares if share is not None]
    mass = None
    if len(known) == len(shares):
        lost = sum(share * item.evicted_entries for share, item in zip(known, memory, strict=True))
        mass = lost / evicted if evicted else 0.0
    summed = {
        name: sum(getattr(item, name) for item in memory)
        for name in (
            "prompt_tokens",
            "output_tokens",
            "kv_bytes_full",
            "kv_bytes_after_prefill",
            "kv_bytes_peak",
            "kv_bytes_final",
            "kv_bytes_transient",
            "evicted_entries",
            "preemptions",
            "queue_s",
            "prefill_s",
            "decode_s",
        )
    }
    return MemoryStats(
        **summed,
        kept_per_layer=kept_per_layer,
        kept_ratio=kept / full if full else 1.0,
        evicted_attention_mass=mass,
        prefill_mode=memory[0].prefill_mode,
    )
