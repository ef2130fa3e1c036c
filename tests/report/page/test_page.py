"""The page as a browser gets it: well formed, nothing fetched, nothing escaped from, figures as in the report."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from corm_batch.evaluation.expected import Missed, Scores
from corm_batch.report.page import frame, page
from corm_batch.report.totals import compared_rows, totals_rows
from corm_batch.report.units import bytes_text, percent_text, seconds_text
from tests.outputs import answered, commit, failed

VOID = {"meta", "rect", "circle", "line", "polyline", "polygon"}  # SVG's are written as empty elements
PARTS = ["totals", "answers", "comparison", "memory", "layers", "length", "throughput", "failures", "slowest"]


@dataclass
class Table:
    heads: list = field(default_factory=list)
    rows: list = field(default_factory=list)


class Page(HTMLParser):
    """Tags with their attributes, tables by section, and what is not closed."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.tables, self.texts, self.section = [], [], {}, {}, ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID or tag == "meta":
            self.open.append(tag)
        if tag == "meta":
            self.open.pop()
        self.section = attributes["id"] if tag == "section" else self.section
        if tag == "table":
            self.tables.setdefault(self.section, []).append(Table())
        elif tag == "tr" and "tbody" in self.open:
            self.tables[self.section][-1].rows.append([])
        elif tag in ("td", "th"):
            table = self.tables[self.section][-1]
            (table.rows[-1] if "tbody" in self.open else table.heads).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts[self.open[-1] if self.open else ""] = self.texts.get(self.open[-1] if self.open else "", "") + data
        if {"td", "th"} & set(self.open) and "title" not in self.open:
            table = self.tables[self.section][-1]
            cells = table.rows[-1] if "tbody" in self.open else table.heads
            cells[-1] += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture
def parsed(render, hostile):
    content, figures, details, comparison = render(*hostile)
    return Page(content), figures, details, comparison


def test_it_is_well_formed_and_every_link_stays_on_it(parsed):
    found = parsed[0]
    assert found.open == []
    ids = found.attributes("id")
    assert ids == [*PARTS]
    assert found.attributes("href") == [f"#{part}" for part in PARTS]
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"img", "iframe", "object", "embed", "link", "base", "form", "image", "use", "foreignobject"}
    assert [tag for tag, _ in found.tags].count("script") == 1


