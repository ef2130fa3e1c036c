import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer
from infra.models.convert import convert


@pytest.fixture(scope="module")
def folder(write_gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert(write_gguf(folder / "tiny.gguf"), folder / "model")
    return folder / "model"


def test_the_weights_are_those_of_the_model_and_none_is_quantised_any_more(folder, original):
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert found.dtype == torch.bfloat16
    assert not hasattr(found.config, "quantization_config")
    assert found.generation_config.eos_token_id == 2
    own = dict(original.named_parameters())
    assert {name for name, _ in found.named_parameters()} == set(own)
    for name, weight in found.named_parameters():
        near = {"rtol": 0, "atol": 1e-3} if "mlp.down" in name else {"rtol": 0, "atol": 0}  # it was quantised
        torch.testing.assert_close(weight, own[name].bfloat16(), **near)


def test_the_tokenizer_has_the_chat_template_and_an_end_and_splits_digits_from_the_blanks_before_them(folder):
    tokenizer = PromptTokenizer.from_pretrained(str(folder))
    assert tokenizer.end_token_ids == {2}
    ids = tokenizer.encode(Prompt("a\n\n12  3", ""))
    tokens = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(ids)
    assert tokens == ["<|im_start|>", "a", "ĊĊ", "1", "2", "ĠĠ", "3", "<|im_end|>"]


def test_a_file_that_splits_texts_in_another_way_is_refused(write_gguf, tmp_path):
    with pytest.raises(ValueError, match=r"other\.gguf: tokenizer\.ggml\.pre is 'llama-bpe'; only 'smollm' is known"):
        convert(write_gguf(tmp_path / "other.gguf", pre="llama-bpe"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_that_lacks_a_weight_is_refused(write_gguf, tmp_path):
    file = write_gguf(tmp_path / "part.gguf", without="model.layers.0.mlp.up_proj.weight")
    with pytest.raises(ValueError, match=r"part\.gguf: it lacks model\.layers\.0\.mlp\.up_proj\.weight"):
        convert(file, tmp_path / "model")
