"""Hold the due times of schedules against a minute-by-minute oracle, in every time zone at every clock change.

    python -m tests.schedule.check_zones                            # 2024-2030, some minutes on two cores
    python -m tests.schedule.check_zones --years 2026 2027 --zones Asia/Gaza Pacific/Chatham
    python -m tests.schedule.check_zones --serve   # a server through the first two years of the zones below

Of each zone: `tests.schedule.oracle.CRONS` over two days about each of its clock changes, or over the first two days
where it has none. `--serve`: a schedule server whose clock jumps has to start exactly what is due. What is wrong, and a
call that takes `SLOW_S` seconds, is printed; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from zoneinfo import available_timezones

from tests.schedule.conftest import DueWorld
from tests.schedule.oracle import CRONS, DAY, SPARSE_CRONS, TURNING_ZONES, WallClock, changes, difference, probes

SLOW_S = 5.0


def check_zone(years: tuple[int, int], zone: str) -> tuple[int, list[str]]:
    """How many clock changes `zone` has from the first to the last of `years`, and what is wrong around them."""
    begin, end = datetime(years[0], 1, 1, tzinfo=UTC), datetime(years[1] + 1, 1, 1, tzinfo=UTC)
    found = changes(zone, begin, end)
    wrong = []
    for change in found or [begin]:
        clock = WallClock(zone, change - DAY, change + DAY)
        for cron in CRONS:
            started = time.monotonic()
            wrong.append(difference(clock, zone, cron, probes(change)))
            if (seconds := time.monotonic() - started) > SLOW_S:
                wrong.append(f"{zone} {cron!r}: took {seconds:.0f} s around {change:%F}")
    return len(found), [line for line in wrong if line is not None]


def serve_zone(years: tuple[int, int], zone: str) -> tuple[int, list[str]]:
    """How many jobs a server of `zone` starts in the first two of `years`, and which of its schedules are wrong."""
    begin, end = datetime(years[0], 1, 1, tzinfo=UTC), datetime(years[0] + 2, 1, 1, tzinfo=UTC)
    world = DueWorld(WallClock(zone, begin, end), zone, SPARSE_CRONS)
    world.serve_all()
    wrong = [f"{zone} {cron!r}: {told}" for cron in SPARSE_CRONS if (told := world.difference(cron)) is not None]
    return len(world.runs), wrong


def main() -> int:
    """Check what the arguments say; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zones", nargs="+", metavar="NAME")
    parser.add_argument("--years", nargs=2, type=int, default=(2024, 2030), metavar=("FIRST", "LAST"))
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    check, what, default, crons = check_zone, "clock changes", sorted(available_timezones()), CRONS
    if arguments.serve:
        check, what, default, crons = serve_zone, "jobs started", TURNING_ZONES, SPARSE_CRONS
    zones, counted, differences = arguments.zones or default, 0, 0
    with ProcessPoolExecutor() as workers:
        for count, wrong in workers.map(partial(check, tuple(arguments.years)), zones):
            counted, differences = counted + count, differences + len(wrong)
            for line in wrong:
                print(line, flush=True)  # noqa: T201
    print(f"{len(zones)} zones, {counted} {what}, {len(crons)} expressions: {differences} differences")  # noqa: T201
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
