"""What the workloads are: published parameter counts, bytes a token, the policy of each engine."""

import pytest

from corm_batch.bench.workload import WORKLOADS, find_workload
from corm_batch.errors import SpecError


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [("llama2-7b-4k", 6_738_415_616, 524_288), ("llama3.1-8b-4k", 8_030_261_248, 131_072)],
)
def test_shapes_are_those_of_the_published_models(name, parameters, kv_bytes):
    workload = WORKLOADS[name]
    embedding = workload.model.vocab_size * workload.model.hidden_size
    assert workload.model.step_parameters + embedding == parameters
    assert workload.kv_bytes_per_token == kv_bytes


def test_prompt_parameters_are_the_products_of_all_layers(small):
    # q 64 x 64, k and v 64 x 32 each, output 64 x 64, three of the MLP 64 x 128
    assert small.model.prompt_parameters == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)


def test_every_policy_is_valid_and_generate_has_none():
    for workload in WORKLOADS.values():
        assert workload.policy("corm").budget.max_kept == workload.max_kept < workload.prompt_tokens
        assert workload.policy("full").budget_at(0) is None
        assert workload.policy("generate") is None


def test_counts_can_be_changed():
    workload = find_workload("llama2-7b-16k", documents=3, max_kept=512)
    assert (workload.documents, workload.max_kept, workload.prompt_tokens) == (3, 512, 16384)
    assert find_workload("llama2-7b-16k") == WORKLOADS["llama2-7b-16k"]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(SpecError, match=r"no 'llama9'; known: tiny-256, llama2-7b-4k"):
        find_workload("llama9")


def test_a_bound_below_recent_is_refused():
    with pytest.raises(SpecError, match="max_kept"):
        find_workload("llama2-7b-4k", max_kept=100).policy("corm")
