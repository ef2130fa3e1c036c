"""ScheduleRegistry: a folder, local or on S3, with one file a schedule and one a state.

<registry>/<name>.yaml          the schedule, written by `schedule add`
<registry>/_state/<name>.json   how far it has come, written by `schedule serve`

Every write is of a whole file: a reader sees the old one or the new one.
"""

from __future__ import annotations

import os

import yaml
from pydantic import ValidationError

from corm_batch.data.filesystem import create_exclusive, delete, list_files, read_whole, write_whole
from corm_batch.data.uri import resolve_uri
from corm_batch.errors import SourceError, SpecError
from corm_batch.schedule.schedule import RunState, Schedule


def default_registry() -> str:
    """The registry of this user: `schedules` in the data folder of corm-batch."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "corm-batch", "schedules")


class ScheduleRegistry:
    """The schedules in the folder `uri`, an absolute path or an s3:// URI; it need not be there yet."""

    def __init__(self, uri: str) -> None:
        try:
            self.uri = resolve_uri(uri).rstrip("/")
        except SpecError as error:
            raise SpecError(f"registry: {error}, got {uri}") from error

    def add(self, schedule: Schedule, *, replace: bool = False) -> None:
        """Keep `schedule`; one that takes the place of another keeps its state.

        Raises:
            SpecError: the name is taken, and `replace` is not given.
            OutputError: the registry cannot be written.
        """
        content = yaml.safe_dump(schedule.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
        if replace:
            write_whole(self._schedule_uri(schedule.name), content)
        elif create_exclusive(self._schedule_uri(schedule.name), content):
            delete(self._state_uri(schedule.name))
        else:
            raise SpecError(f"name: {schedule.name} is there already; give --replace or another name")

    def remove(self, name: str) -> None:
        """Forget a schedule and its state.

        Raises:
            SpecError: there is none of that name.
        """
        if name not in (names := self.names()):
            raise SpecError(f"name: no schedule is called {name!r}; there are: {', '.join(names) or 'none'}")
        delete(self._schedule_uri(name))
        delete(self._state_uri(name))

    def names(self) -> list[str]:
        """Names of all schedules, sorted."""
        found = [uri.removeprefix(f"{self.uri}/") for uri in list_files(f"{self.uri}/", (".yaml",))]
        return [name.removesuffix(".yaml") for name in found if "/" not in name]

    def schedule(self, name: str) -> Schedule:
        """One schedule.

        Raises:
            SpecError: there is none of that name, or its file is not what `add` writes.
            SourceError: its file cannot be read.
        """
        uri = self._schedule_uri(name)
        try:
            fields = yaml.safe_load(read_whole(uri))
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                there = ", ".join(self.names()) or "none"
                raise SpecError(f"name: no schedule is called {name!r}; there are: {there}") from error
            raise
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f"{uri}: no valid YAML: {error}") from error
        if not isinstance(fields, dict):
            raise SpecError(f"{uri}: expected the fields of a schedule: {', '.join(Schedule.model_fields)}")
        schedule = Schedule.of(fields, uri)
        if schedule.name != name:
            raise SpecError(f"{uri}: name: expected {name!r} as the file is called, got {schedule.name!r}")
        return schedule

    def state(self, schedule: Schedule) -> RunState:
        """How far a schedule has come; nothing is due from before it was added or replaced.

        Raises:
            SourceError: its state cannot be read.
            SpecError: its state is not what `serve` writes.
        """
        uri = self._state_uri(schedule.name)
        try:
            state = RunState.model_validate_json(read_whole(uri))
        except SourceError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            return RunState(considered_until=schedule.added_at)
        except ValidationError as error:
            raise SpecError(f"{uri}: not the state of a schedule; remove the file to begin anew") from error
        return state.considered(schedule.added_at)

    def write_state(self, name: str, state: RunState) -> None:
        """Keep the state of the schedule `name`.

        Raises:
            OutputError: not written; the state that was there is unchanged.
        """
        write_whole(self._state_uri(name), state.model_dump_json(indent=1).encode())

    def _schedule_uri(self, name: str) -> str:
        return f"{self.uri}/{name}.yaml"

    def _state_uri(self, name: str) -> str:
        return f"{self.uri}/_state/{name}.json"