def test_nothing_is_fetched_and_no_text_becomes_markup(parsed, render, hostile):
    found = parsed[0]
    names = {name for _, attributes in found.tags for name in attributes}
    assert not names & {"src", "srcset", "action", "data", "background", "poster", "style", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    for part in ("page.css", "page.js"):
        assert "url(" not in (frame._HERE / part).read_text()
        assert "import" not in (frame._HERE / part).read_text()
    assert found.texts["script"] == (frame._HERE / "page.js").read_text()
    assert found.texts["style"] == (frame._HERE / "page.css").read_text()
    (policy,) = [value for value in found.attributes("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    content = render(*hostile)[0]
    assert "\x00" not in content
    assert "\u202e" not in content
    assert content.count("<script") == 1


def test_every_chart_has_a_name_for_who_cannot_see_it(parsed):
    found = parsed[0]
    drawn = [attributes for tag, attributes in found.tags if tag == "svg"]
    named = [attributes for attributes in drawn if attributes.get("role") == "img"]
    assert len(named) == 7  # comparison, sizes, savings, layers, lengths, documents and tokens a minute
    assert all(attributes.get("aria-hidden") == "true" for attributes in drawn if attributes not in named)


def test_totals_are_those_of_the_terminal(parsed):
    found, figures, _, comparison = parsed
    assert found.tables["totals"][0].rows == [list(row) for row in totals_rows(figures)]
    counts, sides, pairs = found.tables["comparison"]
    assert dict(counts.rows)["in both: answer differs"] == "25"
    assert dict(counts.rows)["only there"] == "1"
    assert sides.rows == [list(row) for row in compared_rows(comparison)]
    assert len(pairs.rows) == comparison.shared


def test_rows_are_those_of_the_figures(parsed):
    found, _, details, comparison = parsed
    (documents,) = found.tables["memory"]
    assert documents.heads[:2] == ["document", "tokens read"]
    longest = details.documents[-1]
    assert documents.rows[0][1:] == [
        "1,049",
        "10",
        bytes_text(longest.kv_bytes_full),
        bytes_text(longest.kv_bytes_peak),
        percent_text(longest.saved_ratio),
        percent_text(longest.kept_ratio),
        seconds_text(longest.prefill_s),
        seconds_text(longest.decode_s),
    ]
    assert documents.rows[0][0].startswith("</title></script></style><script>")
    (layers,) = found.tables["layers"]
    assert layers.rows == [["0", "10.0%", "10.0%", "10.0%"], ["1", "30.0%", "30.0%", "30.0%"]]
    (slowest,) = found.tables["slowest"]
    assert slowest.rows[0][3:] == ["3.0s", "49.0s", "1.0s", "53.0s"]
    (failures,) = found.tables["failures"]
    assert failures.rows[0][1:] == ["1", "f"]
    assert found.tables["comparison"][2].rows[1][1:4] == [
        "answer differs",
        *(page.outcome_text(side, 120) for side in (comparison.documents[1].here, comparison.documents[1].there)),
    ]


def test_answers_with_their_job_and_model(render, tmp_path):
    spec = "{model: {name: meta/llama}, task: {name: summarize, max_new_tokens: 10}}"
    metadata = {"corm_batch.job": "papers", "corm_batch.spec": spec}
    rows = [answered("a", output="First.\n\nSecond \x1b[1m<b>."), answered("b", finish_reason="length")]
    commit(tmp_path, [*rows, failed("c", output='{"half')], metadata=metadata)
    content = render(str(tmp_path))[0]
    found = Page(content)
    assert [row[0:2] for row in found.tables["answers"][0].rows] == [["a", "ok"], ["b", "cut off"], ["c", "failed"]]
    assert [row[3] for row in found.tables["answers"][0].rows] == [
        "First.\n\nSecond  [1m<b>.",
        "answer to b",
        'DocumentError: is empty | {"half',
    ]
    assert [cell for row in found.tables["totals"][0].rows[:3] for cell in row] == [
        *("job", "papers"),
        *("model", "meta/llama"),
        *("task", "summarize"),
    ]
    assert "cut off: 1 document with an answer that task.max_new_tokens ended" in content


def test_settings_of_several_specs_and_of_two_outputs(render, tmp_path):
    for number, (place, window) in enumerate((("here", 64), ("here", 128), ("there", 64))):
        metadata = {"corm_batch.spec": f"{{policy: {{name: corm, window: {window}}}}}"}
        commit(tmp_path / place, [answered(str(number))], number=number, metadata=metadata)
    found = Page(render(str(tmp_path / "here"), str(tmp_path / "there"))[0])
    values = "128 (1 document), 64 (1 document)"
    assert found.tables["totals"][1].rows == [["policy.window", values]]
    assert found.tables["comparison"][2].rows == [["policy.window", values, "64"]]


def test_cells_of_numbers_can_be_sorted_by_value(render, tmp_path):
    found = Page(render(commit(tmp_path, [answered("a"), answered("b", prefill_s=None)]))[0])
    values = [attributes["data-value"] for _, attributes in found.tags if "data-value" in attributes]
    assert all(float(value) == float(value) for value in values)
    assert values.count("-Infinity") == 1  # the time that is not known
    assert str(8 * 2**20) in values


def test_an_output_of_failures_alone(render, tmp_path):
    content = render(commit(tmp_path, [failed("a"), failed("b", "CapacityError", "too long")]))[0]
    found = Page(content)
    assert "memory" not in found.tables
    assert "slowest" not in found.tables
    assert [table.rows for table in found.tables["failures"]] == [[["too long", "1", "b"]], [["is empty", "1", "a"]]]
    assert "No answered document has memory figures." in content
    assert "comparison" not in found.attributes("id")


def test_an_output_without_failures_and_models_of_different_depth(render, tmp_path):
    content = render(commit(tmp_path, [answered("a"), answered("b", kept_per_layer=[1])], run_id="run-1"))[0]
    assert "No document failed." in content
    assert "no layers in common" in content
    assert "No time is known between the parts." in content


def test_outputs_without_a_common_document(render, tmp_path):
    here, there = commit(tmp_path / "here", [answered("a")]), commit(tmp_path / "there", [answered("b")])
    counts, sides = Page(render(here, there)[0]).tables["comparison"]
    assert counts.rows[:3] == [["only here", "1"], ["only there", "1"], ["in both", "0"]]
    assert sides.rows[0] == ["KV bytes full", "0 B", "0 B"]


def test_the_page_of_very_many_documents_is_bounded(render, tmp_path):
    for number in range(20):
        rows = [answered(f"{'long ' * 40}{number}-{row}", prompt_tokens=100 + row) for row in range(1000)]
        rows += [failed(f"f{number}-{row}", f"E{row}", f"{'why ' * 400} {chr(97 + row)}") for row in range(26)]
        commit(tmp_path, rows, number=number, after_s=60 * number + 60)
    content = render(str(tmp_path))[0]
    assert len(content) < 1_500_000
    (documents,) = Page(content).tables["memory"]
    assert len(documents.rows) == 1000
    assert "1,000 of 20,000 documents are shown, evenly spread over their lengths." in content
    assert "6 rarer error types are not shown." in content


def test_it_is_the_same_every_time(render, hostile):
    assert render(*hostile)[0] == render(*hostile)[0]


def test_documents_that_differ_are_listed_with_what_became_of_them(render, tmp_path):
    otherwise = {"verified": True, "first_difference": 7, "logprob_full": -0.5, "logprob_kept": -0.25, "rerun": False}
    otherwise |= {"largest_gap": 2.5, "verify_share": 1.0}
    rows = [answered("alike", verified=True, agreement=1.0, verify_share=1.0, rerun=False)]
    rows += [
        answered("little", agreement=0.9, **otherwise),
        answered("much", agreement=0.2, **otherwise | {"rerun": True}),
    ]
    rows += [answered("<b>", verify_error="<i>no room", verify_share=1.0)]
    content = render(commit(tmp_path, rows))[0]
    found = Page(content)
    (table,) = found.tables["verification"]
    assert table.rows == [
        ["much", "20.0%", "7", "2.500", "-0.500", "-0.250", "answered again without eviction"],
        ["little", "90.0%", "7", "2.500", "-0.500", "-0.250", "flagged"],
        ["<b>", "-", "-", "-", "-", "-", "<i>no room"],
    ]
    assert {row[0]: row[1] for row in found.tables["answers"][0].rows} == {
        **{"alike": "ok", "little": "full cache differs", "much": "answered again", "<b>": "not verified"}
    }
    said = "Verified 3 of 4; 2 would have been answered otherwise; 1 answered again without eviction; 1 could not be"
    assert said in content
    assert "#verification" in found.attributes("href")


def test_a_page_without_verification_has_no_word_of_it(parsed):
    assert "verification" not in parsed[0].attributes("id")


def test_what_was_missed_is_a_table_of_its_own(render, hostile):
    missed = (Missed(hostile[0], "<b>", "</td><script>", "x", 0.5),)
    scores = Scores("right", "exact", "f1", 31, {"exact": 0.9, "contains": 1, "f1": 0.95, "rouge_l": 0.9}, 3, missed, 2)
    found = Page(render(*hostile, scores)[0])
    assert found.open == []
    assert "#expected" in found.attributes("href")
    facts, listed = found.tables["expected"]
    assert facts.rows[0][1].startswith("against right: 28 of 31 exact (90.3%), 31 contain it (100.0%), mean F1 0.950")
    assert listed.heads == ["document", "about", "expected", "answered", "F1"]
    assert [row[1:] for row in listed.rows] == [["<b>", "</td><script>", "x", "0.500"]]
