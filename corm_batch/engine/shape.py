"""ModelShape: the numbers of a model that decide what its cache costs, read from its config without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from corm_batch.engine.checkpoint import load_config
from corm_batch.errors import ModelLoadError
from corm_batch.kv.groups import Groups
from corm_batch.kv.layers import Layers
from corm_batch.kv.layout import Layout
from corm_batch.ops.form import Form
from corm_batch.ops.pages import Column, entry_columns, kv_bytes

_PLAIN_KEYS = frozenset(
    ("gemma", "gemma2", "granite", "llama", "ministral", "ministral3", "mistral", "mixtral", "olmo", "phi3", "qwen3",
     "qwen3_moe", "smollm3")
)  # fmt: skip
"""Types of models whose keys are a product of hidden states, normed in Qwen3's, with a bias if the config says so."""


@dataclass(frozen=True)
class ModelShape:
    """Counts that size the cache.

    Attributes:
        num_layers, num_heads, num_kv_heads, head_dim: as in the model.
        max_model_len: tokens the model was trained for.
        vocab_size: token ids are below it.
        own_layers: which of the model's layers are counted; None: all.
        plain_keys: whether its keys are known to have no bias, beside which their other numbers would be small.
        groups: of its layers that share keys of distant tokens, as it was trained to; None for none.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    vocab_size: int
    own_layers: tuple[int, ...] | None = None
    plain_keys: bool = False
    groups: Groups | None = None

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """Read the counts from a transformers text config.

        Raises:
            ModelLoadError: one is missing or makes no sense.
        """
        try:
            heads = config.num_attention_heads
            shape = cls(
                num_layers=config.num_hidden_layers,
                num_heads=heads,
                num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
                head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
                max_model_len=getattr(config, "max_position_embeddings", None) or 2**20,
                vocab_size=config.vocab_size,
                plain_keys=_has_plain_keys(config),
                groups=read_groups(config),
            )
            if min(value for value in vars(shape).values() if type(value) is int) < 1:
                raise ValueError(f"expected numbers of 1 and more, got {shape}")
            if shape.num_heads % shape.num_kv_heads:
                raise ValueError(f"{shape.num_heads} query heads cannot share {shape.num_kv_heads} kv heads evenly")
        except (AttributeError, ArithmeticError, TypeError, ValueError) as error:
            raise ModelLoadError(f"model.name: config.json ({config.model_type}): {error}") from error
        return shape

    @classmethod
    def from_pretrained(cls, path: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelShape:
        """Read the counts of a local folder or hub id, without loading weights."""
        return cls.from_config(load_config(path, revision, trust_remote_code))

    def shard(self, size: int) -> ModelShape:
        """What one of `size` ranks has of it: its share of the heads."""
        return replace(self, num_heads=self.num_heads // size, num_kv_heads=self.num_kv_heads // size)

    def storing(self, sharing: Mapping[int, int]) -> ModelShape:
        """The counts of the layers that have entries of their own, where others borrow theirs: `engine.sharing`.

        Raises:
            SpecError: there is no such layer.
        """
        owners = Layers(self.num_layers, sharing, self.groups).owners
        return replace(self, num_layers=len(owners), own_layers=owners)

    def context(self, limit: int | None) -> int:
        """Tokens of prompt and answer together: the model's own number, or a lower `limit`."""
        return min(limit or self.max_model_len, self.max_model_len)

    def page_bytes_per_token(
        self, form: Form, dtype: torch.dtype, own: Iterable[Column] = (), page_size: int = 16
    ) -> int:
        """Bytes of pages that one token takes, all layers and kv heads, where nothing of it has left.

        Args:
            form, dtype, own: as `entry_columns`.
            page_size: entries of a page.
        """
        columns = [entry_columns(form, self.head_dim, dtype, own)] * self.num_layers
        further, members = (None, ()) if self.groups is None else (
            self.groups.num_members(self.num_layers), self.groups.members
        )  # fmt: skip
        layout = Layout(columns, page_size, len(form.scales), further)
        sizes = [size for layer, size in enumerate(layout.by_layer) if layer not in members]
        return int(self.num_kv_heads * sum(layout.page_bytes / size for size in sizes))

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values one token takes in an uncompressed cache, all layers and kv heads."""
        return self.num_layers * self.num_kv_heads * kv_bytes(self.head_dim, dtype)


def read_groups(config: Any) -> Groups | None:
    """What a converted model's config says of layers that share keys, as `weights.pod` writes it; None where nothing.

    Raises:
        ValueError, TypeError: it says something else than that.
    """
    told = getattr(config, "pod", None)
    if told is None:
        return None
    try:
        groups = Groups(tuple(map(tuple, told["groups"])), int(told["first"]), int(told["recent"]))
    except KeyError as error:
        raise ValueError(f"pod: {error} is missing") from error
    groups.check(config.num_hidden_layers)
    return groups


def _has_plain_keys(config: Any) -> bool:
    """As a text config alone tells it: to make a model and look at it would take seconds."""
    biased = any(getattr(config, name, False) for name in ("attention_bias", "qkv_bias", "use_qkv_bias"))
    return config.model_type in _PLAIN_KEYS and not biased
