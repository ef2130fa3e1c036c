"""The engine as its callers see it: parity with transformers on real documents, figures, errors, sampling."""

from __future__ import annotations

import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import DocumentError, ModelLoadError, SpecError
from corm_batch.grammar.grammar import Grammar
from tests.conftest import REFERENCE_MODEL

DOCUMENTS = Path(__file__).parents[2] / "jobs" / "quickstart" / "documents.parquet"


def make(folder, policy=None, **config):
    policy = policy or {"name": "full"}
    fields = {"dtype": "float32", "device": "cpu", "kv_memory": "64MiB", **config}
    return Engine.from_pretrained(folder, policy=policy, **fields)


def run(engine, *requests):
    return {completion.id: completion for completion in engine.run(requests)}


@torch.no_grad()
def own_choices(model, prompt, answer):
    """transformers' greedy choice behind the prompt and each beginning of the answer, in one pass over both."""
    return model(torch.tensor([[*prompt, *answer[:-1]]]), logits_to_keep=len(answer)).logits[0].argmax(-1).tolist()


def test_twenty_real_documents_in_one_batch_equal_transformers_even_when_preempted():
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    texts = pq.read_table(DOCUMENTS, columns=["text"]).column("text").to_pylist()
    lengths = [40 + round(260 * (i / 19) ** 2) for i in range(20)]  # a long one costs many times a short one
    order = sorted(range(20), key=lambda i: i * 7 % 20)  # mixed: short ones between long ones
    prompts = {}
    for i in order:
        text = (texts[i % len(texts)] + texts[(i + 1) % len(texts)])[: lengths[i] * 8]
        prompts[str(i)] = tokenizer("<|document|>" + text, add_special_tokens=False)["input_ids"][: lengths[i]]
        assert len(prompts[str(i)]) == lengths[i]
    model = AutoModelForCausalLM.from_pretrained(REFERENCE_MODEL, dtype=torch.float32)
    engine = make(str(REFERENCE_MODEL), kv_memory="20MiB")  # a quarter of what they need together
    engine.scheduler.kept_ratio = 0.5  # expects too little, so that some have to go back to host memory
    sampling = SamplingParams(max_new_tokens=12, ignore_eos=True)
    answers = engine.run([Request(name, ids, sampling) for name, ids in prompts.items()])
    with ThreadPoolExecutor(1) as beside:  # the engine on one core, transformers on the other
        checked = [(one, beside.submit(own_choices, model, prompts[one.id], one.token_ids)) for one in answers]
    assert {one.id for one, _ in checked} == prompts.keys()
    assert sum(one.memory.preemptions for one, _ in checked) > 0
    for one, own in checked:
        assert len(one.token_ids) == 12
        assert list(one.token_ids) == own.result(), f"document {one.id}"


@pytest.mark.parametrize(
    "policy", [{"name": "full"}, {"name": "corm", "preset": "paper", "window": 16, "recent": 16, "tau": 2.0}]
)
def test_memory_figures_are_those_of_the_pages_held(policy, tiny_llama):
    engine = make(tiny_llama, policy, page_size=4)
    (answer,) = engine.run(
        [Request("a", [7, 3] * 50, SamplingParams(max_new_tokens=20, ignore_eos=True), return_kept_positions=True)]
    )
    memory, kept = answer.memory, answer.kept_positions
    entries = 119 * 2 * 2  # the last token is never fed
    page_bytes = 4 * (2 * 16 * 4 + 12)
    stored = [sum(len(head) for head in layer) for layer in kept]
    assert (memory.prompt_tokens, memory.output_tokens) == (100, 20)
    assert memory.kv_bytes_full == entries * 2 * 16 * 4
    assert memory.kept_per_layer == tuple(stored)
    assert memory.kept_ratio == sum(stored) / entries
    assert memory.evicted_entries == entries - sum(stored)
    assert memory.kv_bytes_final == sum(math.ceil(len(head) / 4) for layer in kept for head in layer) * page_bytes
    assert memory.kv_bytes_peak >= max(memory.kv_bytes_final, memory.kv_bytes_after_prefill)
    assert memory.kv_bytes_transient == 100 * 2 * 2 * 16 * 4
    assert min(memory.queue_s, memory.prefill_s, memory.decode_s) >= 0
    if policy["name"] == "full":
        assert memory.evicted_entries == memory.evicted_attention_mass == 0
    else:
        assert memory.evicted_entries > 0
        assert 0 < memory.evicted_attention_mass < 1


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_documents_share_the_time_of_the_steps_they_are_in(prefill, tiny_llama):
    """Of documents read in one pass the longer ones took more of it; together they took what the engine spent."""
    engine = make(tiny_llama, {"name": "full"}, prefill=prefill, chunk_size=64)
    sampling = SamplingParams(max_new_tokens=12, ignore_eos=True)
    answers = list(engine.run(Request(str(size), [5] * size, sampling) for size in (50, 100, 150, 200)))
    memory = {answer.id: answer.memory for answer in answers}
    stats = engine.stats
    assert 0 < sum(one.prefill_s for one in memory.values()) <= stats.prefill_s
    assert 0 < sum(one.decode_s for one in memory.values()) <= stats.decode_s
    assert memory["100"].prefill_s > memory["50"].prefill_s
    if prefill == "exact":
        assert memory["100"].prefill_s == pytest.approx(2 * memory["50"].prefill_s)
    for one in memory.values():
        assert one.elapsed_s + 1e-9 >= one.queue_s + one.prefill_s + one.decode_s


