from datetime import UTC, datetime, timedelta

from corm_batch.output import clock


def test_it_is_the_time_of_this_machine_in_utc():
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.now().utcoffset() == timedelta(0)
