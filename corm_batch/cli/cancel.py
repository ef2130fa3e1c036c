"""`corm-batch cancel`: stop a job on a Ray cluster."""

from __future__ import annotations

from corm_batch.cli.cluster_options import LOCAL_DASHBOARD, Address, JobId, open_cluster
from corm_batch.cli.console import output_console


def cancel(job_id: JobId, address: Address = LOCAL_DASHBOARD) -> None:
    """Stop a submitted job. What is finished is committed and its output is free; submitted again, it goes on there."""
    cluster = open_cluster(address)
    job, stopped = cluster.cancel(job_id)
    said = f"{job.state}, what was finished is in {job.output_uri}" if stopped else f"had ended before: {job.state}"
    output_console().print(f"{job_id}: {said}", soft_wrap=True)
