"""State of one walk over an exported graph: labels of activations, uses of parameters.

The walk goes through the graph once, in execution order. For each operator a rule
(``nteleport.core.rules``) returns a ``Flow``: which labels the operands must carry, which labels the
result carries, and whether the operator runs unchanged on scaled operands or must be conjugated,
``x ↦ τ f(x / τ)``. The first operator that has a rule for a parameter fixes its scale: that is its
``Use``.

The same rules serve two purposes. ``nteleport.analyze`` lets every use take fresh labels and reads the
quiver off the uses. ``nteleport.materialize`` takes the labels of uses from a quiver and executes the
flows.

Where activations are kept, nothing can be conjugated: labels that do not match are tied
(``nteleport.core.ties``), and operators have rules of their own (``nteleport.core.kept_rules``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from nteleport.core.calls import operator_name
from nteleport.core.labels import collapse, is_constant, is_pinned, pinned, reduce_to
from nteleport.core.parameter_views import ParameterView
from nteleport.core.quiver import Factor
from nteleport.core.ties import Ties
from nteleport.vocabulary import Norms

Labels = Tensor | list[Any] | None
"""Labels of a tensor or of several results; None if the value does not depend on the network's inputs."""

FreshLabels = Callable[[str, int], Tensor]
"""``fresh(parameter, size)``: labels of the neurons that a newly used parameter feeds, a vector."""

NETWORK_INPUT = "the network's input"


@dataclass(eq=False)
class Use:
    """The use of a parameter, or of a tensor computed from parameters, that fixes its scale.

    Attributes:
        view: what is used.
        kind: the kind of use; later uses of the same kind carry the same labels.
        outputs: labels of the neurons it feeds, broadcastable to the view; None where there is no such side.
        inputs: labels of the neurons it reads, likewise.
        factors: the scale, for each parameter in the view.
        operator: name of the operator, for the report.
        ended_by: the operator that ended the scaling of what it reads or joins, if any.
        count: number of uses.
    """

    view: ParameterView
    kind: Hashable
    outputs: Tensor | None
    inputs: Tensor | None
    factors: Mapping[str, tuple[Factor, ...]]
    operator: str
    ended_by: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Statistics:
    """The running statistics of a normalization whose input is scaled, by name.

    Attributes:
        mean, variance: buffers.
        weight: the parameter γ, which is corrected for ``eps``.
        eps: of the layer.
        channels: labels of the channels of the input, a vector; it does not count in comparisons.
    """

    mean: str
    variance: str
    weight: str
    eps: float
    channels: Tensor = field(compare=False)

    @property
    def names(self) -> tuple[str, str, str]:
        """Of all that nothing else may read."""
        return self.mean, self.variance, self.weight


@dataclass(eq=False)
class Flow:
    """How one operator passes scaled activations on.

    Attributes:
        result: labels that the result carries.
        operands: labels that an activation must carry where they differ from what it carries already.
        weights: nodes of parameters that the operator reads scaled, with their use; it reads all others
            unscaled.
        conjugated: the operator runs on unscaled operands and weights, and its result is multiplied by the
            scale of ``result``.
        moves_parameters: the operator moves elements of parameters, whatever their scale.
        statistics: the running statistics that the operator reads scaled.
    """

    result: Labels
    operands: dict[Node, Tensor] = field(default_factory=dict)
    weights: dict[Node, Use] = field(default_factory=dict)
    conjugated: bool = False
    moves_parameters: bool = False
    statistics: Statistics | None = None


