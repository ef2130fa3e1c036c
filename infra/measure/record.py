"""The record of a measurement on this machine: the command, how busy the machine was, and what came out, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def begin_record(script: str, **about: Any) -> dict[str, Any]:
    """What every record of `infra/measure/<script>.py` begins with, and `about` what it measures."""
    return {
        "command": f"python -m infra.measure.{script} {' '.join(sys.argv[1:])}".strip(),
        "cpus": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 1),
        **about,
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Note how busy the machine is now, write the record and print it."""
    record["load_average_after"] = round(os.getloadavg()[0], 1)
    content = json.dumps(record, indent=1)
    path.write_text(f"{content}\n")
    print(content)


def write_whole(content: Any, path: Path) -> None:
    """Write JSON so that whoever is ended meanwhile leaves the file as it was."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
