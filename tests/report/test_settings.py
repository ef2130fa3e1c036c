"""Which settings differ, inside an output and between two."""

from corm_batch.output.committed import JobSettings
from corm_batch.report.settings import SettingDifference, differences, values_of, values_text


def job(documents=1, name="j", **settings):
    return JobSettings(name, settings, documents)


def test_every_setting_that_differs_by_its_path():
    here = [job(policy={"name": "corm", "window": 64}, task={"schema": {"a": {"type": "number"}}}, same=[1, 2])]
    there = [job(policy={"name": "full"}, task={"schema": {"a": {"type": "string"}}}, same=[1, 2])]
    assert differences(here, there) == (
        SettingDifference("policy.name", ("corm", "full")),
        SettingDifference("policy.window", ("64", "-")),
        SettingDifference("task.schema.a.type", ("number", "string")),
    )


def test_several_specs_in_one_output():
    here = [job(12, policy={"window": 64}), job(3, policy={"window": 128}), job(9, "old")]
    there = [job(5, policy={"window": 64}, output={"uri": "x"})]
    assert differences(here) == (SettingDifference("policy.window", ("64 (12 documents), 128 (3 documents)",)),)
    assert differences(here, there) == (
        SettingDifference("policy.window", ("64 (12 documents), 128 (3 documents)", "64")),
    )
    assert differences(there) == differences([job(9, "old")]) == ()


def test_one_setting_and_how_many_documents_have_each_value():
    jobs = [job(2, model={"name": "a"}), job(3, model={"name": "b"}), job(1, model={"name": "a"}), job(1)]
    assert values_of(jobs, "model", "name") == [("a", 3), ("b", 3)]
    assert values_text(values_of(jobs, "model", "name")) == "a (3 documents), b (3 documents)"
    assert values_text([]) == "-"
