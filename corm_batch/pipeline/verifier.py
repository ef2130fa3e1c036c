"""Verifier: a document's answers, held against what an uncompressed cache would have chosen in their place.

Each prompt is scored with the texts it was given: of a summary of summaries, whether the uncompressed cache would have
made the same one of the same parts. Knows nothing of rows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.selection import is_chosen
from corm_batch.audit.verdict import Verdict, joined, verdict
from corm_batch.audit.verification import Verification
from corm_batch.engine.request import Completion, Request
from corm_batch.errors import DocumentError
from corm_batch.pipeline.asker import Answering, EngineAsker


class Verifier:
    """Verifies documents on one engine.

    Args:
        config: which ones, and up to which gap two tokens tie: 0 where it does not say.
        engine: where their answers came from.
        limit_s: seconds after which it gives up on a document.
    """

    def __init__(self, config: VerifyConfig, engine: Answering, limit_s: float) -> None:
        self._config = config
        self._engine = engine
        self._limit_s = limit_s

    async def verify(self, asker: EngineAsker, *, suspect: bool) -> Verification:
        """What is found of the answers given to `asker`; never an exception, for the answers stand whatever happens.

        Args:
            asker: of a document with an answer; takes note of what verifying it cost.
            suspect: a replica was lost while it had this document, which may have been by verifying it: not again.
        """
        share, sampled = self._config.share, any(one.sampling.temperature > 0 for one, _ in asker.answered)
        if not is_chosen(asker.doc_id, share):
            return Verification.not_chosen(share, sampled=sampled)
        if suspect:
            return Verification.failed(share, "not tried: a replica was lost while it had this document")
        try:
            async with asyncio.timeout(self._limit_s):
                found = joined(await self._verdicts(asker))
        except TimeoutError:
            return Verification.failed(share, f"not done within the document's time limit of {self._limit_s:.0f} s")
        except Exception as error:  # whatever it is, the answers are there
            return Verification.failed(share, f"{type(error).__name__}: {error}")
        answers = [completion for _, completion in asker.answered]
        logprob_kept = sum(one.mean_logprob * len(one.token_ids) for one in answers) / max(1, found.tokens)
        seconds = sum(one.prefill_s for one in asker.passes)
        return Verification.done(share, found, logprob_kept, seconds, sampled=sampled)

    async def _verdicts(self, asker: EngineAsker) -> list[Verdict]:
        """Of every answer, all scored side by side.

        Raises:
            DocumentError: one cannot be scored here.
            ValueError: scores that are no numbers.
            BrokenEngineError: the engine failed as a whole.
        """
        scored = await asyncio.gather(*(self._score(*pair) for pair in asker.answered), return_exceptions=True)
        completions = [one for one in scored if isinstance(one, Completion)]
        asker.passes += [one.memory for one in completions]
        for one in scored:
            if isinstance(one, BaseException):
                raise one
        verdicts = []
        for completion in completions:
            if completion.error is not None or completion.scores is None:
                raise completion.error or DocumentError("the engine gave no scores")
            verdicts.append(verdict(completion.scores, self._config.min_gap or 0.0))
        return verdicts

    async def _score(self, request: Request, answer: Completion) -> Completion:
        scoring = replace(request, id=f"{request.id}#verify", answer_ids=answer.token_ids, uncompressed=True, stop=None)
        return await self._engine.answer(scoring)
