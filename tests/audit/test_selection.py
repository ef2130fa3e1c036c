import numpy as np
import pytest

from corm_batch.audit.selection import is_chosen
from corm_batch.data.document import digest

IDS = [f"s3://bucket/year/{number % 97}/paper-{number}.txt" for number in range(100_000)]


def test_the_choice_is_fixed_for_good():
    assert [number for number in range(60) if is_chosen(f"d{number}", 0.1)] == [6, 16, 25, 28, 30, 31, 57]
    assert not is_chosen("d1", 0.0)
    assert all(is_chosen(doc_id, 1.0) for doc_id in (*IDS[:1000], "", "\udcff"))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_as_many_as_asked_for_and_of_every_kind(share):
    chosen = np.array([is_chosen(doc_id, share) for doc_id in IDS])
    spread = 5 * np.sqrt(share * (1 - share))
    assert abs(chosen.mean() - share) < spread / np.sqrt(len(IDS))
    for groups in (97, 10):  # the folder in the id, and its last digit
        rates = np.array([chosen[start::groups].mean() for start in range(groups)])
        assert np.all(abs(rates - share) < spread / np.sqrt(len(IDS) / groups))


def test_a_larger_share_adds_and_no_other_order_follows():
    small, large = ({one for one in IDS[:20_000] if is_chosen(one, share)} for share in (0.05, 0.2))
    assert small < large
    first = sorted(IDS[:20_000], key=digest)[:4000]
    assert abs(sum(one in large for one in first) / 4000 - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
