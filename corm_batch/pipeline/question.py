"""about_question(): what to know of a policy that looks for a question where the engine has yet to be asked one."""

from __future__ import annotations

from collections.abc import Iterator

from corm_batch.policies.defaults import DEFAULTS
from corm_batch.spec import JobSpec


def about_question(spec: JobSpec) -> Iterator[str]:
    """A sentence where a job asks over readings, and its policy keeps what a prompt's last tokens look at."""
    if spec.task.asks_several and spec.policy.looks_for_question:
        yield (
            f"policy {spec.policy.name} keeps what the last tokens before an answer look at, but several things are "
            "asked over one reading, which is compressed before any of them is known: these are the text's own last "
            "tokens. Where streaming prefill kept it from seeing the question, the default for known questions lost "
            "26.5 points of planted facts on SmolLM2-135M-Instruct and 61.8 on the quick start's model; "
            f"policy: {{question: unknown}} takes {DEFAULTS['unknown']['name']} instead"
        )
