"""A small model as llama.cpp writes one, and the model of transformers that it was made of."""

import gguf
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM

from tests.conftest import llama_config

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def turned(weight, num_heads):
    """Rows of a projection in the order that llama.cpp rotates them in: pairs instead of halves."""
    return weight.reshape(num_heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="session")
def original():
    torch.manual_seed(0)
    config = llama_config(vocab_size=261, tie_word_embeddings=True, num_hidden_layers=1)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.fixture(scope="session")
def write_gguf(original):
    """Writes the model to a path, less one weight, its tokenizer splitting texts as the field `pre` says."""

    def write(path, pre="smollm", without=None):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("tiny")
        config = original.config
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_dimension_count(HEAD_DIM)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        merges = ["Ċ Ċ", "Ġ Ġ"]
        letters = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list([*specials, *letters])
        writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * len(letters))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_chat_template(TEMPLATE)
        weights = {name: one.detach().numpy() for name, one in original.named_parameters() if name != without}
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        for name, weight in weights.items():
            weight = turned(weight, HEADS) if "q_proj" in name else weight
            weight = turned(weight, KV_HEADS) if "k_proj" in name else weight
            kind = gguf.GGMLQuantizationType.Q8_0 if "mlp.down" in name else gguf.GGMLQuantizationType.F32
            writer.add_tensor(names.get_name(name, (".weight",)), gguf.quantize(weight, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
