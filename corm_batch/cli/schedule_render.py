"""`corm-batch schedule render`: a schedule as files for systemd, cron, Kubernetes or KubeRay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corm_batch.cli.console import error_console
from corm_batch.cli.options import refuse_given
from corm_batch.cli.schedule_options import Registry, ScheduleName, open_registry
from corm_batch.errors import OutputError, SpecError

if TYPE_CHECKING:
    from corm_batch.schedule.kubernetes import PodOptions
    from corm_batch.schedule.schedule import Schedule

Target = Literal["systemd", "cron", "k8s-cronjob", "kuberay-rayjob", "kuberay-raycronjob"]
_OF_PODS = ("image", "namespace", "cpus", "memory", "secret")


def render(
    context: typer.Context,
    target: Annotated[Target, typer.Argument(help="Who is to run the schedule.", show_default=False)],
    name: ScheduleName,
    into: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write the files there instead of standard output.")
    ] = None,
    environment_file: Annotated[
        str | None, typer.Option(metavar="PATH", help="systemd, cron: file of NAME=value lines with the secrets.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Kubernetes: image that holds corm-batch.")] = None,
    namespace: Annotated[str, typer.Option(help="Kubernetes: namespace.")] = "default",
    cpus: Annotated[str, typer.Option(help="Kubernetes: cores of a pod with replicas.")] = "4",
    memory: Annotated[str, typer.Option(help="Kubernetes: memory of a pod with replicas.")] = "16Gi",
    secret: Annotated[
        str | None, typer.Option(metavar="NAME", help="Kubernetes: Secret whose keys become environment variables.")
    ] = None,
    registry: Registry = None,
) -> None:
    """Print what another scheduler needs to run a schedule at the same times.

    GPUs and replicas are those of the spec's cluster section. No secret is printed: name the file or the Kubernetes
    Secret that holds them.
    """
    from corm_batch.schedule.kubernetes import PodOptions

    schedule = open_registry(registry).schedule(name)
    if target in ("systemd", "cron"):
        refuse_given(context, _OF_PODS, f"it is for Kubernetes, and {target} has no pods")
        files = _for_this_machine(target, schedule, environment_file)
    elif image is None:
        raise SpecError(f"--image: {target} needs the name of an image that holds corm-batch, got none")
    else:
        refuse_given(context, ["environment_file"], f"it is for systemd and cron; {target} takes --secret")
        files = _for_kubernetes(target, schedule, PodOptions(image, namespace, cpus, memory, secret))
    if into is None:
        _print(files)
    else:
        _write(files, Path(into))


def _for_this_machine(target: Target, schedule: Schedule, environment_file: str | None) -> dict[str, str]:
    from corm_batch.schedule.crontab import crontab_lines
    from corm_batch.schedule.systemd import systemd_units

    path = None if environment_file is None else str(Path(environment_file).absolute())
    if target == "systemd":
        return systemd_units(schedule, path)
    return {f"{schedule.name}.crontab": crontab_lines(schedule, path)}


def _for_kubernetes(target: Target, schedule: Schedule, options: PodOptions) -> dict[str, str]:
    from corm_batch.schedule.kuberay import ray_cron_job, ray_job
    from corm_batch.schedule.kubernetes import cron_job

    manifest = {"k8s-cronjob": cron_job, "kuberay-rayjob": ray_job, "kuberay-raycronjob": ray_cron_job}[target]
    return {f"{schedule.name}.{target.removeprefix('k8s-').removeprefix('kuberay-')}.yaml": manifest(schedule, options)}


def _print(files: dict[str, str]) -> None:
    for name, content in files.items():
        heading = f"# {name}\n" if len(files) > 1 else ""
        sys.stdout.write(heading + content + ("\n" if heading else ""))
    sys.stdout.flush()


def _write(files: dict[str, str], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
            error_console().print(f"{folder / name}: written", soft_wrap=True)
    except OSError as error:
        raise OutputError(f"--into {folder}: cannot be written: {error.strerror}") from error
