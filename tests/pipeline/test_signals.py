import os
import signal
import threading

import pytest

from corm_batch.pipeline.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_becomes_a_flag_once(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert signal.getsignal(number) == before
        stop.catch()
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_catches_again_what_a_library_took():
    with StopSignals() as stop:
        signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the library's handler ran"))
        stop.catch()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_does_nothing_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopSignals() as stop:
            stop.catch()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
