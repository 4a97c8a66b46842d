"""From tied labels to the quiver of a network whose activations are kept."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType

import torch
from torch import Tensor, nn

from nteleport.core.labels import collapse
from nteleport.core.quiver import Factor, Layer, Lost
from nteleport.core.ties import Ties
from nteleport.core.walk import Propagation, tie_factors


def asks_for_its_mode(network: nn.Module) -> bool:
    """Whether the network's own code reads ``training``, so that it may be wired otherwise in the other mode.

    Layers of torch compute the same function in both, as far as scaling goes.
    """
    seen: set[CodeType] = set()
    for module in network.modules():
        parts = [*vars(module).values()]
        parts += vars(type(module)).values() if not _is_of_torch(type(module)) else []
        if any(_reads_training(part, seen) for part in parts):
            return True
    return False


@contextmanager
def noticing_mode_reads(network: nn.Module) -> Iterator[list[str]]:
    """Collect the names of the modules of code that asks a network for its mode while the block runs.

    What is traced without such a question is wired alike in both modes. Code of torch, and ours that sets
    modes, does not count. Only networks that may ask are watched.
    """
    asked: list[str] = []
    if not asks_for_its_mode(network):
        yield asked
        return

    def mode(module: nn.Module) -> bool:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if caller.partition(".")[0] != "torch" and not caller.startswith("nteleport.core."):
            asked.append(caller)
        return bool(module.__dict__["training"])

    def set_mode(module: nn.Module, training: bool) -> None:
        module.__dict__["training"] = training

    nn.Module.training = property(mode, set_mode)  # type: ignore[assignment]
    try:
        yield asked
    finally:
        del nn.Module.training


def _is_of_torch(made: object) -> bool:
    return str(getattr(made, "__module__", "")).partition(".")[0] == "torch"


def _reads_training(function: object, seen: set[CodeType]) -> bool:
    """Whether a function, or one that it calls by name, reads an attribute ``training``."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code in seen or _is_of_torch(function):
        return False
    seen.add(code)
    names = _names_in(code)
    called = [getattr(function, "__globals__", {}).get(name) for name in names]
    called += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return "training" in names or any(_reads_training(each, seen) for each in called)


def _names_in(code: CodeType) -> set[str]:
    nested = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_names_in, nested))


def tie_walks(walks: Sequence[Propagation], ties: Ties) -> None:
    """Let every parameter have one scale in all walks, and none where one of them reads it unscaled."""
    first = walks[0]
    for walk in walks[1:]:
        for name in walk.uses:
            known = _whole(first, name) if name in first.uses else []
            tie_factors(ties, known, _whole(walk, name), "training or evaluation mode")
    for walk in walks:
        for name, operator in walk.plain_reads.items():
            for factor in _whole(first, name):
                ties.pin(factor.index, operator)


def _whole(walk: Propagation, name: str) -> list[Factor]:
    """The factors of all parts of a parameter, which do not overlap."""
    found: dict[int, Tensor] = {}
    for factor in (f for use in walk.uses.get(name, ()) for f in use.factors[name]):
        known = found.get(factor.power)
        found[factor.power] = factor.index if known is None else known + factor.index
    return [Factor(index, power) for power, index in found.items()]


def resolved_factors(factors: Iterable[Factor], ties: Ties) -> tuple[Factor, ...]:
    """Factors over the labels that stand for others: inverse labels as factors of the other power, without
    those that cancel."""
    found: dict[int, list[Tensor]] = {1: [], -1: []}
    for factor in factors:
        index = collapse(ties.resolve(factor.index))
        for power in (1, -1):
            part = (index * power * factor.power).clamp(min=0)
            if bool(part.any()):
                found[power].append(part)
    for a, above in enumerate(found[1]):
        for b, below in enumerate(found[-1]):
            if above.shape == below.shape:
                same = above == below
                above, found[-1][b] = (part.masked_fill(same, 0) for part in (above, below))
        found[1][a] = above
    return tuple(Factor(part, power) for power, parts in found.items() for part in parts if bool(part.any()))


def lost_entries(layers: Iterable[Layer], kept: Tensor, ties: Ties) -> tuple[Lost, ...]:
    """Labels that do not stand for themselves, by layer and by what ended them."""
    found: Counter[tuple[str, str, bool]] = Counter()
    for layer in layers:
        labels = torch.arange(layer.start, layer.start + layer.size)
        labels = labels[kept[labels] == 0]
        pinned = (ties.resolve(labels) == 0).tolist()
        found.update(zip([layer.name] * len(labels), ties.ended_by(labels), pinned, strict=True))
    return tuple(
        Lost(layer, size, by, pinned) for (layer, by, pinned), size in found.items() if by != "output"
    )
