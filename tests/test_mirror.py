"""Tests stand where what they test stands: tests/<room>/test_x.py tests corm_batch/<room>/x.py, and so in infra."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
WHOLE = {
    "cli/test_cli.py": "all verbs: exit codes, help, no traceback",
    "data/sources/test_hostile_parquet.py": "hostile files against one source",
    "data/test_faults.py": "a store that fails, under all of data/",
    "ops/kernels/test_compiling.py": "what all kernels of a pass over prompts are compiled for",
    "engine/test_corm_oracle.py": "CORM in the engine against a literal definition",
    "engine/test_cuda.py": "the whole engine on a GPU against the CPU",
    "engine/test_families.py": "one model of every family against transformers",
    "engine/test_leaving.py": "tokens that leave later layers, under every kind of policy",
    "engine/test_published_policies.py": "published policies in the engine against literal definitions",
    "engine/test_score.py": "scoring an answer: every file a score passes through, against transformers",
    "engine/test_scoring_policies.py": "policies that score in the engine against literal definitions",
    "engine/test_uncompressed.py": "requests that keep everything, beside others: every file one passes through",
    "budgets/test_budgets.py": "what every budget has to hold",
    "storage/test_storage.py": "what every form of storage has to hold, alone and in the engine",
    "policies/test_policies.py": "what every policy has to hold",
    "kv/test_uneven.py": "a cache of layers whose entries are of different widths, against one for each",
    "pipeline/test_exactly_once.py": "a job whose processes are killed",
    "pipeline/test_faulty_store.py": "a job whose store fails",
    "report/page/test_browser.py": "the page in a browser",
    "infra/test_scripts.py": "no Python: quickstart.sh, test.sh",
    "infra/deploy/test_dockerfile.py": "no Python: Dockerfile",
    "infra/deploy/test_manifests.py": "no Python: compose, KubeRay, Prometheus, Grafana, the file of `ray up`",
    "infra/deploy/test_metrics.py": "no Python: rules and dashboard against a live job",
    "infra/deploy/test_promql.py": "promql.py beside it, which the others read rules with",
}
"""Tests of more, or of less, than one file, and of what; `jobs/` holds no code."""
FILES = [path.relative_to(TESTS) for path in sorted(TESTS.rglob("test_*.py"))]


def test_what_is_tested_is_where_its_test_says():
    for path in FILES:
        if len(path.parts) > 1 and path.parts[0] != "jobs":
            base = ROOT if path.parts[0] == "infra" else ROOT / "corm_batch"
            tested = base / path.parent / path.name.removeprefix("test_")
            assert tested.exists() != (path.as_posix() in WHOLE), f"{path} tests {tested}, or WHOLE says what it tests"


def test_rooms_of_tests_are_rooms_of_the_package():
    rooms = {path.parts[0] for path in FILES if len(path.parts) > 1} - {"infra", "jobs"}
    assert rooms <= {path.name for path in (ROOT / "corm_batch").iterdir() if path.is_dir()}
    assert set(WHOLE) <= {path.as_posix() for path in FILES}
