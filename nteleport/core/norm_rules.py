"""Normalizations whose inputs are scaled, exactly but for the ``eps`` beside the variance.

A normalization undoes any positive scale that all elements behind one of its statistics share. So such
elements are tied, and the scale ends there. Running statistics are statistics of the scaled input: they are
scaled with it, and the weight γ is corrected for the ``eps`` beside the running variance, see
``nteleport.core.quiver.Correction``. That takes buffers and a weight that nothing else reads, in any walk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node

from nteleport.core.activation_rules import normalize
from nteleport.core.calls import arguments, operator_name, result_shapes
from nteleport.core.kept import resolved_factors
from nteleport.core.parameter_views import whole
from nteleport.core.quiver import Correction, Factor, ParameterScaling
from nteleport.core.ties import Ties
from nteleport.core.walk import Flow, Propagation, Statistics, pinned_like
from nteleport.core.weight_rules import normalization


def scaled_normalization(node: Node, walk: Propagation) -> Flow | None:
    """A normalization of a scaled input: its output carries fresh labels where it has a weight, otherwise
    none. What cannot move arrives as in ``normalize``."""
    given = arguments(node)
    labels, weight = walk.labels_of(given["input"]), walk.parameter(given.get("weight"))
    if labels is None or not _is_alone(node):
        return normalize(node, walk)
    statistics = None
    if given.get("running_mean") is not None or given.get("running_var") is not None:
        statistics = _statistics(given, labels, walk)
        if statistics is None:
            return normalize(node, walk)
    flow = normalization(node, walk) if weight else Flow(pinned_like(result_shapes(node)))
    if flow is None or flow.conjugated:
        return None
    flow.operands.pop(given["input"], None)
    flow.operands.update(walk.unscaled(n for n in walk.activations(node) if n is not given["input"]))
    _tie(labels, node, walk)
    flow.statistics = statistics
    return flow


def _is_alone(node: Node) -> bool:
    """Whether the first result is the only one that is read: others are statistics, which are scaled."""
    if not isinstance(result_shapes(node), list):
        return True
    return all(user.args[1] == 0 or not user.users for user in node.users)


def _tie(labels: Tensor, node: Node, walk: Propagation) -> None:
    """Tie all elements behind one statistic, and let them be positive."""
    assert walk.ties is not None
    given, name = arguments(node), operator_name(node)
    groups = given.get("num_groups", given.get("group"))
    if groups is not None:
        labels = labels.reshape(labels.shape[0], groups, -1, *labels.shape[2:])
    axes = [axis for axis in range(labels.dim()) if axis != 1]
    if "normalized_shape" in given:
        axes = list(range(-len(given["normalized_shape"]), 0))
    walk.ties.restrict(walk.ties.tie_along(labels, axes, name), "positive", name)


def _statistics(given: Mapping[str, Any], labels: Tensor, walk: Propagation) -> Statistics | None:
    """The running statistics of a layer; None where they or its weight cannot be moved."""
    mean, variance = (walk.buffers.get(given[name]) for name in ("running_mean", "running_var"))
    weight, bias = walk.parameter(given.get("weight")), walk.parameter(given.get("bias"))
    if mean is None or variance is None or mean == variance or weight is None or labels.dim() < 2:
        return None
    name = weight.names[0]
    channels = labels[(slice(0, 1), slice(None), *[slice(0, 1)] * (labels.dim() - 2))].reshape(-1)
    if not weight.is_same(whole(name, (len(channels),))) or (bias is not None and name in bias.names):
        return None
    return Statistics(mean, variance, name, float(given["eps"]), channels)


def tie_statistics(walks: Sequence[Propagation], ties: Ties) -> None:
    """Let every running statistic have one scale in all walks, and none where anything else reads it, or the
    weight that it corrects."""
    first: dict[Statistics, Tensor] = {}
    for each in (statistics for walk in walks for statistics in walk.statistics):
        readers = {reader for walk in walks for name in each.names for reader in walk.readers.get(name, ())}
        if readers == {each}:
            ties.tie(first.setdefault(each, each.channels), each.channels, "batch_norm")
        else:
            ties.pin(each.channels, "batch_norm")


def scaled_buffers(
    walks: Iterable[Propagation], ties: Ties
) -> tuple[dict[str, ParameterScaling], tuple[Correction, ...]]:
    """How running statistics are scaled, and which weights are corrected for that; over labels."""
    buffers: dict[str, ParameterScaling] = {}
    found: dict[str, Correction] = {}
    for each in (statistics for walk in walks for statistics in walk.statistics):
        factors = resolved_factors([Factor(each.channels, 1)], ties)
        if not factors:
            continue
        shape = each.channels.shape
        squares = tuple(Factor(factor.index, 2 * factor.power) for factor in factors)
        buffers[each.mean] = ParameterScaling(shape, factors, "teleported", "a running mean")
        buffers[each.variance] = ParameterScaling(shape, squares, "teleported", "a running variance")
        found[each.weight] = Correction(each.weight, each.variance, each.eps)
    return buffers, tuple(found.values())
