"""Find the quiver of a network: trace it once, walk the graph once.

``torch.export`` gives a graph of ATen operators in which functional calls, reused modules and reshaped
tensors are plain nodes. The walk (``nteleport.core.walk``, ``nteleport.core.rules``) labels every
activation; the uses of the parameters that it records make up the quiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from nteleport.core.calls import result_shapes
from nteleport.core.kept import lost_entries, noticing_mode_reads, resolved_factors, tie_walks
from nteleport.core.labels import collapse, is_pinned, pinned
from nteleport.core.mutations import region
from nteleport.core.network_graph import (
    Traced,
    canonical_names,
    movable_buffers,
    trace_functional,
    unscalable,
)
from nteleport.core.norm_rules import scaled_buffers, tie_statistics
from nteleport.core.parameter_views import whole
from nteleport.core.quiver import Activations, Factor, Layer, Norms, ParameterScaling, Quiver, Status
from nteleport.core.rules import LARGEST_CONSTANT, propagate
from nteleport.core.ties import Ties
from nteleport.core.tracing import ExampleInputs, as_call
from nteleport.core.walk import NETWORK_INPUT, Flow, Labels, Propagation, Use
from nteleport.errors import AnalysisError
from nteleport.vocabulary import NORMS


def analyze(
    network: nn.Module,
    example_inputs: ExampleInputs,
    *,
    training: bool | None = None,
    activations: Activations = "conjugated",
    norms: Norms = "exact",
) -> Quiver:
    """Find how a change of basis acts on ``network``.

    With ``activations="kept"`` it finds the changes of basis that the unmodified network allows: teleported
    weights load into it, and its outputs are the same in training and evaluation mode. The quiver has fewer
    entries then, ``Quiver.admits`` says what each may be, and ``Quiver.lost`` which operators forbid others.
    A network whose own code asks for its mode is traced in both, where it runs in both.

    With ``norms="up_to_eps"`` the inputs of normalizations are free besides: positive, one entry per channel
    of a batch or instance norm, per group of a group norm, and for all features of a layer or rms norm.
    Running statistics move then (``Quiver.buffers``), and γ is corrected (``Quiver.corrections``), so that
    normalization by running statistics stays exact. Normalization by the statistics ``v`` of the input
    changes its output by the factor ``exp(±eps |1/τ² − 1| / 2v)`` at most. Batch norms without γ, or whose
    statistics or γ something else reads, keep their inputs pinned; so do those in regions of autocast or
    ``no_grad``, and in graphs with in-place operators on views, unless ``training`` is False.

    The network is left unchanged: its mode, buffers, attributes, random states and device stay as they were.

    Args:
        network: any module that ``torch.export`` can trace.
        example_inputs: a tensor; a tuple of positional arguments; a mapping of keyword arguments; or a tuple
            of both, ``(args, kwargs)``. They have the shape and the device of real inputs.
        training: whether to trace the network in training mode. None: in training mode, so that heads used
            only in training are seen too, or in evaluation mode where that is not possible (BatchNorm on a
            single value per channel).
        activations: ``conjugated``, as in the paper, or ``kept``.
        norms: ``exact``, or ``up_to_eps`` with activations kept.

    Returns:
        The quiver, its CoB entries numbered in execution order. Without any where nothing can move.

    Raises:
        AnalysisError: the network cannot be traced; unknown ``activations`` or ``norms``, or a pair of them
            that does not exist.
    """
    if not isinstance(network, nn.Module):
        raise AnalysisError(f"expected a torch.nn.Module, got {type(network).__name__}")
    if activations not in get_args(Activations):
        expected = " or ".join(get_args(Activations))
        raise AnalysisError(f"activations are {expected}, got {activations!r}")
    if norms not in NORMS:
        raise AnalysisError(f"norms are {' or '.join(NORMS)}, got {norms!r}")
    if norms == "up_to_eps" and activations == "conjugated":
        raise AnalysisError(
            "norms are up_to_eps only with activations kept: conjugated normalizations are exact as they are"
        )
    args, kwargs = as_call(example_inputs)
    noticing: AbstractContextManager[list[str]] = nullcontext([])
    if activations == "kept":
        noticing = noticing_mode_reads(network)
    with noticing as asked:
        traced = trace_functional(network, args, kwargs, training=training)
    fixed = unscalable(network, traced.changed)
    if activations == "conjugated":
        runs = Runs()
        walk = Propagation(runs.fresh)
        at_outputs = _walk_traced(network, traced, fixed, walk)
        return _build_quiver(network, [walk], runs, at_outputs, fixed, traced.training)
    ties = Ties()
    runs = Runs(ties)
    walks = [_kept_walk(network, traced, fixed, runs, ties, norms)]
    if asked:
        with suppress(AnalysisError):  # a network may not run in the other mode at all
            other = trace_functional(network, args, kwargs, training=not traced.training)
            walks.append(_kept_walk(network, other, fixed, Runs(ties, start=runs.count), ties, norms))
    tie_walks(walks, ties)
    tie_statistics(walks, ties)
    quiver = _build_quiver(network, walks, runs, pinned((1,)), fixed, traced.training)
    return replace(quiver, norms=norms)


def _kept_walk(
    network: nn.Module, traced: Traced, fixed: Mapping[str, str], runs: Runs, ties: Ties, norms: Norms
) -> Propagation:
    walk = Propagation(runs.fresh, ties, norms)
    ties.pin(_walk_traced(network, traced, fixed, walk), "output")
    return walk


def _walk_traced(network: nn.Module, traced: Traced, fixed: Mapping[str, str], walk: Propagation) -> Tensor:
    """Label every activation of a traced network; returns the labels that reach its outputs."""
    graph, sources = traced.program.graph, Sources({}, [], {}, {})
    names = canonical_names(network)
    buffers = movable_buffers(network, traced.changed) if walk.norms == "up_to_eps" else {}
    kinds = {spec.arg.name: spec for spec in traced.program.graph_signature.input_specs}
    values = {**traced.program.state_dict, **traced.program.constants}
    for node in graph.find_nodes(op="placeholder"):
        spec = kinds[node.name]
        if spec.kind == InputKind.USER_INPUT:
            sources.inputs.append(node)
        elif spec.kind == InputKind.PARAMETER and names[str(spec.target)] not in fixed:
            sources.parameters[node] = names[str(spec.target)]
        elif spec.target not in traced.changed:
            sources.add_constant(node, values.get(str(spec.target)))
            if spec.target in buffers:
                sources.buffers[node] = buffers[str(spec.target)]
    walk_graph(graph, sources, walk)
    return _output_labels(graph, walk)


class Sources(NamedTuple):
    """Where the values of a graph come from: parameters by name, inputs, constants, and movable buffers by
    name."""

    parameters: dict[Node, str]
    inputs: list[Node]
    constants: dict[Node, Tensor]
    buffers: dict[Node, str]

    def add_constant(self, node: Node, value: object) -> None:
        """Record what ``node`` holds, if rules can use it: positions and masks, on the CPU like labels."""
        if isinstance(value, Tensor) and value.numel() <= LARGEST_CONSTANT:
            self.constants[node] = value.detach().cpu()


def walk_graph(graph: Graph, sources: Sources, walk: Propagation) -> None:
    """Label every activation of an exported graph."""
    walk.constants.update(sources.constants)
    walk.buffers.update(sources.buffers)
    for node in sources.inputs:
        shapes = result_shapes(node)
        walk.labels[node] = pinned(shapes) if isinstance(shapes, torch.Size) else None
        walk.ended_by[node] = NETWORK_INPUT
    for node, name in sources.parameters.items():
        walk.parameters[node] = whole(name, result_shapes(node))
    _walk(graph, walk)


def _walk(graph: Graph, walk: Propagation) -> None:
    for node in graph.nodes:
        if node.op == "output":
            walk.finish_output(node)
        elif node.op == "call_function":
            inner = region(node)
            if inner is None:
                propagate(node, walk)
            else:
                _walk_region(node, *inner, walk)


def _walk_region(node: Node, graph: Graph, operands: Sequence[Any], walk: Propagation) -> None:
    """Walk the graph inside a region as if it stood in place of ``node``."""
    for placeholder, operand in zip(graph.find_nodes(op="placeholder"), operands, strict=True):
        placeholder.meta.setdefault("val", operand.meta.get("val"))
        tables: Any = (walk.labels, walk.parameters, walk.parameter_lists, walk.constants)
        for table in (*tables, walk.buffers, walk.ended_by):
            if operand in table:
                table[placeholder] = table[operand]
    _walk(graph, walk)
    results = graph.output_node().args[0]
    found = [walk.labels.get(r) for r in results]  # type: ignore[union-attr,arg-type]
    walk.labels[node] = found if any(labels is not None for labels in found) else None
    walk.flows[node] = Flow(walk.labels[node], moves_parameters=True)


class Runs:
    """Numbers labels from ``start`` in the order of the uses, and records which layer owns them."""

    def __init__(self, ties: Ties | None = None, start: int = 1) -> None:
        self.layers: list[Layer] = []
        self.by_parameter: dict[str, list[Tensor]] = {}
        self.count = start
        self.ties = ties

    def fresh(self, parameter: str, size: int) -> Tensor:
        labels = torch.arange(self.count, self.count + size)
        self.layers.append(Layer(parameter.rpartition(".")[0] or parameter, self.count, size))
        self.by_parameter.setdefault(parameter, []).append(labels)
        self.count += size
        if self.ties is not None:
            self.ties.grow(self.count)
        return labels


def _output_labels(graph: Graph, walk: Propagation) -> Tensor:
    """All labels that reach an output of the network."""

    def flatten(labels: Labels) -> Iterator[Tensor]:
        if isinstance(labels, list):
            for each in labels:
                yield from flatten(each)
        elif labels is not None:
            yield collapse(labels).flatten()

    found = [t for node in graph.output_node().all_input_nodes for t in flatten(walk.labels.get(node))]
    return torch.cat([torch.zeros(1, dtype=torch.int64), *found])


def _build_quiver(
    network: nn.Module,
    walks: Sequence[Propagation],
    runs: Runs,
    at_outputs: Tensor,
    fixed: Mapping[str, str],
    training: bool,
) -> Quiver:
    """Pin the labels at the outputs, number the others without gaps and turn uses into scalings."""
    walk, ties = walks[0], runs.ties
    factors = {name: used_factors(uses, name) for name, uses in walk.uses.items()}
    if ties is not None:
        factors = {name: resolved_factors(each, ties) for name, each in factors.items()}
    buffers, corrections = ({}, ()) if ties is None else scaled_buffers(walks, ties)
    kept = torch.zeros(runs.count, dtype=torch.int64)
    for each in (*factors.values(), *(scaling.factors for scaling in buffers.values())):
        for factor in each:
            kept[factor.index.flatten()] = 1
    kept[at_outputs] = 0
    kept[0] = 0
    renumbered = torch.where(kept == 1, kept.cumsum(0), 0)
    aliases: dict[str, list[str]] = {}
    for alias, name in canonical_names(network).items():
        aliases.setdefault(name, []).append(alias)
    parameters = {}
    for name, parameter in network.named_parameters():
        scaling = ParameterScaling(
            parameter.shape,
            _renumbered(factors.get(name, ()), renumbered),
            "untouched",
            fixed.get(name, ""),
            tuple(renumbered[_roots(labels, ties)] for labels in runs.by_parameter.get(name, ())),
        )
        parameters[name] = scaling if name in fixed else _explained(scaling, name, walk, aliases[name])
    for correction in corrections:
        parameters[correction.weight] = _corrected(parameters[correction.weight])
    quiver = Quiver(int(kept.sum()), parameters, tuple(_layers(runs, renumbered)), training)
    if ties is None:
        return quiver
    admits = ties.admitted(kept.nonzero().flatten())
    return replace(
        quiver,
        activations="kept",
        admits=admits,
        lost=lost_entries(runs.layers, kept, ties),
        buffers={
            name: replace(scaling, factors=_renumbered(scaling.factors, renumbered))
            for name, scaling in buffers.items()
        },
        corrections=corrections,
    )


def _layers(runs: Runs, renumbered: Tensor) -> Iterator[Layer]:
    """The layers that own entries."""
    for run in runs.layers:
        entries = renumbered[run.start : run.start + run.size]
        entries = entries[entries > 0]
        if len(entries):
            yield Layer(run.name, int(entries[0]) - 1, len(entries))


def _renumbered(factors: Iterable[Factor], renumbered: Tensor) -> tuple[Factor, ...]:
    """Factors over entries of the extended CoB, without those that are 1."""
    moved = (Factor(renumbered[f.index], f.power) for f in factors)
    return tuple(factor for factor in moved if bool(factor.index.any()))


def _roots(labels: Tensor, ties: Ties | None) -> Tensor:
    return labels if ties is None else ties.resolve(labels).abs()


def used_factors(uses: Sequence[Use], name: str) -> tuple[Factor, ...]:
    """The scale of one parameter, from the uses of its parts."""
    found = []
    for power in (1, -1):
        indices = [f.index for use in uses for f in use.factors[name] if f.power == power]
        if indices:
            found.append(Factor(reduce(torch.add, indices), power))  # parts do not overlap
    return tuple(found)


def _explained(
    scaling: ParameterScaling, name: str, walk: Propagation, aliases: Sequence[str]
) -> ParameterScaling:
    """The scaling with its status and reason."""
    uses, unscaled_by = walk.uses.get(name, []), walk.plain_reads.get(name)
    if not uses:
        reason = f"no rule for its use in {unscaled_by}" if unscaled_by else "not reached from the inputs"
        return replace(scaling, reason=reason)
    if not scaling.factors:
        return replace(scaling, reason=_why_lost(uses[0], walk.ties) or _why_pinned(uses))
    ties = []
    count = sum(use.count for use in uses)
    if count > len(uses):
        ties.append(f"used {count} times, scaled by its first use")
    if unscaled_by:
        ties.append(f"read unscaled by {unscaled_by}")
    if len(aliases) > 1:
        ties.append("shared by " + ", ".join(aliases))
    reason = "; ".join([_sides(uses[0].operator, scaling.factors), *ties])
    return replace(scaling, status="tied" if ties else "teleported", reason=reason)


def _corrected(scaling: ParameterScaling) -> ParameterScaling:
    """The scaling of a weight that is corrected for the scale of a running variance."""
    status: Status = "tied" if scaling.status == "tied" else "teleported"
    return replace(scaling, status=status, reason=f"{scaling.reason}; corrected for eps")


def _why_lost(use: Use, ties: Ties | None) -> str:
    """What pins the side that a parameter feeds where activations are kept, unless an output does."""
    if ties is None or use.outputs is None or is_pinned(use.outputs):
        return ""
    labels = collapse(use.outputs).abs().unique()
    if not is_pinned(ties.resolve(labels)):
        return f"{use.operator}: its scales on both sides cancel"
    found = dict.fromkeys(name for name in ties.ended_by(labels) if name not in ("", "output"))
    return f"{use.operator}: outputs pinned by {', '.join(found)}" if found else ""


def _why_pinned(uses: Sequence[Use]) -> str:
    """What pins both sides of a parameter that no entry of the CoB scales."""
    use = uses[0]
    reads = f", reads what {use.ended_by} leaves unscaled" if use.ended_by else ""
    if any(use.outputs is not None and not is_pinned(use.outputs) for use in uses):
        return f"{use.operator}: feeds an output of the network" + reads
    return f"{use.operator}: joins what {use.ended_by or 'nothing'} leaves unscaled"


def _sides(operator: str, factors: tuple[Factor, ...]) -> str:
    powers = {factor.power for factor in factors}
    outputs = "output side scaled" if 1 in powers else "outputs pinned"
    return f"{operator}: {outputs}" + (", input side scaled" if -1 in powers else "")
