"""corm_batch as a model of lm-evaluation-harness (extra lm-eval): a job's model, engine and policy answer its tasks.

    python -m corm_batch.harness run --model corm_batch --model_args spec=job.yaml,policy=snapkv --tasks ...

lm-evaluation-harness 0.4.13 looks for no models in other packages: this command registers the model and does what its
own does; in Python, importing this module registers it. A text is scored as the policy would have written it: its
context is read and compressed, its tokens are fed one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from corm_batch.engine.request import Completion, Request, SamplingParams
from corm_batch.errors import SpecError
from corm_batch.pipeline.model import model_loader
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import JobSpec

_LOGGER = logging.getLogger(__name__)
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_DRAWS = ("temperature", "top_k", "top_p", "min_p")
_KNOWN = ("until", "max_gen_toks", "do_sample", *_DRAWS, *_PENALTIES)
_MAX_GEN_TOKS = 256
Scored = tuple[float, bool]
"""Log-probability of a text, and whether every token of it is the likeliest."""


@register_model("corm_batch")
class CormBatchLM(TemplateLM):  # type: ignore[misc]
    """One engine in this process.

    Args:
        spec: a job's YAML file, local or s3://, whose model, engine and policy are used.
        policy: another policy, by its name or as a mapping.
        batch_size, max_batch_size, device: lm-evaluation-harness gives them to every model; the job says all of this.

    Raises:
        SpecError: a wrong spec or policy.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        spec: str,
        policy: str | Mapping[str, Any] | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        job = JobSpec.load(spec)
        if policy is not None:
            chosen = KVPolicy.from_spec({"name": policy} if isinstance(policy, str) else policy)
            job = job.model_copy(update={"policy": chosen})
        if job.policy.pins_instruction:
            raise SpecError(
                "policy.pin_instruction: true, but a task of lm-evaluation-harness does not say what of its prompts is "
                "the instruction: leave it out"
            )
        self._job = job
        model = model_loader(job)()
        self._engine: Any = model.engine
        self._chat = model.tokenizer

    @property
    def eot_token_id(self) -> int:
        """What ends a text, and stands before one that nothing stands before."""
        return min(self._chat.end_token_ids)

    @property
    def tokenizer_name(self) -> str:
        """Of the model whose template lays prompts out."""
        return self._job.model.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's own, named by the model."""
        return self.tokenizer_name if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the model's own chat template lays them out."""
        return self._chat.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """A text as token ids; special tokens in it are what they are, for a chat template has put them there."""
        return self._chat.rendered_ids(string)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to its task's first stop text.

        Raises:
            SpecError: a task's generation_kwargs ask for what is not done here.
            DocumentError: a prompt does not fit.
        """
        until = [_texts(request.args[1].get("until")) for request in requests]
        made = [
            Request(
                str(number),
                self.tok_encode(request.args[0]),
                _sampling(request.args[1]),
                stop=self._chat.stop_check(stop),
            )
            for number, (request, stop) in enumerate(zip(requests, until, strict=True))
        ]
        answers = []
        for request, stop, done in zip(requests, until, self._run(made), strict=True):
            answers.append(self._chat.decode(done.token_ids, stop))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probabilities of whole texts, in windows of the model's context where they are longer."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        scored = iter(self._score([window for text in windows for window in text]))
        totals = [sum(next(scored)[0] for _ in text) for text in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[Scored]:
        """Log-probabilities of continuations; of a context that is too long the beginning is left out, and logged."""
        found = self._score([(context, answer) for _, context, answer in requests])
        for (texts, _, _), one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, one)
        return found

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        """A text's windows, each as what is read and what is scored."""
        most = self._engine.max_model_len - 1
        for window in get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, most, 1):
            yield make_disjoint_window(window)

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Scored]:
        requests = []
        for number, (context, answer) in enumerate(pairs):
            room = self._engine.max_model_len - max(len(answer), self._engine.least_room)
            if 0 < room < len(context):
                _LOGGER.warning("%d tokens of a context do not fit: its last %d are read", len(context), room)
                context = context[-room:]
            requests.append(Request(str(number), context, answer_ids=answer))
        scores = [done.scores for done in self._run(requests)]
        return [(sum(one.logprobs), one.logprobs == one.best_logprobs) for one in scores if one is not None]

    def _run(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in the order of the requests; the longest run first.

        Raises:
            DocumentError: one cannot be answered.
        """
        found: dict[str, Completion] = {}
        for done in self._engine.run(sorted(requests, key=lambda one: -len(one.token_ids))):
            if done.error is not None:
                raise done.error
            found[done.id] = done
        return [found[request.id] for request in requests]


def _texts(until: str | Sequence[str] | None) -> list[str]:
    return [until] if isinstance(until, str) else list(until or ())


def _sampling(asked: Mapping[str, Any]) -> SamplingParams:
    """A task's generation_kwargs; greedy where they ask for no sampling."""
    if unknown := sorted(set(asked) - set(_KNOWN)):
        raise SpecError(f"generation_kwargs: unknown key {unknown[0]}; known here: {', '.join(_KNOWN)}")
    named = (*_PENALTIES, *_DRAWS) if asked.get("do_sample", False) else _PENALTIES
    sampling = {name: asked[name] for name in named if name in asked}
    if asked.get("do_sample", False):
        sampling.setdefault("temperature", 1.0)
    return SamplingParams(max_new_tokens=int(asked.get("max_gen_toks", _MAX_GEN_TOKS)), **sampling)


if __name__ == "__main__":
    cli_evaluate()
