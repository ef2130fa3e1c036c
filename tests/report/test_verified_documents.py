"""Documents worth a look: those that differ, and those that could not be verified."""

from corm_batch.output.committed import read_committed
from corm_batch.report.verified_documents import worth_a_look
from tests.outputs import answered, commit, failed


def test_the_least_agreement_comes_first_and_no_more_than_asked_for(tmp_path):
    rows = [answered(f"d{number}", agreement=number / 10, first_difference=2) for number in range(9, 0, -1)]
    rows += [answered("alike", agreement=1.0), answered("lost", verify_error="no room"), failed("failed")]
    committed = read_committed(commit(tmp_path, rows)).rows
    assert [one.doc_id for one in worth_a_look(committed, 20)] == [*(f"d{number}" for number in range(1, 10)), "lost"]
    assert [one.doc_id for one in worth_a_look(committed, 2)] == ["d1", "d2"]
    assert worth_a_look(committed, 20)[-1].outcome == "no room"
