"""Rules of recurrent networks: ``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu`` and their cells.

One operator holds a whole network, so it is conjugated as a whole: it runs on unscaled inputs and weights,
and its output is scaled. Every gate neuron has its own entry; ``W_ih`` carries those of the inputs on its
other side and ``W_hh`` those of the hidden state. The hidden state has the entries of the gate that is its
first factor in the recurrence (``h = o · tanh(c)`` in an LSTM, ``h = (1 − z) · n + z · h`` in a GRU, the
neuron itself in a plain network) or, with a projection, those of the projection. Cell states are pinned.

Where activations are kept, ``nteleport.core.kept_recurrent_rules`` takes their place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.core.calls import arguments, operator_name, result_shapes
from nteleport.core.labels import along_last_axis, pinned
from nteleport.core.ties import Restriction
from nteleport.core.walk import Flow, Propagation, Use
from nteleport.core.weight_rules import join


class Kind(NamedTuple):
    """A kind of recurrent network.

    Attributes:
        gates: how many there are.
        output_gate: which of them gives the hidden state its entries.
        candidate: which of them is added to the state, where activations are kept.
        admits: what the activation function of the candidate admits.
    """

    gates: int
    output_gate: int
    candidate: int
    admits: Restriction


KINDS = {
    "lstm": Kind(4, 3, 2, "sign"),
    "gru": Kind(3, 2, 2, "sign"),
    "rnn_tanh": Kind(1, 0, 0, "sign"),
    "rnn_relu": Kind(1, 0, 0, "positive"),
}


class Step(NamedTuple):
    """The parameters of one layer in one direction."""

    weight_ih: Node
    weight_hh: Node
    biases: tuple[Node, ...]
    projection: Node | None


def recurrent(node: Node, walk: Propagation) -> Flow | None:
    """All layers and directions of a recurrent network over a sequence."""
    given, kind = arguments(node), KINDS[operator_name(node)]
    directions, layers = 1 + bool(given["bidirectional"]), int(given["num_layers"])
    source = given.get("input", given.get("data"))
    steps = steps_of(given["params"], layers * directions, bool(given["has_biases"]))
    inputs, uses, hidden = along_last_axis(walk.labels_of(source)), dict[Node, Use](), list[Tensor]()
    for layer in range(layers):
        found = [
            _apply(step, kind, inputs, node, walk, uses)
            for step in steps[layer * directions : (layer + 1) * directions]
        ]
        if any(labels is None for labels in found):
            return None
        hidden += [labels for labels in found if labels is not None]
        inputs = torch.cat(hidden[-directions:])
    shapes = result_shapes(node)
    assert inputs is not None
    final = torch.stack(hidden).view(len(hidden), *[1] * (len(shapes[1]) - 2), -1)
    result = [inputs.expand(shapes[0]), final.expand(shapes[1]), *(pinned(s) for s in shapes[2:])]
    return Flow(result, walk.unscaled(walk.activations(node)), uses, conjugated=True)


def cell(node: Node, walk: Propagation) -> Flow | None:
    """One step of one layer; repeated with the same parameters, it carries the same labels."""
    given, kind = arguments(node), KINDS[operator_name(node).removesuffix("_cell")]
    biases = tuple(given[name] for name in ("b_ih", "b_hh") if given[name] is not None)
    uses: dict[Node, Use] = {}
    step = Step(given["w_ih"], given["w_hh"], biases, None)
    hidden = _apply(step, kind, along_last_axis(walk.labels_of(given["input"])), node, walk, uses)
    if hidden is None:
        return None
    shapes = result_shapes(node)
    result: Any = hidden.expand(shapes if isinstance(shapes, torch.Size) else shapes[0])
    if not isinstance(shapes, torch.Size):
        result = [result, pinned(shapes[1])]
    return Flow(result, walk.unscaled(walk.activations(node)), uses, conjugated=True)


def steps_of(parameters: list[Node], count: int, has_biases: bool) -> list[Step]:
    """The parameters of ``count`` layers and directions, in order."""
    size = len(parameters) // count
    steps = []
    for start in range(0, len(parameters), size):
        weight_ih, weight_hh, *others = parameters[start : start + size]
        biases = tuple(others[:2]) if has_biases else ()
        steps.append(Step(weight_ih, weight_hh, biases, others[-1] if len(others) > len(biases) else None))
    return steps


def _apply(
    step: Step, kind: Kind, inputs: Tensor | None, node: Node, walk: Propagation, uses: dict[Node, Use]
) -> Tensor | None:
    """Use the parameters of one layer in one direction; returns the labels of its hidden state."""
    operator = operator_name(node)
    views = [walk.parameter(n) for n in (step.weight_ih, step.weight_hh)]
    if any(view is None for view in views):
        return None
    view_ih, view_hh = (view for view in views if view is not None)
    known = walk.known_use(view_ih, "recurrent")
    if known is None:
        if not all(walk.is_free(view) for view in (view_ih, view_hh)):
            return None
        rows = walk.fresh(view_ih.names[0], view_ih.shape[0])
        columns = inputs.view(1, -1) if inputs is not None else None
        known = walk.use(view_ih, "recurrent", operator, outputs=rows.view(-1, 1), inputs=columns)
    else:
        known.count += 1
    if known is None or known.outputs is None:
        return None
    uses[step.weight_ih] = known
    rows = known.outputs.reshape(-1)
    for bias in step.biases:
        joined = join(walk, bias, rows, operator, None)
        uses |= {bias: joined} if joined else {}
    hidden = rows.view(kind.gates, -1)[kind.output_gate]
    if step.projection is not None:
        projected = project(step.projection, hidden, operator, walk, uses)
        hidden = pinned(result_shapes(step.projection)[:1]) if projected is None else projected
    uses_hh = walk.known_use(view_hh, "recurrent")
    if uses_hh is None:
        uses_hh = walk.use(
            view_hh, "recurrent", operator, outputs=rows.view(-1, 1), inputs=hidden.reshape(1, -1)
        )
    else:
        uses_hh.count += 1
    uses |= {step.weight_hh: uses_hh} if uses_hh else {}
    return hidden


def project(
    weight: Node, hidden: Tensor, operator: str, walk: Propagation, uses: dict[Node, Use]
) -> Tensor | None:
    """Use the projection of hidden states; returns their labels after it."""
    view = walk.parameter(weight)
    if view is None:
        return None
    use = walk.known_use(view, "recurrent")
    if use is None and walk.is_free(view):
        rows = walk.fresh(view.names[0], view.shape[0])
        outputs, inputs = rows.view(-1, 1), hidden.reshape(1, -1)
        use = walk.use(view, "recurrent", operator, outputs=outputs, inputs=inputs)
    if use is None or use.outputs is None:
        return None
    uses[weight] = use
    return use.outputs.reshape(-1)


RECURRENT = {
    **dict.fromkeys(KINDS, recurrent),
    **dict.fromkeys([f"{name}_cell" for name in KINDS], cell),
}
