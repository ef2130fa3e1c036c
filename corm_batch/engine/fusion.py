"""Make a loaded model's forward pass cheaper around its matrix products, without changing what it computes.

Works on decoders that are a list of layers, as transformers lays them out; others are left as they are. Knows nothing
of batches: attention stays outside, behind a call the compiler does not look into.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from corm_batch.ops.scaled import gated_rows, measured_rows, multiply_numbers, quantize_blocks, quantize_rows

MLP_ROWS = 16_384
"""Rows an MLP takes at once: plenty for its matrix products to run at full speed, and few enough that its wide
activations (three of 14,336 columns in an 8B Llama: 1.4 GB) stay this size however long the prompt."""

_MEASURED, _GATED = measured_rows._opoverload, gated_rows._opoverload  # as nodes of a graph name them
_QUANTIZE = (quantize_rows, quantize_blocks, _MEASURED)

_MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe")


def slice_rows(module: torch.nn.Module, at_most: int = MLP_ROWS) -> None:
    """Let each layer's MLP or mixture of experts run over slices of `at_most` tokens, in place; rows are independent.

    Args:
        module: a transformers model.
        at_most: tokens a slice.
    """
    for layer in decoder_layers(module):
        for name in _MLP_NAMES:
            if isinstance(mlp := getattr(layer, name, None), torch.nn.Module):
                setattr(layer, name, _Sliced(mlp, at_most))


def fuse(module: torch.nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile what lies between a layer's matrix products (norms, rotary embedding, activations), in place.

    Layers of one kind share their code, whatever the number of tokens; a single token alone has code of its own. It is
    compiled in the first forward pass, which should be long: its length tunes the kernels. The attention function must
    be one that the compiler does not enter. What comes out can be captured in a CUDA graph once it has run.

    Args:
        module: a transformers model.
        backend: of `torch.compile`.
    """
    compiler = _sharing_products(backend)
    layers = decoder_layers(module)
    sliced = [child.inner for layer in layers for child in layer.children() if isinstance(child, _Sliced)]
    norms = [child for name, child in decoder(module).named_children() if layers and "norm" in name]
    for part in [*layers, *sliced, *norms]:
        part.compile(dynamic=True, backend=compiler)


def rows_of(whole: Tensor, start: int, stop: int) -> Tensor:
    """Some rows of a tensor, as one node of a graph: products of one input with all of them become one."""
    return whole[start:stop]


def _sharing_products(backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """The backend, given graphs in which an input of several products is quantised once, SwiGLU together with its
    quantisation, and the products of one input with the rows of one tensor, such as q, k and v, are one product."""
    compile_graph = torch._dynamo.lookup_backend(backend)
    for function in (quantize_rows, quantize_blocks, multiply_numbers, rows_of):  # nodes of a graph, known by them
        torch.compiler.allow_in_graph(function)

    def share(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        _share_numbers(graph.graph)
        _join_products(graph.graph)
        graph.recompile()  # what is dead now goes later: here, what is changed in place would count as dead
        return compile_graph(graph, inputs)

    return share


def _share_numbers(graph: torch.fx.Graph) -> None:
    """Quantise each input once, and SwiGLU while it is computed."""
    first: dict[Any, torch.fx.Node] = {}
    for node in list(graph.nodes):
        quantised: Any = node.args[0] if node.target is operator.getitem else node
        if getattr(quantised, "target", None) not in _QUANTIZE:
            continue
        before = first.setdefault((node.target, node.args), node)
        if before is not node:
            node.replace_all_uses_with(before)
            graph.erase_node(node)
        elif node.target is _MEASURED and (gate_and_up := _swiglu(node.args[0])):
            node.target, node.args = _GATED, gate_and_up


def _join_products(graph: torch.fx.Graph) -> None:
    """One product in place of those of one input with all the rows of a tensor, part by part."""
    products: dict[Any, list[tuple[torch.fx.Node, Any]]] = {}
    for node in graph.nodes:
        parts = [one for one in node.args if getattr(one, "target", None) is rows_of]  # weights, then bias or scales
        if node.target in (linear, multiply_numbers) and parts:
            wholes = tuple(one.args[0] if one in parts else one for one in node.args)
            products.setdefault((node.target, wholes), []).append((node, parts[0].args))
    for (target, wholes), found in products.items():
        first, (weight, *_) = found[0]
        if sum(stop - start for _, (_, start, stop) in found) < weight.meta["example_value"].shape[0]:
            continue
        with graph.inserting_before(first):
            product = graph.call_function(target, wholes)
        for node, (_, start, stop) in found:
            node.target, node.args = torch.narrow, (product, -1, start, stop - start)


def _swiglu(node: Any) -> tuple[torch.fx.Node, torch.fx.Node] | None:
    """Gate and up of a node that is silu(gate) * up, two of one shape; None of any other."""
    if node.target not in (operator.mul, torch.mul) or not all(isinstance(one, torch.fx.Node) for one in node.args):
        return None
    for silu, up in (node.args, node.args[::-1]):
        if silu.target is torch.nn.functional.silu:
            gate = silu.args[0]
            of_one_shape = gate.meta["example_value"].shape == up.meta["example_value"].shape
            return (gate, up) if of_one_shape else None
    return None


class _Sliced(torch.nn.Module):
    """A module of independent rows, run over slices of them.

    Args:
        inner: [..., T, C] in, [..., T, C] out, or a tuple of such.
        at_most: rows a slice.
    """

    def __init__(self, inner: torch.nn.Module, at_most: int) -> None:
        super().__init__()
        self.inner, self.at_most = inner, at_most

    def forward(self, hidden_TC: Tensor) -> Tensor | tuple[Tensor, ...]:
        """All rows at once where they are few: most forwards compile without the loop."""
        if hidden_TC.shape[-2] <= self.at_most:
            return self.inner(hidden_TC)  # type: ignore[no-any-return]
        return _in_slices(self.inner, hidden_TC, self.at_most)  # type: ignore[no-any-return]


# The loop would be unrolled for each number of slices; what it calls is compiled by itself.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _in_slices(inner: torch.nn.Module, hidden_TC: Tensor, at_most: int) -> Tensor | tuple[Tensor, ...]:
    """Slices of equal size, so that none is left with a single row."""
    num_slices = -(-hidden_TC.shape[-2] // at_most)
    outs = [inner(rows) for rows in hidden_TC.tensor_split(num_slices, dim=-2)]
    if isinstance(outs[0], Tensor):
        return torch.cat(outs, dim=-2)
    return tuple(torch.cat(parts, dim=-2) for parts in zip(*outs, strict=True))


def decoder(module: torch.nn.Module) -> torch.nn.Module:
    """The stack of layers below a model's output head."""
    return module.get_decoder() if hasattr(module, "get_decoder") else module  # type: ignore[operator]


def decoder_layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder's layers; none where it has no list of them."""
    layers = getattr(decoder(module), "layers", None)
    return list(layers) if isinstance(layers, torch.nn.ModuleList) else []
