import time

import pytest

from corm_batch.data.yaml_text import load_yaml
from corm_batch.errors import SpecError

LAUGHS = "\n".join(["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
MERGES = "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], y{n}: 1}}" for n in range(1, 40))])


def test_values_and_aliases_are_read():
    assert load_yaml("a: &x {b: [1, two]}\nc: *x\nd: {<<: *x, e: 3}", "spec") == {
        "a": {"b": [1, "two"]}, "c": {"b": [1, "two"]}, "d": {"b": [1, "two"], "e": 3}}  # fmt: skip
    assert load_yaml("", "spec") is None
    assert load_yaml("[0xFF, -9223372036854775808, 18446744073709551615]", "spec") == [255, -(2**63), 2**64 - 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases stand for more than"),
        (MERGES, "aliases stand for more than"),
        ("a: &a " + "x" * 1000 + "\nb: [" + "*a, " * 5000 + "]", "aliases stand for more than"),
        ("a: &a [*a]", "an alias stands inside what it stands for"),
        ("a: &a {b: *a}", "an alias stands inside what it stands for"),
        ("a: " + "x" * (1 << 20), "1,048,579 characters, of which there may be"),
        ("[" * 100_000, "no valid YAML: RecursionError"),
        ("a: 1\na: 2", "a given twice"),
        ("a: !!python/object:os.system x", "no valid YAML: ConstructorError"),
        ("a: b: c", "no valid YAML: ScannerError"),
        ("a: " + "9" * 5000, "no valid YAML: ValueError"),
        ("a: 0x" + "f" * 5000, "no valid YAML: ConstructorError: a whole number of more than 64 bits"),
        ("a: [-1" + "0" * 30 + "]", "a whole number of more than 64 bits"),
        ("---\na: 1\n---\nb: 2", "no valid YAML: ComposerError"),
    ],
    ids=range(14),
)
def test_what_is_no_yaml_or_too_large_is_refused_at_once(text, said):
    began = time.process_time()
    with pytest.raises(SpecError, match=f"spec: .*{said}"):
        load_yaml(text, "spec")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text", ["{{ text }} Sum up.", "task: {name: prompt, template: {{ text }}}", "a: 1\nb: {{ c }}"]
)
def test_a_template_without_quotes_is_told_to_stand_in_some(text):
    with pytest.raises(SpecError, match=r'has to stand in quotes: template: "{{ text }}"$'):
        load_yaml(text, "job.yaml")


def test_a_variable_without_quotes_in_a_flow_mapping_is_told_to_stand_in_some():
    hint = 'Within { } a text that holds ${NAME} has to stand in quotes: {uri: "${NAME}/inbox"}'
    with pytest.raises(SpecError) as caught:
        load_yaml("source: {uri: s3://${BUCKET}/x}", "spec")
    assert str(caught.value).endswith(f"\n{hint}")
    with pytest.raises(SpecError) as caught:
        load_yaml('source: {uri: "${BUCKET}" {}', "spec")
    assert hint not in str(caught.value)
    assert load_yaml("uri: s3://${BUCKET}/x", "spec") == {"uri": "s3://${BUCKET}/x"}


def test_many_keys_take_no_time():
    began = time.process_time()
    assert len(load_yaml("\n".join(f"k{n}: {n}" for n in range(20_000)), "spec")) == 20_000
    assert time.process_time() - began < 20
