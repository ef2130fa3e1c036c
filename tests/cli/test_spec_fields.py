"""The table of fields: current, whole, and Markdown that shows as it is meant."""

from corm_batch.cli.spec_fields import fields_text
from corm_batch.cli.spec_schema import spec_schema
from tests.conftest import ROOT


def test_the_document_is_current():
    made = "corm-batch schema --markdown > jobs/FIELDS.md makes it anew"
    assert (ROOT / "jobs/FIELDS.md").read_text(encoding="utf-8") == fields_text(), made


def test_every_field_is_in_it_in_rows_of_six_cells():
    text = fields_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row.replace("\\|", "").split("|")) == 8 for row in rows)
    named = {row.split("`")[1] for row in rows}
    for section in (spec_schema(own=False), *spec_schema(own=False)["$defs"].values()):
        assert {name for name, field in section.get("properties", {}).items() if "const" not in field} <= named
    assert "| `max_new_tokens` | integer from 1 | `256` | tokens | `256` | tokens of one answer at most |" in rows
    assert '| `uri` | string |  |  | `"s3://bucket/summaries/"` | a folder, local or s3:// |' in rows
