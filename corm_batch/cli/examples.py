"""Examples of every verb, which stand at the end of its --help. Knows nothing of what the verbs do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("init", "run job.yaml --limit 3", "report out/job"),
    "init": (
        "init",
        "init job.yaml --documents docs.parquet --ask '' --model org/model",
    ),
    "run": (
        "run job.yaml",
        "run job.yaml --limit 3",
        "run job.yaml --sample 20 --seed 1",
        "run job.yaml --set policy.tau=2 --retry-failed",
        "run jobs/quickstart/job.yaml --expect expected",
        "run - --json < job.yaml",
    ),
    "plan": ("plan job.yaml --show-prompt", "plan job.yaml --gpu h100"),
    "report": (
        "report out/quickstart",
        "report out/quickstart --html page.html --compare out/other",
        "report out/quickstart --expect expected",
    ),
    "export": (
        "export out/quickstart answers.csv",
        "export s3://bucket/out answers.jsonl.gz --memory",
        "export out/batch answers.jsonl --format openai_batch",
    ),
    "policies": ("policies", "policies --json"),
    "schema": ("schema > job.schema.json", "schema --markdown"),
    "bench": ("bench --workload tiny-256 --engine corm --engine full",),
    "submit": ("submit job.yaml --address http://127.0.0.1:8265 --follow",),
    "status": ("status", "status ID --json"),
    "logs": ("logs ID --follow",),
    "cancel": ("cancel ID",),
    "eval": ("eval job.yaml --policy snapkv --cases 4 --lengths 1024",),
    "calibrate": (
        "calibrate jobs/quickstart/job.yaml --max-loss 1%",
        "calibrate job.yaml --max-loss '0.01 nats' --minutes 30 --write",
    ),
    "convert": (
        "convert job.yaml --weights '{name: kv_heads, num_kv_heads: 1}' \\\n"
        "      --license MIT --output models/one-head",
    ),
    "schedule": ("schedule add nightly job.yaml --cron '0 2 * * *'", "schedule serve"),
    "schedule add": ("schedule add nightly job.yaml --cron '0 2 * * *'",),
    "schedule list": ("schedule list --json",),
    "schedule remove": ("schedule remove nightly",),
    "schedule serve": ("schedule serve", "schedule serve --address http://127.0.0.1:8265"),
    "schedule render": (
        "schedule render systemd nightly --into ~/.config/systemd/user",
        "schedule render kuberay-rayjob nightly --image corm-batch:0.1",
    ),
}
"""By verb, or group of verbs, without the program's name; of none what comes first."""


def examples_of(verb: str) -> str:
    """The end of a verb's help, in lines that stay as they are."""
    return "\n".join(["\b", "Examples:", *(f"  corm-batch {line}" for line in EXAMPLES[verb])])
