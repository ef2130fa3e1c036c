"""`--policy`, which several verbs take: policies by name, or written out with a label before them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corm_batch.errors import SpecError

if TYPE_CHECKING:
    from corm_batch.policies.base import KVPolicy
    from corm_batch.spec import JobSpec

_LABELLED = re.compile(r"([^={}\s]+)=(\{.*)", re.DOTALL)

Policies = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|YAML",
        help="A policy to compare, beside the job's own: snapkv, '{name: corm, tau: 4}' or 'short={name: corm, "
        "window: 64}'; may be given again.",
    ),
]


@dataclass(frozen=True)
class GivenPolicy:
    """A policy to try.

    Attributes:
        label: what figures call it.
        policy: what it is.
        fields: as they were given; of the job's own policy all of them.
    """

    label: str
    policy: KVPolicy
    fields: Mapping[str, Any]


def read_labelled(option: str, given: str) -> tuple[str | None, Mapping[str, Any]]:
    """A label, where there is one, and the fields of a plug-in that an option names or writes out.

    Raises:
        SpecError: it is neither.
    """
    from corm_batch.data.yaml_text import load_yaml

    labelled = _LABELLED.fullmatch(given)
    value = load_yaml(labelled[2] if labelled else given, option)
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise SpecError(f"{option}: got {given!r}, expected a name, such as {option} NAME, or '{{name: NAME, ...}}'")
    return labelled[1] if labelled else None, value


def read_policies(job: JobSpec, given: Sequence[str]) -> list[GivenPolicy]:
    """The job's own policy and those given, each once; the full cache, which all are compared with, is none of them.

    Raises:
        SpecError: one is wrong, or two have one label.
    """
    from corm_batch.policies.base import KVPolicy
    from corm_batch.policies.defaults import with_name
    from corm_batch.report.evaluation import policy_label

    asked: list[tuple[str | None, Mapping[str, Any]]] = [(None, job.policy.to_spec())]
    asked += [read_labelled("--policy", one) for one in given]
    found: dict[str, GivenPolicy] = {}
    for own, fields in asked:
        policy = KVPolicy.from_spec(with_name(fields))
        if policy.name == "full" or any(policy == other.policy for other in found.values()):
            continue
        label = own or policy_label(policy)
        if label in found:
            raise SpecError(f"--policy: two policies are called {label!r}: give them labels, as short={{name: corm}}")
        found[label] = GivenPolicy(label, policy, fields)
    return list(found.values())