@dataclass(eq=False)
class Propagation:
    """What is known so far of the graph being walked.

    Attributes:
        fresh: where the labels of uses come from.
        labels: of every node that depends on the network's inputs.
        parameters: of every node that is computed from parameters element by element.
        parameter_lists: likewise of nodes with several results.
        constants: integer and boolean tensors that do not depend on the inputs, as far as known.
        uses: of each parameter, by name.
        plain_reads: by name of a parameter, the first operator that reads it unscaled.
        ended_by: for a node without scaling, the operator that ended it.
        flows: of every operator.
        ties: which labels agree, where activations are kept.
        norms: whether inputs of normalizations may be scaled, where activations are kept.
        buffers: names of the buffers, of every node that holds one.
        statistics: of every normalization that reads running statistics scaled.
        readers: by name of a parameter or buffer, the statistics to which it belongs for an operator that
            reads it; None for operators that read it as anything else.
    """

    fresh: FreshLabels
    ties: Ties | None = None
    norms: Norms = "exact"
    labels: dict[Node, Labels] = field(default_factory=dict)
    parameters: dict[Node, ParameterView] = field(default_factory=dict)
    parameter_lists: dict[Node, list[ParameterView]] = field(default_factory=dict)
    constants: dict[Node, Tensor] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    plain_reads: dict[str, str] = field(default_factory=dict)
    ended_by: dict[Node, str] = field(default_factory=dict)
    flows: dict[Node, Flow] = field(default_factory=dict)
    buffers: dict[Node, str] = field(default_factory=dict)
    statistics: list[Statistics] = field(default_factory=list)
    readers: dict[str, set[Statistics | None]] = field(default_factory=dict)
    _recent_uses: list[Use] = field(default_factory=list)
    _stand_ins: dict[Node, ParameterView | None] = field(default_factory=dict)
    _known_ties: Any = None

    def labels_of(self, node: object) -> Tensor | None:
        """Labels of one activation; None for constants and anything that is not a tensor."""
        labels = self.labels.get(node) if isinstance(node, Node) else None
        if not isinstance(labels, Tensor):
            return None
        return labels if self.ties is None else self.ties.resolve(labels)

    def constant_along(self, labels: Tensor, axes: Iterable[int], operator: str) -> Tensor | None:
        """The labels, if they are constant along ``axes`` or can be tied so; None if not."""
        changing = [axis for axis in axes if not is_constant(labels, axis)]
        if not changing:
            return labels
        return None if self.ties is None else self.ties.tie_along(labels, changing, operator)

    def reduced_to(self, labels: Tensor, shape: Sequence[int], operator: str) -> Tensor | None:
        """As ``labels.reduce_to``; axes that ``shape`` lacks are tied where activations are kept."""
        missing = labels.dim() - len(shape)
        if missing >= 0 and self.ties is not None:
            sizes = [1] * missing + list(shape)
            lacking = [a for a, n in enumerate(sizes) if n == 1 < labels.shape[a]]
            labels = self.ties.tie_along(labels, lacking, operator)
        return reduce_to(labels, shape)

    def parameter(self, node: object) -> ParameterView | None:
        """The view of parameters that ``node`` holds, if it holds one."""
        return self.parameters.get(node) if isinstance(node, Node) else None

    def activations(self, node: Node) -> list[Node]:
        """The operands of ``node`` that depend on the network's inputs, in order of computation."""
        found = [n for n in node.all_input_nodes if self.labels.get(n) is not None]
        return found if len(found) < 2 else sorted(found)

    def fresh_labels(self, view: ParameterView, sizes: Sequence[int]) -> Tensor | None:
        """Fresh labels of a shape that broadcasts to ``view``; None where repeated elements could not carry
        them."""
        count = math.prod(sizes)
        if view.repeats() and view.pull(torch.arange(1, 1 + count).view(tuple(sizes))) is None:
            return None
        return self.fresh(view.names[0], count).view(tuple(sizes))

    def known_use(self, view: ParameterView, kind: Hashable) -> Use | None:
        """The earlier use of the same kind of the same elements."""
        for use in self.uses.get(view.names[0], ()):
            if use.kind == kind and use.view.is_same(view):
                return use
        return None

    def is_free(self, view: ParameterView) -> bool:
        """Whether no element in the view has a scale so far."""
        earlier = [use for name in view.names for use in self.uses.get(name, ())]
        if not earlier:
            return True
        mine = view.pull(torch.ones((), dtype=torch.int64)) or {}
        theirs = [use.view.pull(torch.ones((), dtype=torch.int64)) or {} for use in earlier]
        return not any(
            bool((mine[name].bool() & taken[name].bool()).any())
            for taken in theirs
            for name in mine.keys() & taken.keys()
        )

    def use(
        self,
        view: ParameterView,
        kind: Hashable,
        operator: str,
        *,
        outputs: Tensor | None = None,
        inputs: Tensor | None = None,
        ended_by: str | None = None,
    ) -> Use | None:
        """Fix the scale of the parameters in ``view``; None where one element would need two scales."""
        factors: dict[str, tuple[Factor, ...]] = dict.fromkeys(view.names, ())
        for labels, power in ((outputs, 1), (inputs, -1)):
            if labels is None or is_pinned(labels):
                continue
            pulled = view.pull(labels)
            if pulled is None:
                return None
            for name, index in pulled.items():
                factors[name] += () if is_pinned(index) else (Factor(index, power),)
        use = Use(view, kind, outputs, inputs, factors, operator, ended_by)
        self._recent_uses.append(use)
        for name in view.names:
            self.uses.setdefault(name, []).append(use)
        return use

    def use_with_fresh_outputs(
        self,
        view: ParameterView,
        kind: Hashable,
        operator: str,
        sizes: Sequence[int],
        *,
        inputs: Tensor | None = None,
        ended_by: str | None = None,
    ) -> Use | None:
        """The known use of this kind, or a new one that feeds neurons of its own, with labels of shape
        ``sizes``; None where some of the elements already have a scale."""
        known = self.known_use(view, kind)
        if known is not None:
            known.count += 1
            return known
        free = self.is_free(view)
        outputs = self.fresh_labels(view, sizes) if free or self.ties is not None else None
        if outputs is None:
            return None
        if not free:
            return self.tied_use(view, kind, operator, outputs=outputs, inputs=inputs)
        return self.use(view, kind, operator, outputs=outputs, inputs=inputs, ended_by=ended_by)

    def tied_use(
        self,
        view: ParameterView,
        kind: Hashable,
        operator: str,
        *,
        outputs: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Use | None:
        """Another use of parameters that have a scale already: the labels are tied so that it is the same.

        None where activations are conjugated, or where uses read different parts of a parameter.
        """
        if self.ties is None:
            return None
        earlier = list(dict.fromkeys(use for name in view.names for use in self.uses.get(name, ())))
        if not all(_covers(view.names, each) for each in (view, *(use.view for use in earlier))):
            return None
        again = self.use(view, kind, operator, outputs=outputs, inputs=inputs)
        if again is None:
            return None
        for name in view.names:
            self.uses[name].remove(again)
            tie_factors(self.ties, earlier[0].factors[name], again.factors[name], operator)
        self._recent_uses.remove(again)
        earlier[0].count += 1
        return again

    def let_stand_for_activation(self, node: Node, labels: Tensor) -> None:
        """Give labels to a node that does not depend on the network's inputs."""
        self._stand_ins[node] = self.parameters.pop(node, None)
        self.labels[node] = labels

    def begin(self) -> None:
        """Start a new operator: ``forget`` reverts what is recorded from now on."""
        self._recent_uses.clear()
        self._stand_ins.clear()
        self._known_ties = self.ties.saved() if self.ties else None

    def forget(self) -> None:
        """Revert what was recorded for the current operator: its rule failed."""
        if self.ties is not None:
            self.ties.restore(self._known_ties)
        for use in reversed(self._recent_uses):
            for name in use.view.names:
                self.uses[name].remove(use)
        for node, view in self._stand_ins.items():
            del self.labels[node]
            if view is not None:
                self.parameters[node] = view

    def finish(self, node: Node, flow: Flow) -> None:
        """Record the flow of ``node``, which parameters it reads unscaled and where a scaling ends."""
        if self.ties is not None:
            for operand, demanded in flow.operands.items():
                carried = self.labels_of(operand)
                if carried is not None:
                    self.ties.tie(carried, demanded, operator_name(node))
            self._drop_computed(node)
        self.flows[node] = flow
        self.labels[node] = flow.result
        if flow.result is not None:
            self._note_end(node, flow.result)
        passed_on = self._passed_on(node)
        for operand in node.all_input_nodes:
            view = self.parameters.get(operand)
            if view and operand not in flow.weights:
                for name in set(view.names) - passed_on:
                    self.plain_reads.setdefault(name, operator_name(node))
        if flow.statistics is not None:
            self.statistics.append(flow.statistics)
        self._note_readers(node, flow.statistics, passed_on)

    def finish_output(self, node: Node) -> None:
        """Record which parameters an output returns as they are."""
        self.flows[node] = Flow(None)
        for operand in node.all_input_nodes:
            view = self.parameters.get(operand)
            for name in view.names if view else ():
                self.plain_reads.setdefault(name, "output")
        self._note_readers(node, None, frozenset())

    def _note_readers(self, node: Node, statistics: Statistics | None, passed_on: Collection[str]) -> None:
        if self.norms == "exact":
            return
        for operand in node.all_input_nodes:
            view = self.parameters.get(operand)
            names = [self.buffers[operand]] if operand in self.buffers else view.names if view else ()
            for name in set(names).difference(passed_on):
                owned = statistics is not None and name in statistics.names
                self.readers.setdefault(name, set()).add(statistics if owned else None)

    def _drop_computed(self, node: Node) -> None:
        """Forget views that do not scale with their parameters: nothing can scale them later."""
        if node in self.parameters and not self.parameters[node].exact:
            del self.parameters[node]
        if any(not view.exact for view in self.parameter_lists.get(node, ())):
            del self.parameter_lists[node]

    def _passed_on(self, node: Node) -> set[str]:
        """Names of the parameters whose elements ``node`` passes on."""
        views = self.parameter_lists.get(node, [self.parameters[node]] if node in self.parameters else [])
        return {name for view in views for name in view.names}

    def _note_end(self, node: Node, result: Labels) -> None:
        if not isinstance(result, Tensor) or not is_pinned(result):
            return
        operands = self.activations(node)
        ends = [self.ended_by.get(operand) for operand in operands]
        ended_here = operands[0] if operator_name(node) == "getitem" else node
        self.ended_by[node] = operator_name(ended_here) if None in ends or not ends else str(ends[0])

    def unscaled(self, nodes: Iterable[Node]) -> dict[Node, Tensor]:
        """The requirement that each of ``nodes`` arrive without scaling."""
        found = ((n, self.labels_of(n)) for n in nodes)
        return {n: pinned(labels.shape) for n, labels in found if labels is not None}


def _covers(names: Sequence[str], view: ParameterView) -> bool:
    """Whether a view holds all elements of these parameters, and nothing else."""
    found = view.pull(torch.ones((), dtype=torch.int64)) or {}
    return found.keys() == set(names) and all(bool(index.all()) for index in found.values())


def tie_factors(ties: Ties, first: Sequence[Factor], second: Sequence[Factor], operator: str) -> None:
    """Tie labels so that two products of factors agree: those that vary along the same axes are tied to
    each other, and what is left over is pinned."""
    left = [_term(ties, factor.index * factor.power) for factor in second]
    for axes, labels in (_term(ties, factor.index * factor.power) for factor in first):
        partners = [position for position, (other, _) in enumerate(left) if other == axes]
        if partners:
            ties.tie(labels, left.pop(partners[0])[1], operator)
        else:
            ties.pin(labels, operator)
    for _, labels in left:
        ties.pin(labels, operator)


def _term(ties: Ties, labels: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """Labels, and the axes along which they vary."""
    labels = collapse(ties.resolve(labels))
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1), labels


def pinned_like(shapes: Any) -> Labels:
    """Pinned labels for results of these shapes, as ``result_shapes`` gives them."""
    if isinstance(shapes, list):
        return [pinned_like(s) for s in shapes]
    return None if shapes is None else pinned(shapes)
