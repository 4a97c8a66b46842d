"""State of one walk over an exported graph: labels of activations, claims on parameters.

The walk goes through the graph once, in execution order. For each operator a rule (:mod:`nteleport.rules`)
returns a :class:`Flow`: which labels the operands must carry, which labels the result carries, and whether
the operator runs as it is on scaled operands or must be conjugated, ``x ↦ τ f(x / τ)``. Parameters are
*claimed* by the first operator that has a rule for them; the claim fixes their scale.

The same rules serve two purposes. :func:`nteleport.analyze` lets every claim take fresh labels and reads the
quiver off the claims. :func:`nteleport.materialize` takes the labels of claims from a quiver and executes the
flows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.labels import pinned
from nteleport.quiver import Factor

Labels = Tensor | list[Any] | None
"""Of a tensor, of several results, or None: the value does not depend on the inputs of the network."""

FreshLabels = Callable[[str, int, Callable[[Tensor], Tensor]], Tensor]
"""``fresh(parameter, size, outputs_of)``: labels of the neurons that a newly claimed parameter feeds."""


class ParameterRead(NamedTuple):
    """A graph node that holds a parameter, or the transpose of a matrix parameter."""

    name: str
    transposed: bool


@dataclass(eq=False)
class Claim:
    """The use of a parameter that fixes its scale.

    Attributes:
        kind: what sort of use; later uses of the same kind carry the same labels.
        inputs: labels of the neurons it reads, a vector; None where there is no such side.
        outputs: labels of the neurons it feeds, a vector.
        factors: the scale.
        operator: name of the operator, for the report.
    """

    kind: Hashable
    inputs: Tensor | None
    outputs: Tensor
    factors: tuple[Factor, ...]
    operator: str
    uses: int = 1


@dataclass(eq=False)
class Flow:
    """How one operator passes scaled activations on.

    Attributes:
        result: labels that the result carries.
        operands: labels that an activation must carry where they differ from what it carries already.
        raw_parameters: parameter nodes that the operator reads as teleported weights; it reads all others
        unscaled.
        conjugated: the operator runs on unscaled operands and its result is multiplied by the scale of
            ``result``.
    """

    result: Labels
    operands: dict[Node, Tensor] = field(default_factory=dict)
    raw_parameters: frozenset[Node] = frozenset()
    conjugated: bool = False


@dataclass(eq=False)
class Propagation:
    """What is known so far of the graph being walked."""

    fresh: FreshLabels
    labels: dict[Node, Labels] = field(default_factory=dict)
    parameters: dict[Node, ParameterRead] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    plain_reads: dict[str, str] = field(default_factory=dict)
    flows: dict[Node, Flow] = field(default_factory=dict)

    def labels_of(self, node: object) -> Tensor | None:
        """Labels of one activation; None for constants and anything that is not a tensor."""
        labels = self.labels.get(node) if isinstance(node, Node) else None
        return labels if isinstance(labels, Tensor) else None

    def parameter(self, node: object) -> ParameterRead | None:
        """The parameter that ``node`` holds, if it holds one."""
        return self.parameters.get(node) if isinstance(node, Node) else None

    def activations(self, node: Node) -> list[Node]:
        """The operands of ``node`` that depend on the network's inputs, the one computed first in front."""
        return sorted(n for n in node.all_input_nodes if self.labels.get(n) is not None)

    def claim(self, name: str, claim: Claim) -> None:
        """Fix the scale of parameter ``name``."""
        self.claims[name] = claim

    def finish(self, node: Node, flow: Flow) -> None:
        """Record the flow of ``node`` and which parameters it reads unscaled."""
        self.flows[node] = flow
        self.labels[node] = flow.result
        for operand in node.all_input_nodes:
            read = self.parameters.get(operand)
            if read and node not in self.parameters and operand not in flow.raw_parameters:
                self.plain_reads.setdefault(read.name, operator_name(node))

    def unscaled(self, nodes: Iterable[Node]) -> dict[Node, Tensor]:
        """The demand that each of ``nodes`` arrives without scaling."""
        found = ((n, self.labels_of(n)) for n in nodes)
        return {n: pinned(labels.shape) for n, labels in found if labels is not None}


def operator_name(node: Node) -> str:
    """The name of the operator of a call, without namespace, overload and in-place underscore."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target.overloadpacket.__name__)
    else:
        name = getattr(target, "__name__", str(target))
    return name.rstrip("_") if not name.startswith("__") else name


def result_shapes(node: Any) -> Any:
    """Shapes of the result of ``node``: a ``torch.Size``, a list of them, or None where it is not a
    tensor."""

    def shape(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [shape(v) for v in value]
        return torch.Size(int(s) for s in value.shape) if isinstance(value, Tensor) else None

    return shape(node.meta.get("val"))
