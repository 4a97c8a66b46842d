"""Find the quiver of a network: trace it once, walk the graph once.

``torch.export`` gives a graph of ATen operators in which functional calls, reused modules and reshaped
tensors are plain nodes. The walk (:mod:`nteleport.propagation`, :mod:`nteleport.rules`) labels every
activation; what the parameters' claims say at the end is the quiver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from nteleport.errors import AnalysisError
from nteleport.labels import collapse, pinned
from nteleport.propagation import FreshLabels, Labels, ParameterRead, Propagation, result_shapes
from nteleport.quiver import Factor, Layer, ParameterScaling, Quiver
from nteleport.rules import propagate

ExampleInputs = Tensor | Sequence[object]


def analyze(network: nn.Module, example_inputs: ExampleInputs) -> Quiver:
    """Find how a change of basis acts on ``network``.

    The network is traced in training mode, so that heads that only train are seen too; where that is not
    possible (BatchNorm on a single value per channel) in evaluation mode. Its mode, buffers, random state and
    device are as before.

    Args:
        network: any module that ``torch.export`` can trace.
        example_inputs: a tensor, or a tuple of positional arguments, of the shape and on the device of real
            inputs.

    Returns:
        The quiver, its CoB entries numbered in execution order.

    Raises:
        AnalysisError: the network cannot be traced.
    """
    if not isinstance(network, nn.Module):
        raise AnalysisError(f"expected a torch.nn.Module, got {type(network).__name__}")
    program = _export_training_first(network, as_tuple(example_inputs))
    signature = program.graph_signature
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    reads, inputs = {}, set()
    names = canonical_names(network)
    for node in program.graph.find_nodes(op="placeholder"):
        spec = kinds[node.name]
        if spec.kind == InputKind.PARAMETER and spec.target is not None:
            reads[node] = ParameterRead(names[spec.target], False)
        elif spec.kind == InputKind.USER_INPUT:
            inputs.add(node)
    runs: list[Layer] = []
    walk = walk_graph(program.graph, reads, inputs, _allocator(runs))
    return _build_quiver(network, walk, runs, _output_labels(program.graph, walk))


def as_tuple(example_inputs: ExampleInputs) -> tuple[object, ...]:
    """Example inputs as positional arguments.

    Raises:
        AnalysisError: they are neither a tensor nor a sequence.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if not isinstance(example_inputs, Sequence) or isinstance(example_inputs, str):
        raise AnalysisError(
            f"example inputs are a tensor or a tuple of arguments, got {type(example_inputs).__name__}"
        )
    return tuple(example_inputs)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """For every name of every parameter, the first name of the same parameter (weights can be tied)."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }


def walk_graph(
    graph: Graph, parameters: dict[Node, ParameterRead], inputs: Iterable[Node], fresh: FreshLabels
) -> Propagation:
    """Label every activation of an exported graph."""
    walk = Propagation(fresh, parameters=dict(parameters))
    for node in inputs:
        shape = result_shapes(node)
        walk.labels[node] = pinned(shape) if isinstance(shape, torch.Size) else None
    for node in graph.nodes:
        if node.op == "call_function":
            propagate(node, walk)
    return walk


def export(network: nn.Module, example_inputs: tuple[object, ...]) -> ExportedProgram:
    """Trace ``network`` in its present mode. The random state is as before.

    Raises:
        AnalysisError: it cannot be traced.
    """
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)), _quiet_tracing():
            return torch.export.export(network, example_inputs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise AnalysisError(
            f"{type(network).__name__} cannot be traced by torch.export on these example inputs: {reason[0]}"
        ) from error


def _export_training_first(network: nn.Module, example_inputs: tuple[object, ...]) -> ExportedProgram:
    with _restored_modes(network):
        network.train()
        try:
            return export(network, example_inputs)
        except AnalysisError:
            network.eval()
            return export(network, example_inputs)


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Without torch's log of a failed operator, hundreds of lines: our error says in one what went wrong."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _restored_modes(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _allocator(runs: list[Layer]) -> FreshLabels:
    """Number labels from 1 in the order of the claims, and note who owns them."""

    def fresh(parameter: str, size: int, outputs_of: Callable[[Tensor], Tensor]) -> Tensor:
        start = runs[-1].start + runs[-1].size if runs else 1
        runs.append(Layer(parameter.rpartition(".")[0] or parameter, start, size))
        return torch.arange(start, start + size)

    return fresh


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


def _build_quiver(network: nn.Module, walk: Propagation, runs: list[Layer], at_outputs: Tensor) -> Quiver:
    """Pin the labels at the outputs, number the others without gaps and turn claims into scalings."""
    kept = torch.ones(1 + sum(run.size for run in runs), dtype=torch.int64)
    kept[at_outputs] = 0
    renumbered = torch.where(kept == 1, kept.cumsum(0), 0)
    layers = []
    for run in runs:
        entries = renumbered[run.start : run.start + run.size]
        entries = entries[entries > 0]
        if len(entries):
            layers.append(Layer(run.name, int(entries[0]) - 1, len(entries)))
    aliases: dict[str, list[str]] = {}
    for alias, name in canonical_names(network).items():
        aliases.setdefault(name, []).append(alias)
    parameters = {
        name: _scaling(name, parameter, walk, renumbered, aliases[name])
        for name, parameter in network.named_parameters()
    }
    return Quiver(int(kept.sum()), parameters, tuple(layers))


def _scaling(
    name: str, parameter: Tensor, walk: Propagation, renumbered: Tensor, aliases: list[str]
) -> ParameterScaling:
    claim, unscaled_by = walk.claims.get(name), walk.plain_reads.get(name)
    if claim is None:
        reason = f"no rule for its use in {unscaled_by}" if unscaled_by else "not reached from the inputs"
        return ParameterScaling(parameter.shape, (), "untouched", reason)
    moved = (Factor(renumbered[factor.index], factor.power) for factor in claim.factors)
    factors = tuple(factor for factor in moved if bool(factor.index.any()))
    ties = []
    if claim.uses > 1:
        ties.append(f"used {claim.uses} times, scaled by its first use")
    if unscaled_by:
        ties.append(f"read unscaled by {unscaled_by}")
    if len(aliases) > 1:
        ties.append("shared by " + ", ".join(aliases))
    reason = "; ".join([_sides(claim.operator, factors), *ties])
    return ParameterScaling(parameter.shape, factors, "tied" if ties else "teleported", reason)


def _sides(operator: str, factors: tuple[Factor, ...]) -> str:
    powers = {factor.power for factor in factors}
    outputs = "output side scaled" if 1 in powers else "outputs pinned"
    return f"{operator}: {outputs}" + (", input side scaled" if -1 in powers else "")