def test_evicted_attention_mass_is_the_attention_the_window_gave_to_what_left(tiny_llama):
    """Against the dense attention map of the last `window` rows of the prompt."""
    window, ids = 12, [(i * i + 3 * i) % 199 for i in range(60)]
    engine = make(tiny_llama, {"name": "corm", "preset": "paper", "window": window, "recent": window, "tau": 2.0})
    (answer,) = engine.run([Request("a", ids, SamplingParams(max_new_tokens=1), return_kept_positions=True)])
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    shares = []
    for attention, heads in zip(attentions, answer.kept_positions, strict=True):
        for head, kept in enumerate(heads):
            gone = [i for i in range(60) if i not in kept]
            group = attention[0, 2 * head : 2 * head + 2, -window:]
            shares.append(group[:, :, gone].sum(dim=-1).mean().item())
    assert answer.memory.evicted_attention_mass == pytest.approx(sum(shares) / len(shares), rel=1e-4)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_random_eviction_keeps_its_share_and_the_recent(prefill, tiny_llama):
    engine = make(
        tiny_llama, {"name": "random", "keep_ratio": 0.3, "recent": 10}, prefill=prefill, chunk_size=16, compact_every=1
    )
    sampling = SamplingParams(max_new_tokens=30, ignore_eos=True)
    again = Request("again", [9] * 300, sampling, return_kept_positions=True)
    answers = run(engine, Request("a", [9] * 300, sampling, return_kept_positions=True), again)
    kept = answers["a"].kept_positions
    assert kept == answers["again"].kept_positions
    assert kept[0][0] != kept[0][1] != kept[1][1]
    assert all(set(range(319, 329)) <= set(head) for layer in kept for head in layer)
    assert 0.2 < sum(len(head) - 10 for layer in kept for head in layer) / (319 * 4) < 0.4


def test_an_engine_let_go_of_is_gone_at_once_and_its_pages_with_it(tiny_llama):
    engine = make(tiny_llama, {"name": "h2o"})
    run(engine, Request("a", [7, 3] * 50, SamplingParams(max_new_tokens=2)))
    pages = weakref.ref(engine.cache.pool)
    gc.disable()  # the next engine's pages need the room, and nobody waits for the collector
    try:
        del engine
        assert pages() is None
    finally:
        gc.enable()


def test_requests_that_can_never_be_answered_come_back_with_the_reason(tiny_llama):
    engine = make(tiny_llama)
    answers = run(
        engine,
        Request("empty", []),
        Request("stranger", [1, 199]),
        Request("negative", [-1]),
        Request("long", [1] * 500, SamplingParams(max_new_tokens=20)),
        Request("fine", [1] * 492, SamplingParams(max_new_tokens=20)),
    )
    reasons = {name: str(answer.error) for name, answer in answers.items() if answer.finish_reason == "error"}
    assert set(reasons) == {"empty", "stranger", "negative", "long"}
    assert all(isinstance(answers[name].error, DocumentError) for name in reasons)
    assert "empty" in reasons["empty"]
    assert "0..198" in reasons["stranger"]
    assert all(number in reasons["long"] for number in ("500", "20", "520", "512"))
    assert len(answers["fine"].token_ids) == 20


def test_two_requests_of_one_id_are_refused(tiny_llama):
    engine = make(tiny_llama)
    engine.add(Request("a", [1]))
    with pytest.raises(ValueError, match="'a'"):
        engine.add(Request("a", [2]))


def test_an_answer_ends_at_end_of_sequence_at_a_stop_or_at_its_length(tiny_llama):
    free = SamplingParams(max_new_tokens=12, ignore_eos=True)
    engine = make(tiny_llama)
    whole = run(engine, Request("a", [5, 6, 7], free))["a"].token_ids
    assert len(whole) == 12
    third = whole[2]
    first = whole.index(third)
    engine.answers.model = type(engine.model)(**{**vars(engine.model), "eos_token_ids": frozenset([third])})
    answers = run(
        engine,
        Request("eos", [5, 6, 7], SamplingParams(max_new_tokens=12)),
        Request("ignored", [5, 6, 7], free),
        Request("stop", [5, 6, 7], free, stop=lambda output: len(output) == 5),
    )
    assert answers["eos"].token_ids == whole[: first + 1]
    assert answers["eos"].finish_reason == "stop"
    assert answers["ignored"].token_ids == whole
    assert answers["ignored"].finish_reason == "length"
    assert answers["stop"].token_ids == whole[:5]
    assert answers["stop"].finish_reason == "stop"


