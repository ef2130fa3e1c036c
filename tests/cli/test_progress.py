"""What a running job shows: live, plain and as JSON."""

import io
import json

import pytest
from rich.console import Console

from corm_batch.cli.progress import show_progress
from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.progress import Event, Progress

HALFWAY = Progress(
    total=30,
    ok=9,
    failed=1,
    skipped=10,
    prompt_tokens=30_000,
    output_tokens=1_000,
    kv_bytes_full=4 * 2**30,
    kv_bytes_peak=2**30,
    kept_bytes=2.0**30,
    seconds=20.0,
)
COUNTS = "10 of 20 documents, 1 failed, 10 done before, ETA 20.0s"
FIGURES = "1550 tokens/s, kept 25.0%, saved 3.0 GiB of 4.0 GiB, 20.0s"


def shown(events, *, terminal=False, width=200):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None)
    with show_progress("papers", console, as_json=False) as on_event:
        for event in events:
            on_event(event)
    return stream.getvalue()


def test_plain_lines_are_few():
    start = Event("start", Progress(total=30))
    ticks = [Event("tick", Progress(total=30, seconds=second / 5)) for second in range(1, 100)]
    lines = shown([start, *ticks, Event("document", HALFWAY), Event("document", HALFWAY)]).splitlines()
    assert lines == ["papers: 0 of 30 documents, 0 failed, ETA -; no answer yet, 0.0s", f"papers: {COUNTS}; {FIGURES}"]


def test_plain_lines_go_on_while_nothing_is_answered():
    ticks = [Event("tick", Progress(total=30, seconds=float(second))) for second in range(200)]
    assert len(shown(ticks).splitlines()) == 4, "one a minute"


def test_what_is_waited_for_is_told_at_once_and_stays():
    stage = "loading the model's weights"
    events = [Event("start", Progress(total=30)), Event("stage", Progress(total=30, seconds=2.0), message=stage)]
    ticks = [Event("tick", Progress(total=30, seconds=float(second)), stage=stage) for second in range(3, 70)]
    lines = shown([*events, *ticks]).splitlines()
    assert lines[1:] == [f"papers: {stage}, 2.0s", f"papers: 0 of 30 documents, 0 failed, ETA -; {stage}, 1m00s"]
    assert stage in shown(ticks, terminal=True)


def test_a_lost_replica_is_told_at_once():
    line = shown([Event("loss", HALFWAY, message="killed\nby \x1b[2Jsignal 9")])
    assert line == "a replica was lost and is replaced: killed by [2Jsignal 9\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_found_at_the_output_is_told_at_once(terminal):
    notice = Event("notice", Progress(), message="27 rows here are\nunder \x1b[2Jother settings", details={"ok": 27})
    lines = shown([notice, Event("start", Progress(total=30))], terminal=terminal).splitlines()
    assert "27 rows here are under [2Jother settings" in lines[0]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_places_are_told_before_the_first_count(terminal):
    start = Event("start", Progress(total=30), message="model org/m, reads /in\n/x, writes /out")
    lines = shown([start], terminal=terminal).splitlines()
    assert "papers: model org/m, reads /in /x, writes /out" in lines[0]
    assert any("0 of 30 documents" in line for line in lines[1:])


def test_ok_and_failed_of_earlier_runs_are_counted_apart():
    progress = Progress(total=30, ok=9, failed=1, skipped=10, skipped_failed=3, seconds=20.0)
    assert "10 of 20 documents, 1 failed, 10 done before (7 ok, 3 failed), ETA 20.0s" in shown(
        [Event("start", progress)]
    )


def test_a_source_that_cannot_count():
    assert "10 documents, 1 failed, 10 done before, ETA -" in shown(
        [Event("start", Progress(**(vars(HALFWAY) | {"total": None})))]
    )


def test_live_lines_fit_80_columns():
    drawn = shown([Event("document", HALFWAY)], terminal=True, width=80)
    assert "papers" in drawn
    assert "10 of 20 documents" in drawn
    assert "kept 25.0%" in drawn
    assert "…" not in drawn


def test_json_lines(capsys):
    row = DocumentRow(result={"doc_id": "a", "status": "failed", "error_type": "DocumentError"}, memory={})
    with show_progress("papers", Console(file=io.StringIO()), as_json=True) as on_event:
        notice = Event(
            "notice", Progress(), message="rows", details={"job": "a", "changes": [{"path": "policy.window"}]}
        )
        for event in (
            notice,
            Event("start", Progress(total=30)),
            Event("tick", HALFWAY),
            Event("stage", HALFWAY, message="starting a replica"),
            Event("document", HALFWAY, row),
        ):
            on_event(event)
    told, start, stage, document = map(json.loads, capsys.readouterr().out.splitlines())
    assert (told["event"], told["message"], told["job"]) == ("notice", "rows", "a")
    assert told["changes"] == [{"path": "policy.window"}]
    assert (start["event"], start["total"], start["eta_s"], start["left"]) == ("start", 30, None, 30)
    assert (document["skipped"], document["skipped_ok"], document["skipped_failed"]) == (10, 10, 0)
    assert (stage["event"], stage["message"]) == ("stage", "starting a replica")
    assert (document["event"], document["doc_id"], document["status"]) == ("document", "a", "failed")
    assert (document["tokens_per_s"], document["bytes_saved"], document["kept_ratio"]) == (1550.0, 3 * 2**30, 0.25)
