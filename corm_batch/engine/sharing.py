"""Layers that share entries (KVSharer, arXiv 2410.18517): which of them attend to what an earlier one holds.

    engine: {sharing: {7: 2, 5: 1}}         layer 7 borrows layer 2's entries, 5 those of 1; layers are counted from 0
    engine: {sharing: FILE}                 the same, as python -m infra.measure.shared_layers measures it on a model

A layer that borrows computes no keys and values, stores nothing and reserves nothing: it attends with its own queries
to the owner's, in a pass over a prompt to all that the owner's queries saw, later to what is left of it in the pages.

The paper evicts nothing, and so has no rule for whose queries decide what leaves. Here the owner's do, by its policy:
to keep whatever a borrower needs, too, what an owner evicts would have to wait until its last borrower has voted, in
every prompt and chunk of a pass. Policies, budgets and pins know none but the layers that have entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, WrapValidator

from corm_batch.budgets.measured import Measured, read_table

Sharing = dict[NonNegativeInt, NonNegativeInt]


class MeasuredSharing(Measured, dict[int, int]):
    """Layers out of a file."""

    command = "python -m infra.measure.shared_layers"


def _read(value: Any, validated: Callable[[Any], Sharing]) -> Sharing:
    """The layers in the file that a text names, or those given."""
    if not isinstance(value, str):
        sharing = validated(value)
        return value if isinstance(value, MeasuredSharing) else sharing
    table = read_table(
        value, "table of shared layers", "sharing", dict, "by layer the earlier one whose entries it reads"
    )
    return MeasuredSharing(validated(table["sharing"])).told_by(value, table)


def _check(sharing: Sharing) -> Sharing:
    """Refuse layers that could not read what they are to."""
    for layer, owner in sharing.items():
        if owner >= layer:
            raise ValueError(f"layer {layer} cannot borrow from layer {owner}: that has to be an earlier one")
        if owner in sharing:
            raise ValueError(
                f"layer {layer} cannot borrow from layer {owner}, which borrows from layer {sharing[owner]}: name the "
                "layer that has the entries"
            )
    return sharing


LayerSharing = Annotated[Sharing, AfterValidator(_check), WrapValidator(_read, json_schema_input_type=Sharing | str)]
"""The type of a field that says which layers share: by borrower, whose entries it reads, or the path of a file that has
it."""
