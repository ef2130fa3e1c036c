"""The measurement of vLLM beside an engine that counts: who runs when, what is added up, what is asked for."""

import json
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from corm_batch.bench.workload import WORKLOADS
from infra.measure.performance_table import performance, read_vllm
from infra.measure.vllm import GRAPH_SIZES, MOST, hf_config, main, step_ms


class Counting:
    """One token a step for every request. A prompt's whole blocks are found again where they are cached."""

    def __init__(self, blocks=41, block_size=16):
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=blocks, block_size=block_size))
        self.live, self.cached, self.added = {}, {}, []

    def add_request(self, name, prompt, sampling):
        ids, size = prompt["prompt_token_ids"], self.vllm_config.cache_config.block_size
        self.added.append((len(ids), sampling.max_tokens))
        self.live[name] = sampling.max_tokens
        whole = [tuple(ids[:stop]) for stop in range(size, len(ids) + 1, size)]
        self.cached[name] = size * sum(beginning in self.known for beginning in whole)
        self.known |= set(whole if self.caching else ())

    def step(self):
        time.sleep(0.001)
        outputs = []
        for name in list(self.live):
            self.live[name] -= 1
            finished = self.live[name] == 0
            found = {"request_id": name, "num_cached_tokens": self.cached[name]}
            outputs.append(SimpleNamespace(finished=finished, outputs=[SimpleNamespace(token_ids=[7])], **found))
            if finished:
                del self.live[name]
        return outputs


@pytest.fixture
def vllm(monkeypatch):
    """A module `vllm` whose LLM notes what it was made with."""
    made = SimpleNamespace(engine=Counting(), options=None, config=None)

    def llm(folder, **options):
        made.options = options
        made.engine.known, made.engine.caching = set(), options["enable_prefix_caching"]
        with open(f"{folder}/config.json") as file:
            made.config = json.load(file)
        return SimpleNamespace(llm_engine=made.engine)

    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.LLM, module.SamplingParams, module.__version__ = llm, SimpleNamespace, "0.0"
    params.RequestOutputKind = SimpleNamespace(DELTA="delta")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return made


def test_as_many_documents_as_fit_run_at_once_and_all_are_counted(vllm, tmp_path):
    """18 blocks of 16 tokens a document, 40 of them: two at a time."""
    main(["--workload", "tiny-256", "--documents", "5", "--output", str(tmp_path / "a.json")])
    record = json.loads((tmp_path / "a.json").read_text())
    (row,) = record["rows"]
    assert (row["documents"], row["documents_in_flight"]) == (5, 2)
    assert row["documents_per_hour"] == pytest.approx(3600 * 5 / row["wall_s"], rel=0.05)
    assert (row["quantization"], row["kv_dtype"]) == (None, "auto")
    assert vllm.engine.added[-5:] == [(256, 32)] * 5
    assert record["engine"] == "vllm 0.0"
    assert vllm.config["num_key_value_heads"] == WORKLOADS["tiny-256"].model.num_kv_heads
    assert vllm.options["max_model_len"] == 288
    assert (vllm.options["quantization"], vllm.options["kv_cache_dtype"]) == (None, "auto")
    assert performance({}, read_vllm(tmp_path)).startswith("Beside vllm 0.0 ([a.json]")


def test_forms_are_gathered_in_one_file_each_with_two_full_pools(vllm, tmp_path):
    output, forms = tmp_path / "a.json", [[], ["--kv-dtype", "fp8"], ["--quantization", "fp8", "--kv-dtype", "fp8"]]
    for form in [*forms, ["--quantization", "fp8-stored"], forms[0]]:
        main(["--workload", "tiny-256", "--output", str(output), *form])
        stored = form == ["--quantization", "fp8-stored"]
        assert ("quantization_config" in vllm.config) == stored
        assert vllm.options["quantization"] == ("fp8" if "fp8" in form[:2] and "--quantization" in form else None)
    rows = json.loads(output.read_text())["rows"]
    assert [(row["quantization"], row["kv_dtype"]) for row in rows] == [
        (None, "fp8"), ("fp8", "fp8"), ("fp8-stored", "auto"), (None, "auto"),
    ]  # fmt: skip
    assert {(row["documents"], row["documents_in_flight"], row["pool_documents"]) for row in rows} == {(4, 2, 2)}


def test_rows_of_another_device_are_not_kept(vllm, tmp_path):
    output = tmp_path / "a.json"
    output.write_text(json.dumps({"device": "Card", "engine": "vllm 0.0", "rows": [{"workload": "tiny-256"}]}))
    main(["--workload", "tiny-256", "--output", str(output)])
    assert [row["documents"] for row in json.loads(output.read_text())["rows"]] == [4]


