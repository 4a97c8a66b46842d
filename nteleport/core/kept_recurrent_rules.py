"""Rules of recurrent networks, where activations are kept: a hidden unit may change its sign, or its size.

Parameters of all layers and directions are used step by step, and tied where they are used again. A rule
returns None where nothing commutes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.core.calls import arguments, is_zero, operator_name, result_shapes
from nteleport.core.labels import pinned
from nteleport.core.parameter_views import ParameterView
from nteleport.core.recurrent_rules import KINDS, Step, project, steps_of
from nteleport.core.walk import Flow, Propagation, Use
from nteleport.core.weight_rules import join


def recurrent(node: Node, walk: Propagation) -> Flow | None:
    """``lstm``, ``gru`` and their like, over a sequence or as cells.

    Inputs are read through linear maps, which undo any scaling. A hidden unit may change its sign, with a
    ReLU its size: an LSTM's candidate ``g`` does, then ``c = f · c + i · g``, then ``h = o · tanh(c)``; a
    GRU's ``n`` does, then ``h = (1 − z) · n + z · h``. Gates are pinned. The states at the start must have
    the same scaling: zeros have any.
    """
    assert walk.ties is not None
    given, name = arguments(node), operator_name(node)
    source = given.get("input", given.get("data"))
    labels = walk.labels_of(source)
    if labels is None:
        return None
    labels = walk.constant_along(labels, range(labels.dim() - 1), name)
    assert labels is not None
    inputs, weights = labels[(0,) * (labels.dim() - 1)], dict[Node, Use]()
    is_cell, directions = "w_ih" in given, 1 + bool(given.get("bidirectional"))
    if is_cell:
        biases = tuple(given[bias] for bias in ("b_ih", "b_hh") if given[bias] is not None)
        steps = [Step(given["w_ih"], given["w_hh"], biases, None)]
    else:
        steps = steps_of(given["params"], int(given["num_layers"]) * directions, bool(given["has_biases"]))
    hidden, memory = list[Tensor](), list[Tensor]()
    for position, step in enumerate(steps):
        if position and position % directions == 0:
            inputs = torch.cat(hidden[-directions:])
        found = _recurrent_step(step, inputs, node, walk, weights)
        if found is None:
            return None
        hidden.append(found[0])
        memory.append(found[1])
    states = given["hx"] if isinstance(given["hx"], (list, tuple)) else [given["hx"]]
    shapes = result_shapes(node)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    final = [
        each[0] if is_cell else torch.stack(each).view(len(each), *[1] * (len(shape) - 2), -1)
        for each, shape in zip((hidden, memory), shapes[-len(states) :], strict=False)
    ]
    for state, wanted in zip(states, final, strict=True):
        if not is_zero(state):
            carried = walk.labels_of(state)
            walk.ties.tie(wanted, pinned(()) if carried is None else carried, name)
    results = final if is_cell else [torch.cat(hidden[-directions:]), *final]
    resolved = [walk.ties.resolve(r.expand(s)) for r, s in zip(results, shapes, strict=True)]
    others = walk.unscaled(n for n in walk.activations(node) if n is not source and n not in states)
    return Flow(resolved if isinstance(result_shapes(node), list) else resolved[0], others, weights)


def _recurrent_step(
    step: Step, inputs: Tensor, node: Node, walk: Propagation, weights: dict[Node, Use]
) -> tuple[Tensor, Tensor] | None:
    """Use the parameters of one layer in one direction; returns the labels of its hidden state and of its
    neurons, which are also those of an LSTM's memory. They are pinned if a parameter cannot follow."""
    assert walk.ties is not None
    ties, name = walk.ties, operator_name(node)
    kind = KINDS[name.removesuffix("_cell")]
    view = walk.parameter(step.weight_ih)
    if view is None:
        return None
    rows = None if walk.known_use(view, "recurrent") else walk.fresh(view.names[0], view.shape[0])
    use = _used_again(view, rows, inputs, name, walk)
    if use is None or use.outputs is None:
        return None
    weights[step.weight_ih] = use
    rows = use.outputs.reshape(-1)
    gates = rows.view(kind.gates, -1)
    neurons = gates[kind.candidate]
    ties.pin(torch.cat([gates[: kind.candidate], gates[kind.candidate + 1 :]]), name)
    ties.restrict(neurons, kind.admits, name)
    hidden: Tensor | None = neurons
    if step.projection is not None:
        hidden = project(step.projection, neurons, name, walk, weights)
    found = {bias: join(walk, bias, rows, name, None) for bias in step.biases}
    view = walk.parameter(step.weight_hh)
    if view is not None and hidden is not None:
        found[step.weight_hh] = _used_again(view, rows, hidden, name, walk)
    used = {parameter: each for parameter, each in found.items() if each is not None}
    weights.update(used)
    if hidden is None or len(used) < 1 + len(step.biases):
        ties.pin(rows, name)
        hidden = pinned(result_shapes(step.projection)[:1] if step.projection else neurons.shape)
    return hidden, neurons


def _used_again(
    view: ParameterView, rows: Tensor | None, columns: Tensor, operator: str, walk: Propagation
) -> Use | None:
    """The use of a matrix of a recurrent network; an earlier one is tied to these labels."""
    assert walk.ties is not None
    known = walk.known_use(view, "recurrent")
    if known is None or known.outputs is None or known.inputs is None:
        take = walk.use if walk.is_free(view) else walk.tied_use
        outputs = None if rows is None else rows.view(-1, 1)
        return take(view, "recurrent", operator, outputs=outputs, inputs=columns.view(1, -1))
    known.count += 1
    walk.ties.tie(columns, known.inputs.view(-1), operator)
    if rows is not None:
        walk.ties.tie(rows, known.outputs.reshape(-1), operator)
    return known