def test_sampled_text_depends_on_seed_and_id_but_not_on_neighbours(tiny_llama):
    def request(name, seed=0):
        return Request(name, [4] * 9, SamplingParams(max_new_tokens=15, temperature=1.0, top_p=0.9, seed=seed))

    alone = run(make(tiny_llama), request("a"))["a"]
    crowd = run(make(tiny_llama), request("b"), request("a"), request("c"))
    assert crowd["a"].token_ids == alone.token_ids
    assert crowd["a"].token_ids != crowd["b"].token_ids
    assert run(make(tiny_llama), request("a", seed=1))["a"].token_ids != alone.token_ids
    assert alone.mean_logprob < 0


def test_logits_that_are_not_numbers_fail_their_document_alone(tiny_llama):
    engine, sampling = make(tiny_llama), SamplingParams(max_new_tokens=5, ignore_eos=True)
    healthy = run(engine, Request("healthy", [1, 2, 3], sampling))["healthy"].token_ids
    poison = next(token for token in range(199) if token not in (1, 2, 3, *healthy))
    with torch.no_grad():
        engine.model.module.get_input_embeddings().weight[poison] = torch.nan
    answers = run(engine, Request("bad", [1, poison, 2], sampling), Request("good", [1, 2, 3], sampling))
    assert "finite" in str(answers["bad"].error)
    assert answers["good"].token_ids == healthy
    assert run(engine, Request("later", [1, 2, 3], sampling))["later"].token_ids == healthy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "model.dtype.*int8"),
        ({"page_size": 0}, "engine.page_size"),
        ({"pagesize": 3}, "engine.pagesize"),
        (
            {"policy": {"name": "corm", "preset": "paper", "recent": 9, "budget": {"name": "uniform", "max_kept": 8}}},
            "max_kept.*8.*recent.*9",
        ),
        ({"policy": {"name": "cormm"}}, "cormm[^:]*:(\n  .*)*\n  corm: "),
    ],
)
def test_wrong_settings_name_field_and_value(changes, message, tiny_llama):
    with pytest.raises(SpecError, match=message):
        make(tiny_llama, **changes)


def test_no_such_model(tmp_path):
    with pytest.raises(ModelLoadError, match=r"no folder.*nowhere"):
        make(str(tmp_path / "nowhere"))


def test_weights_that_cannot_be_read(tmp_path, tiny_llama):
    for file in Path(tiny_llama).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelLoadError, match="weights"):
        make(str(tmp_path))


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_log_probabilities_are_those_of_what_a_greedy_answer_goes_by(penalty, tiny_llama):
    """Also of a drawn answer, in any batch, with several tokens of an answer and over a reading."""
    engine, prompt = make(tiny_llama), [3, 5, 8, 13, 21, 34, 55]
    shared = {"max_new_tokens": 6, "presence_penalty": penalty}
    reading = engine.read(prompt[:-1])
    requests = [
        Request("greedy", prompt, SamplingParams(logprobs=3, **shared)),
        Request("drawn", prompt, SamplingParams(logprobs=0, temperature=2.0, **shared)),
        Request("over", prompt[-1:], SamplingParams(logprobs=2, temperature=2.0, seed=1, **shared), reading=reading),
        Request("silent", prompt, SamplingParams(temperature=2.0, seed=2, **shared)),
    ]
    done = run(engine, *requests)
    reading.close()
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert done["silent"].logprobs is None
    for name, count in (("greedy", 3), ("drawn", 0), ("over", 2)):
        answer = done[name].token_ids
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer[:-1]]]), logits_to_keep=6).logits[0]
        for place, told in enumerate(done[name].logprobs):
            logits[place, list(set(answer[:place]))] -= penalty
            expected = logits[place].log_softmax(-1)
            assert (told[0].token_id, len(told)) == (answer[place], 1 + count)
            assert [one.token_id for one in told[1:]] == expected.topk(count).indices.tolist()
            assert [one.logprob for one in told] == pytest.approx([expected[i].item() for i, _ in told], abs=1e-4)
        mean = sum(own.logprob for own, *_ in done[name].logprobs) / 6
        assert mean == pytest.approx(done[name].mean_logprob, abs=1e-9)
    assert done["greedy"].logprobs[0][0] == done["greedy"].logprobs[0][1]


def test_what_a_form_forbids_is_not_among_the_likeliest():
    engine = make(str(REFERENCE_MODEL))
    form = Grammar.of_choices(["yes"])
    (done,) = engine.run([Request("a", [5, 6, 7], SamplingParams(max_new_tokens=4, logprobs=5), grammar=form)])
    assert all(-math.inf < one.logprob <= 0 for told in done.logprobs for one in told)
    assert min(map(len, done.logprobs)) == 2  # itself, and itself as the only one allowed
