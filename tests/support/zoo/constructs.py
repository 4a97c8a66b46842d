"""What the tables of constructs are written with.

A construct is one wiring or one operator in a network as small as it can be. Most are a function between two
layers: ``vectors(lambda n, h: h.roll(2, 1))`` is a network in which activations ``h`` of shape (4, 8) are
rolled. The function gets the network as well, ``n``, and finds its further layers and parameters there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, positional arguments, keyword arguments, or a pair of the last two."""

Made = tuple[nn.Module, Inputs]
Parts = Callable[[], nn.Module | nn.Parameter | Tensor]
Middle = Callable[["Wired", Tensor], Any]


class Wired(nn.Module):
    """A module whose forward is given as a function of itself: keeps each network of the zoo in one place."""

    def __init__(
        self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor | None
    ) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self._forward(self, *inputs, **keywords)


@dataclass(frozen=True)
class Construct:
    """A maker of a network and its inputs.

    Attributes:
        precision: the narrowest type in which the network computes. Where it is not float64, outputs agree to
            a few units of its rounding, see ``tolerance``.
        modes: in which modes (training?) the network runs at all.
        traced: in which of them a trace by torch.export stands for the network.
    """

    make: Callable[[], Made]
    precision: torch.dtype = torch.float64
    modes: tuple[bool, ...] = (True, False)
    traced: tuple[bool, ...] = (True, False)

    def __call__(self) -> Made:
        return self.make()

    def tolerance(self, in_float64: float) -> float:
        """``in_float64``, or 16 units of rounding of a narrower type: one for each value moved on the way."""
        return in_float64 if self.precision == torch.float64 else 16 * torch.finfo(self.precision).eps


Table = dict[str, Construct]


def vectors(middle: Middle, **options: Any) -> Construct:
    """``middle`` between two linear layers: it gets activations of shape (4, 8)."""
    return _between(
        middle,
        lambda: torch.randn(4, 7),
        partial(nn.Linear, 7, 8),
        lambda s: nn.Linear(s[1:].numel(), 3),
        **options,
    )


def sequences(middle: Middle, **options: Any) -> Construct:
    """``middle`` between two layers that are linear in the last axis: it gets shape (4, 5, 8)."""
    return _between(
        middle,
        lambda: torch.randn(4, 5, 7),
        partial(nn.Linear, 7, 8),
        lambda s: nn.Linear(s[-1], 3),
        **options,
    )


def images(middle: Middle, **options: Any) -> Construct:
    """``middle`` between two convolutions: it gets activations of shape (2, 8, 6, 6)."""
    return _between(
        middle,
        lambda: torch.randn(2, 3, 6, 6),
        partial(nn.Conv2d, 3, 8, 3, padding=1),
        lambda s: nn.Conv2d(s[1], 4, 1),
        **options,
    )


def _between(
    middle: Middle,
    inputs: Callable[[], Tensor],
    first: Callable[[], nn.Module],
    last: Callable[[torch.Size], nn.Module],
    *,
    precision: torch.dtype = torch.float64,
    modes: tuple[bool, ...] = (True, False),
    traced: tuple[bool, ...] = (True, False),
    **parts: Parts,
) -> Construct:
    def forward(n: Wired, x: Tensor) -> Tensor:
        hidden = middle(n, n.first(x))
        return n.last(hidden.flatten(1) if isinstance(n.last, nn.Linear) and x.dim() == 2 else hidden)

    def make() -> Made:
        network = Wired(forward, first=first(), **{name: part() for name, part in parts.items()})
        x = inputs()
        with torch.no_grad():
            network.last = last(middle(network.eval(), network.first(x)).shape)
        return network.train(), x

    return Construct(make, precision, modes, traced)


def whole(
    forward: Callable[..., Any],
    inputs: Callable[[], Inputs],
    precision: torch.dtype = torch.float64,
    **parts: Parts,
) -> Construct:
    """A network of which ``forward`` is all."""
    return Construct(
        lambda: (Wired(forward, **{name: part() for name, part in parts.items()}), inputs()), precision
    )


def entry(
    table: Table, kind: Callable[..., Construct], *arguments: Any, **options: Any
) -> Callable[..., Any]:
    """Decorator: the function, between layers of this kind, is an entry of the table under its own name."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        table[function.__name__] = kind(function, *arguments, **options)
        return function

    return enter


def linear(inputs: int, outputs: int, **options: Any) -> Parts:
    return partial(nn.Linear, inputs, outputs, **options)


def weight(*shape: int) -> Parts:
    return lambda: nn.Parameter(torch.randn(shape))


def noise(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def tokens(*shape: int, below: int = 11) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, below, shape)


_BATCH = noise(4, 7)


def two_layers(forward: Callable[..., Any], inputs: Callable[[], Inputs] = _BATCH, **parts: Any) -> Construct:
    """Two linear layers: ``first`` from 7 to 8, ``last`` from 8 to 3."""
    return whole(forward, inputs, first=linear(7, 8), last=linear(8, 3), **parts)