def test_questions_of_a_document_stand_together_and_its_blocks_count_once(vllm, tmp_path):
    """16 blocks of a document and 5 of each question's own: 40 hold one document, 57 would hold two apart."""
    command = ["--workload", "tiny-256:16", "--questions", "3", "--question-tokens", "50", "--quantization", "fp8"]
    vllm.engine.vllm_config.cache_config.num_gpu_blocks = 2 * (16 + 3 * 5) + 1
    main([*command, "--output", str(tmp_path / "a.json")])
    record = json.loads((tmp_path / "a.json").read_text())
    (row,) = record["rows"]
    assert vllm.options["enable_prefix_caching"]
    assert vllm.options["max_model_len"] == 256 + 50 + 16
    assert vllm.engine.added[-12:] == [(306, 16)] * 12
    assert (row["documents"], row["documents_in_flight"], row["pool_documents"], row["pool_tokens"]) == (4, 2, 2, 992)
    assert (row["prompts_in_flight"], row["questions"], row["answer_tokens"]) == (6, 3, 16)
    assert (row["tokens_cached"], row["tokens_read"]) == (4 * 2 * 256, 4 * (256 + 3 * 50))
    assert row["documents_per_hour"] == pytest.approx(3600 * 4 / row["wall_s"], rel=0.05)
    assert row["workload"] == "tiny-256:16"
    assert read_vllm(tmp_path) == {}  # no row of a document that is one prompt

    main(["--workload", "tiny-256", "--output", str(tmp_path / "a.json")])
    assert not vllm.options["enable_prefix_caching"]
    assert [row["workload"] for row in read_vllm(tmp_path)["a.json"]["rows"]] == ["tiny-256"]


def test_several_shapes_of_one_start_share_no_document(vllm, tmp_path):
    command = ["--workload", "tiny-256:4", "--workload", "tiny-256:8", "--questions", "2", "--documents", "3"]
    main([*command, "--output", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(row["workload"], row["tokens_cached"]) for row in rows] == [("tiny-256:4", 768), ("tiny-256:8", 768)]


def test_documents_that_the_cache_has_seen_before_are_an_error(vllm, tmp_path, monkeypatch):
    monkeypatch.setattr("infra.measure.vllm.random_prompts", lambda *_: [[7] * 256] * 3)
    with pytest.raises(RuntimeError, match="more than a document's prompts share"):
        main(["--workload", "tiny-256:4", "--questions", "2", "--output", str(tmp_path / "a.json")])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (["--workload", "tiny-256:x"], "expected a number of answer tokens behind the colon, got 'x'"),
        (["--workload", "tiny-256:0"], "got '0'"),
        (["--workload", "tiny-256:"], "got ''"),
        (["--workload", "small"], "there is no 'small'"),
        (["--workload", "tiny-256", "--questions", "1"], "--questions: two or more"),
    ],
)
def test_what_cannot_be_asked_is_refused(vllm, tmp_path, capsys, changed, problem):
    with pytest.raises(SystemExit):
        main([*changed, "--output", str(tmp_path / "a.json")])
    assert problem in capsys.readouterr().err


def test_tokens_that_do_not_come_are_an_error(vllm, tmp_path):
    vllm.engine.step = lambda: [
        SimpleNamespace(finished=True, request_id=name, num_cached_tokens=0, outputs=[SimpleNamespace(token_ids=[])])
        for name in [f"{place}:0" for place in range(len(vllm.engine.live))]
    ]
    with pytest.raises(RuntimeError, match="0 tokens came, 8 were asked for"):
        main(["--workload", "tiny-256", "--output", str(tmp_path / "a.json")])


def test_models_are_measured_one_at_a_time(vllm, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--workload", "llama2-7b-4k", "--workload", "llama3.1-8b-4k", "--output", str(tmp_path / "a.json")])
    assert "of one model" in capsys.readouterr().err


def test_a_step_is_timed_between_two_of_the_largest_batch():
    assert step_ms([(0.0, 2), (0.5, 4), (0.6, 4), (0.9, 4), (1.0, 1)]) == (4, 200.0)
    assert step_ms([(0.0, 2), (1.0, 1)]) == (2, None)


def test_every_batch_has_a_graph_and_the_config_is_a_llama():
    assert max(GRAPH_SIZES) == MOST
    assert hf_config(WORKLOADS["llama3.1-8b-4k"].model, 5000)["rope_theta"] == 500000.0
