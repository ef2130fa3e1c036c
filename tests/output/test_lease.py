import json
import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from corm_batch.data.filesystem import read_whole, write_whole
from corm_batch.errors import LeaseError, OutputError
from corm_batch.output import clock
from corm_batch.output import lease as module
from corm_batch.output.lease import Lease


def content(place):
    return json.loads(read_whole(f"{place}/_job/lease.json"))


def overwrite(place, **fields):
    write_whole(f"{place}/_job/lease.json", json.dumps({**content(place), **fields}).encode())


def test_one_holder_at_a_time(place):
    with Lease(place) as lease:
        lease.check()
        with pytest.raises(LeaseError, match=rf"held by process {os.getpid()} of .+ on .+ since 20"), Lease(place):
            pass
        lease.check()
    with Lease(place):
        pass


def test_stale_lease_is_taken_over_and_its_old_holder_notices(place, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    monkeypatch.setattr(module, "STALE_S", 0.3)
    old, new = Lease(place), Lease(place, lambda: True)
    old.__enter__()
    overwrite(place, machine="another machine")
    with new:
        with pytest.raises(LeaseError, match="was lost to process"):
            old.check()
        with pytest.raises(LeaseError):
            old.__exit__(None, None, None)
        new.check()


def test_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path):
    code = f"import os; from corm_batch.output.lease import Lease; Lease({str(tmp_path)!r}).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    holder = content(tmp_path)
    with Lease(str(tmp_path)):
        assert content(tmp_path)["pid"] == os.getpid() != holder["pid"]
    overwrite_with = {**holder, "machine": "another machine"}
    write_whole(f"{tmp_path}/_job/lease.json", json.dumps(overwrite_with).encode())
    with pytest.raises(LeaseError, match=f"held by process {holder['pid']}"), Lease(str(tmp_path)):
        pass


def test_who_may_wait_takes_what_nobody_renews(place, monkeypatch, caplog):
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    Lease(place).__enter__()
    overwrite(place, machine="another machine")
    with pytest.raises(LeaseError, match=r"since 20\S+\. If that process is dead, the output is free in 120 s"):
        Lease(place).__enter__()
    monkeypatch.setattr(module, "STALE_S", 0.5)
    started = time.monotonic()
    with Lease(place, lambda: True) as lease:
        assert 0.5 <= time.monotonic() - started < 5
        lease.check()
    (told,) = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert f"held by process {os.getpid()} of" in told


def test_who_may_wait_is_refused_by_a_driver_that_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    monkeypatch.setattr(module, "RENEW_S", 0.2)
    with Lease(str(tmp_path)) as lease:
        with pytest.raises(LeaseError, match="It lives"), Lease(str(tmp_path), lambda: True):
            pass
        lease.check()


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
def test_a_lease_is_not_taken_because_clocks_differ(tmp_path, monkeypatch, ahead_s):
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    monkeypatch.setattr(module, "RENEW_S", 0.1)
    with Lease(str(tmp_path)) as held:
        overwrite(tmp_path, machine="another machine")
        clock_here = clock.now()
        monkeypatch.setattr(clock, "now", lambda: clock_here + timedelta(seconds=ahead_s))  # and it stands still
        for may_wait in (False, True):
            with pytest.raises(LeaseError, match="held by process"):
                Lease(str(tmp_path), lambda may_wait=may_wait: may_wait).__enter__()
        held.check()


def test_waiting_ends_when_the_output_is_given_back_or_the_driver_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    first = Lease(str(tmp_path)).__enter__()
    left = [True] * 3
    with pytest.raises(LeaseError, match="held by process"):
        Lease(str(tmp_path), lambda: bool(left and left.pop())).__enter__()
    assert not left

    def give_back():
        if not left:
            left.append(first.__exit__(None, None, None))
        return True

    with Lease(str(tmp_path), give_back) as second:
        second.check()


def test_the_renewer_finds_out_that_the_lease_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 0.02)
    lease = Lease(str(tmp_path)).__enter__()
    assert lease.lost is None
    overwrite(tmp_path, token="of another")
    while lease.lost is None:
        time.sleep(0.01)
    overwrite(tmp_path, token=lease._token)  # too late
    for end in (lease.check, lambda: lease.__exit__(None, None, None)):
        with pytest.raises(LeaseError, match="was lost to process"):
            end()
    assert content(tmp_path)["token"] == lease._token


def test_renewal(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    with Lease(str(tmp_path)):
        first = content(tmp_path)
        time.sleep(0.5)
        later = content(tmp_path)
    assert later["renewals"] > first["renewals"]
    assert later["since"] == first["since"]


@pytest.mark.parametrize("garbage", [b"", b"[]", b"not json", b'{"token": 7}'])
def test_unreadable_lease_is_nobody_s(tmp_path, garbage):
    write_whole(f"{tmp_path}/_job/lease.json", garbage)
    with Lease(str(tmp_path)) as lease:
        lease.check()


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), Lease(str(tmp_path / "file")):
        pass
