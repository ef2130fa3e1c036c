"""Arguments that the verbs for jobs on a cluster share, and how a followed job is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from corm_batch.cli.console import error_console, output_console
from corm_batch.errors import SpecError
from corm_batch.exit_codes import ExitCode
from corm_batch.harmless import harmless

if TYPE_CHECKING:
    from corm_batch.cluster.ray_jobs import RayJobs

LOCAL_DASHBOARD = "http://127.0.0.1:8265"

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as submit and status call it.", show_default=False)]
Address = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the Ray cluster."),
]


def checked_address(address: str) -> str:
    """`address` as a URL without credentials.

    Raises:
        SpecError: what is allowed; what was given is not repeated, for it may hold a secret.
    """
    from corm_batch.cluster.address import valid_address

    try:
        return valid_address(address)
    except ValueError as error:
        raise SpecError(f"--address: {error}") from error


def open_cluster(address: str) -> RayJobs:
    """The jobs of the cluster at `address`.

    Raises:
        SpecError: it is no URL.
        ClusterError: no cluster answers there, or it refuses the token.
    """
    url = checked_address(address)
    from corm_batch.cluster.ray_jobs import RayJobs  # Ray, which a wrong address need not wait for

    return RayJobs(url)


def print_log(pieces: Iterable[str]) -> None:
    """A log as it comes, line by line, harmless: its lines are not only corm-batch's, and name what a user named."""
    stream, rest = output_console().file, ""
    for piece in pieces:
        lines, end, rest = (rest + piece).rpartition("\n")
        stream.write(harmless(lines + end))
        stream.flush()
    stream.write(harmless(rest))
    stream.flush()


def follow(cluster: RayJobs, job_id: str) -> int:
    """Show a job's log until it ends; the exit code of its `corm-batch run`, 130 after Ctrl-C, which leaves it be."""
    try:
        print_log(cluster.follow(job_id))
    except KeyboardInterrupt:
        error_console().print(f"{job_id} goes on; to stop it: corm-batch cancel {job_id}", soft_wrap=True)
        return ExitCode.INTERRUPTED
    job = cluster.job(job_id)
    error_console().print(f"{job_id}: {job.state}", soft_wrap=True)
    return job.exit_code or 0
