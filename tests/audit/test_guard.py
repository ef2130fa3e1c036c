from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.guard import Guard


def guard_of(documents, **config):
    guard = Guard(VerifyConfig(share=1, **config))
    for number in range(documents):
        guard.read(f"d{number}")
    return guard


def test_it_stops_once_it_is_certain_and_says_so():
    guard = guard_of(100, stop_above="5%")
    for differing in range(14):
        guard.found(differing)
        assert (guard.stops, guard.reason) == (False, "")
    guard.found(14)
    assert guard.stops
    assert guard.reason == (
        "14 of 100 documents to verify would have been answered otherwise, with 95 % confidence more than 5.1 % of "
        "all; verify.stop_above is 5 %"
    )
    for number in range(1000):
        guard.read(f"later{number}")
    guard.found(15)
    assert guard.stops  # once certain it stays so


def test_documents_that_are_read_and_not_yet_answered_count_as_alike():
    few, many = guard_of(10, stop_above=0.05), guard_of(200, stop_above=0.05)
    for guard in (few, many):
        guard.found(4)
    assert (few.stops, many.stops) == (True, False)


def test_without_a_limit_it_never_stops():
    for guard in (guard_of(10), Guard(None)):
        guard.read("a")
        guard.found(11)
        assert not guard.stops
