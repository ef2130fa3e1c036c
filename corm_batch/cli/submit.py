"""`corm-batch submit`: hand a job to a Ray cluster, which runs it on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from corm_batch.cli.cluster_options import LOCAL_DASHBOARD, Address, follow, open_cluster
from corm_batch.cli.console import error_console, output_console, print_json
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath

if TYPE_CHECKING:
    from corm_batch.spec import JobSpec

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def submit(
    spec: SpecPath,
    address: Address = LOCAL_DASHBOARD,
    overrides: Overrides = None,
    plugins: Plugins = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Answer failed documents again.")] = False,
    wait: Annotated[bool, typer.Option("--follow", help="Show its log until it ends; exit as `run` would.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster. What runs there already is not submitted again, what has ended goes on.

    Only the spec goes along, checked and complete, without its cluster.address. Model, source and output have to be
    within reach of the cluster, which has credentials of its own: nothing of this environment goes along.
    """
    from corm_batch.spec import JobSpec

    job = JobSpec.load(spec, overrides or ())
    cluster = open_cluster(address)
    _warn_of_local_paths(job, cluster.address)
    submitted, new = cluster.submit(job, retry_failed=retry_failed)
    if as_json:
        print_json({"id": submitted.id, "submitted": new, "address": cluster.address, "output": job.output.uri})
    else:
        console = output_console()
        said = "submitted to" if new else "is there already, not submitted again:"
        console.print(f"{submitted.id}: {said} {cluster.address}", soft_wrap=True)
        where = "" if cluster.address == LOCAL_DASHBOARD else f" --address {cluster.address}"
        for verb in (f"status {submitted.id}", f"logs {submitted.id} --follow", f"cancel {submitted.id}"):
            console.print(f"  corm-batch {verb}{where}", soft_wrap=True)
    if wait:
        raise typer.Exit(follow(cluster, submitted.id))


def _warn_of_local_paths(job: JobSpec, address: str) -> None:
    """Say which paths of the spec are taken as they are, on another machine."""
    from corm_batch.data.uri import is_remote

    if urlsplit(address).hostname in _LOOPBACK:
        return
    places = {"source.uri": job.source.to_spec().get("uri"), "output.uri": job.output.uri}
    if not job.model.is_hub_id:
        places["model.name"] = job.model.name
    local = [f"{field} ({uri})" for field, uri in places.items() if isinstance(uri, str) and not is_remote(uri)]
    if local:
        message = f"{', '.join(local)}: local paths, which are taken as those of the cluster's nodes"
        error_console().print(message, soft_wrap=True)
