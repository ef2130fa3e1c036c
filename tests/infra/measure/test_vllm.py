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
    """One token a step for every request; a prompt's first token takes a step of its own."""

    def __init__(self, blocks=41, block_size=16):
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=blocks, block_size=block_size))
        self.live, self.most, self.added = {}, 0, []

    def add_request(self, name, prompt, sampling):
        self.added.append((len(prompt["prompt_token_ids"]), sampling.max_tokens))
        self.live[name] = sampling.max_tokens
        self.most = max(self.most, len(self.live))

    def step(self):
        time.sleep(0.001)
        outputs = []
        for name in list(self.live):
            self.live[name] -= 1
            finished = self.live[name] == 0
            outputs.append(SimpleNamespace(finished=finished, outputs=[SimpleNamespace(token_ids=[7])]))
            if finished:
                del self.live[name]
        return outputs


@pytest.fixture
def vllm(monkeypatch):
    """A module `vllm` whose LLM notes what it was made with."""
    made = SimpleNamespace(engine=Counting(), options=None, config=None)

    def llm(folder, **options):
        made.options = options
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


def test_tokens_that_do_not_come_are_an_error(vllm, tmp_path):
    vllm.engine.step = lambda: [
        SimpleNamespace(finished=True, outputs=[SimpleNamespace(token_ids=[])]) for _ in range(len(vllm.engine.live))
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
