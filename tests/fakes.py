"""ScriptedEngine: the engine's interface without a model. A prompt that holds a command makes it misbehave.

Commands: @kill (the process dies), @freeze (a C call that keeps the GIL), @hang (a step that does not end), @break
(step raises), @error (the engine refuses the request), @endless (never finishes), @nap (one step takes long).
"""

import asyncio
import ctypes
import os
import signal
import time
from functools import partial

import ray

from corm_batch.engine.request import Completion, MemoryStats
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import DocumentError
from corm_batch.pipeline.worker import Model
from corm_batch.text.tokenize import PromptTokenizer

MODEL = os.path.join(os.path.dirname(__file__), "..", "jobs", "quickstart", "model")
SHAPE = ModelShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_model_len=512, vocab_size=8192)


class ScriptedEngine:
    """Answers with the first tokens of the document, one a step."""

    def __init__(self, decode, *, step_s=0.0, max_model_len=512):
        self.shape = SHAPE
        self.max_model_len = max_model_len
        self.pool_bytes = 1 << 20
        self.steps = 0
        self._decode = decode
        self._step_s = step_s
        self._live = {}
        self._finished = []

    @property
    def has_work(self):
        return bool(self._live or self._finished)

    @property
    def pool_bytes_used(self):
        return 0

    def add(self, request):
        self._live[request.id] = (request, [])

    def cancel(self, request_id):
        if self._live.pop(request_id, None):
            self._finished.append(Completion(request_id, (), "cancelled"))

    def step(self):
        self.steps += 1
        time.sleep(self._step_s)
        for request, output in list(self._live.values()):
            self._advance(request, output)
        finished, self._finished = self._finished, []
        return finished

    def _advance(self, request, output):
        text = self._decode(request.token_ids)
        if "@kill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "@freeze" in text:
            ctypes.PyDLL(None).sleep(600)
        if "@hang" in text:
            time.sleep(600)
        if "@break" in text:
            raise RuntimeError("scripted fault")
        if "@error" in text:
            self._finish(request, (), "error", DocumentError("scripted refusal"))
            return
        if "@nap" in text and not output:
            time.sleep(1.0)
        if "@endless" in text:
            time.sleep(0.01)
            return
        output.append(request.token_ids[1 + len(output)])
        stopped = request.stop is not None and request.stop(output)
        if stopped or len(output) >= min(request.sampling.max_new_tokens, len(request.token_ids) - 1):
            self._finish(request, tuple(output), "stop" if stopped else "length")

    def _finish(self, request, token_ids, reason, error=None):
        del self._live[request.id]
        tokens = len(request.token_ids) + len(token_ids)
        memory = MemoryStats(
            prompt_tokens=len(request.token_ids),
            output_tokens=len(token_ids),
            kv_bytes_full=tokens * 256,
            kv_bytes_peak=tokens * 128,
            kv_bytes_final=tokens * 64,
            kept_ratio=0.25,
            kept_per_layer=(tokens, tokens),
            evicted_entries=3 * tokens,
        )
        self._finished.append(Completion(request.id, token_ids, reason, error, -0.5, memory))


def _load(step_s, max_model_len, failure):
    if failure is not None:
        raise failure
    tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role="document")
    engine = ScriptedEngine(tokenizer.decode, step_s=step_s, max_model_len=max_model_len)
    return Model(engine=engine, tokenizer=tokenizer, pool_tokens=4096)


def scripted(step_s=0.0, max_model_len=512, failure=None):
    """What `run_job(load_model=...)` takes; `failure` is raised instead of loading."""
    return partial(_load, step_s, max_model_len, failure)


def bare_actor(load):
    """What spawns an actor that calls `load`, a lambda or an inner function; its process has little to import."""

    class Bare:
        async def load(self):
            return load()

        async def live(self):
            await asyncio.Event().wait()

    return ray.remote(Bare).remote
