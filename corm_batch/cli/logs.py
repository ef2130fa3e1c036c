"""`corm-batch logs`: what a job on a Ray cluster has printed."""

from __future__ import annotations

from typing import Annotated

import typer

from corm_batch.cli.cluster_options import LOCAL_DASHBOARD, Address, JobId, follow, open_cluster, print_log


def logs(
    job_id: JobId,
    address: Address = LOCAL_DASHBOARD,
    wait: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; exit as its `run` would.")
    ] = False,
) -> None:
    """Print the log of a submitted job: progress, losses, answers of a small job, totals."""
    cluster = open_cluster(address)
    if wait:
        raise typer.Exit(follow(cluster, job_id))
    print_log([cluster.log(cluster.job(job_id))])
