"""In-place ops made out-of-place where nobody can tell, while the values of the graph are worked out.

`relu_(x)` ties `x`, its result and all their readers to one memory and so to one device; a ResNet's residual additions would chain a whole
network together. Where the memory is not looked at again under another name, the op is replaced by its out-of-place form, which computes
the same bits. What must stay in place (buffers, writes through views) stays, and keeps its neighbours together.
"""

from typing import Any

import torch
from torch import Tensor, fx

from mottle.placement.tracing.trace import Traced
from mottle.placement.tracing.values import IN_PLACE_OPERATORS, Values, call, storages_in, written


def work_out(traced: Traced) -> Values:
    """Values of all nodes; rewrites the graph on the way."""
    values = Values(traced)
    place = {node: x for x, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        targets = written(traced, node)
        if len(targets) == 1 and node.args[:1] == (targets[0],) and _unseen(values, place, node, targets[0]):
            _replace(values, place, node, targets[0])
        values.step(node)
    return values


def _unseen(values: Values, place: dict[fx.Node, int], node: fx.Node, target: fx.Node) -> bool:
    """Nobody reads the written memory afterwards through an older name than the target's."""
    storages = storages_in(values.of[target])
    for other, value in values.of.items():
        if not storages & storages_in(value):
            continue
        if other.op in ("placeholder", "get_attr"):
            return False
        if other is not target and any(place[user] > place[node] for user in other.users):
            return False
    return True


def _replace(values: Values, place: dict[fx.Node, int], node: fx.Node, target: fx.Node) -> None:
    form, old = _out_of_place(node), values.of[target]
    if form is None:
        return
    before = node.target, node.kwargs
    node.target, node.kwargs = form
    with values.traced.mode, torch.no_grad():
        result = call(values.traced, node, values.load(node.args), values.load(node.kwargs))
    if isinstance(result, Tensor) and (result.shape, result.dtype, result.stride()) == (old.shape, old.dtype, old.stride()):
        target.replace_all_uses_with(node, delete_user_cb=lambda user: place[user] > place[node])
    else:  # type promotion or broadcasting: writing into the old tensor is what gives the result its form
        node.target, node.kwargs = before


def _out_of_place(node: fx.Node) -> tuple[Any, dict[str, Any]] | None:
    """Target and keywords of the same op into new memory, `aten.add.Tensor` for `aten.add_.Tensor`; None where there is none."""
    kwargs = dict(node.kwargs)
    if node.op == "call_method":
        name = str(node.target)[:-1]
        return (name, kwargs) if hasattr(Tensor, name) else None
    if node.target in IN_PLACE_OPERATORS:
        return IN_PLACE_OPERATORS[node.target], kwargs
    if kwargs.get("inplace") is True:
        return node.target, {**kwargs, "inplace": False}
    name = str(getattr(node.target, "_opname", ""))
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    overload = getattr(packet, str(getattr(node.target, "_overloadname", "")), None)
    return None if overload is None else (overload, kwargs)
