"""The README's table from results on disk."""

import json

import pytest

from infra.measure.performance_table import (
    beside_vllm,
    main,
    performance,
    read_results,
    read_vllm,
    replaced,
)

BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"


@pytest.fixture
def folder(tmp_path, make_result, make_row):
    """An old result, a newer one of full alone, one of another device, and files that are none."""
    later = make_result(date="2026-01-03T00:00:00+00:00", rows=[make_row("full", 4600.0)])
    results = {"a": later, "b": make_result(), "c": make_result(device="CPU")}
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(result.model_dump_json())
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "list.json").write_text("[1]")
    return tmp_path


def test_results_are_found_the_oldest_first(folder):
    assert list(read_results(folder)) == ["b.json", "c.json", "a.json"]


def test_table(folder):
    lines = performance(read_results(folder), {}).splitlines()
    assert lines[:2] == ["Card:", ""]
    rows = [line for line in lines if line.startswith("| `small`")]
    assert rows[0] == (
        "| `small` | exact | corm | 9,000 | 12.0k | 310 | 15.0k | 33.2 | 5 | 3.0 MiB | 25.0% | 1.0 GiB | 50.0% | - |"
    )
    assert rows[1].startswith("| `small` | exact | full | 4,600 |")
    assert rows[2] == "| `small` | exact | generate |" + " - |" * 11
    assert rows[3].endswith("| 50.0% | - |")
    assert rows[4].endswith("| 50.0% | 2.00x |")
    assert "small, generate: out of memory: 70 GiB." in "\n".join(lines)
    assert "* [b.json](b.json): `corm-batch bench --workload small`, 2026-01-02" in lines
    assert lines.index("CPU:") > lines.index(rows[2])


def test_what_vllm_does_stands_beside_it(folder):
    record = {"engine": "vllm 1.2", "device": "Card", "rows": [{"workload": "small", "documents_per_hour": 3000.0}]}
    (folder / "v.json").write_text(json.dumps(record))
    lines = performance(read_results(folder), read_vllm(folder)).splitlines()
    assert "Beside vllm 1.2 ([v.json](v.json); `infra/measure/vllm.py`):" in lines
    assert lines[-2:] == [
        "| `small` | bfloat16 | 3,000 | corm | exact | 9,000 | 3.00 |",
        "| `small` | bfloat16 | 3,000 | full | exact | 4,600 | 1.53 |",
    ]


def test_documents_an_hour_beside_vllm(folder):
    rows = [{"workload": "small", "documents_per_hour": 3000.0}, {"workload": "large", "documents_per_hour": 10.0}]
    (folder / "v.json").write_text(json.dumps({"engine": "vllm 1.2", "device": "Card", "rows": rows}))
    lines = beside_vllm(read_results(folder), read_vllm(folder)).splitlines()
    assert lines[2:] == [
        "| `small` | bfloat16 | 3,000 | 9,000 | - | 3.00 |",
        "| `large` | bfloat16 | 10 | - | - | - |",
    ]


def test_forms_are_rows_of_their_own_and_stand_beside_their_like(folder, make_result, make_row):
    both = {"weights": "fp8", "storage": "fp8"}
    rows = [make_row("corm", 12000.0, weights="fp8"), make_row("corm", 10000.0, storage="fp8"),
            make_row("corm", 15000.0, **both)]  # fmt: skip
    later = make_result(date="2026-01-04T00:00:00+00:00", rows=rows)
    (folder / "d.json").write_text(later.model_dump_json())
    forms = [{"kv_dtype": "fp8"}, {"quantization": "fp8", "kv_dtype": "fp8"}, {"quantization": "fp8"}]
    rows = [{"workload": "small", "documents_per_hour": 6000.0, **form} for form in forms]
    (folder / "v.json").write_text(json.dumps({"engine": "vllm 1.2", "device": "Card", "rows": rows}))
    results, vllm = read_results(folder), read_vllm(folder)
    assert beside_vllm(results, vllm).splitlines()[2:] == [
        "| `small` | fp8 cache | 6,000 | 10,000 | - | 1.67 |",
        "| `small` | fp8 | 6,000 | 15,000 | - | 2.50 |",
        "| `small` | fp8 weights | 6,000 | 12,000 | - | 2.00 |",
    ]
    table = performance(results, vllm)
    assert "| `small` | exact | corm, fp8 weights | 12,000 |" in table
    assert "| `small` | fp8 | 6,000 | corm, fp8 weights, fp8 entries | exact | 15,000 | 2.50 |" in table


def test_what_lies_between_the_markers_is_replaced(folder, tmp_path):
    short, whole = tmp_path / "SHORT.md", folder / "README.md"
    for readme in (short, whole):
        readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        main(["--readme", str(short), "--results", str(folder)])
        for readme, first in ((short, "| workload | weights and cache of vLLM |"), (whole, "Card:\n")):
            text = readme.read_text()
            assert text.startswith(f"before\n{BEGIN}\n\n{first}")
            assert text.endswith(f"\n\n{END}\nafter\n")
            assert "old" not in text


@pytest.mark.parametrize("readme", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_markers_must_be_there_once(readme):
    with pytest.raises(ValueError, match="once each"):
        replaced(readme, "table")
