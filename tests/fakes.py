"""Loaders and actors around `ScriptedEngine`, whose docstring says what makes it misbehave."""

import asyncio
import os
from functools import partial

import ray

from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.pipeline.worker import Model
from corm_batch.text.tokenize import PromptTokenizer

MODEL = os.path.join(os.path.dirname(__file__), "..", "jobs", "quickstart", "model")


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
        async def started(self):
            pass

        async def load(self):
            return load()

        async def finished(self):
            await asyncio.Event().wait()

    return ray.remote(Bare).remote
