import json

from corm_batch.cli.spec_fields import fields_text


def test_the_schema_and_the_table_are_printed(corm_batch):
    printed = json.loads(corm_batch("schema").out)
    assert printed["title"] == "corm-batch job"
    assert {"Source", "Task", "KVPolicy"} < set(printed["$defs"])
    assert corm_batch("schema", "--markdown").out == fields_text()
