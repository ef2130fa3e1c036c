"""Arguments that the verbs of `corm-batch schedule` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from corm_batch.schedule.registry import ScheduleRegistry

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False)]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "--to",
        metavar="URI",
        help="Folder of the schedules, local or s3://; by default corm-batch/schedules in your data folder.",
    ),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Dashboard of a Ray cluster that the job is submitted to; by default it runs here.",
    ),
]


def open_registry(uri: str | None) -> ScheduleRegistry:
    """The registry at `uri`, by default this user's."""
    from corm_batch.schedule.registry import ScheduleRegistry, default_registry

    return ScheduleRegistry(default_registry() if uri is None else uri)
