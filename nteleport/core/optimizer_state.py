"""How the state of torch optimizers moves under a teleportation.

With ``r`` the new scale of a parameter over its old one, weights are multiplied by ``r`` and gradients by ``1
/ r``. What an optimizer accumulates from gradients therefore moves exactly: a mean of gradients by ``1 / r``,
a mean of squared gradients by ``1 / r²``, a step size in weight units by ``|r|``. The only exception is the
``eps`` that Adamax and RMSprop mix into what they accumulate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nteleport.errors import TeleportationError

_Factor = Callable[[Tensor], Tensor]

_IMPLEMENTATIONS = ("fused", "foreach", "capturable", "differentiable")
"""Arguments of optimizers that say how a step is computed, and not what it is."""


def _like_gradient(r: Tensor) -> Tensor:
    return r.reciprocal()


def _like_gradient_squared(r: Tensor) -> Tensor:
    return r.pow(-2)


def _like_gradient_size(r: Tensor) -> Tensor:
    return r.reciprocal().abs()


def _like_weight(r: Tensor) -> Tensor:
    return r


def _like_weight_squared(r: Tensor) -> Tensor:
    return r.square()


def _like_weight_size(r: Tensor) -> Tensor:
    return r.abs()


_FACTORS: dict[str, dict[str, _Factor]] = {
    "SGD": {"momentum_buffer": _like_gradient},
    "Muon": {"momentum_buffer": _like_gradient},
    "Adam": {
        "exp_avg": _like_gradient,
        "exp_avg_sq": _like_gradient_squared,
        "max_exp_avg_sq": _like_gradient_squared,
    },
    "Adamax": {"exp_avg": _like_gradient, "exp_inf": _like_gradient_size},
    "Adagrad": {"sum": _like_gradient_squared},
    "Adadelta": {"square_avg": _like_gradient_squared, "acc_delta": _like_weight_squared},
    # RMSprop's momentum accumulates gradients divided by their size: only signs move.
    "RMSprop": {
        "square_avg": _like_gradient_squared,
        "grad_avg": _like_gradient,
        "momentum_buffer": torch.sign,
    },
    "Rprop": {"prev": _like_gradient, "step_size": _like_weight_size},
    "ASGD": {"ax": _like_weight},
}
_FACTORS.update(dict.fromkeys(["AdamW", "NAdam", "RAdam"], _FACTORS["Adam"]))


def check_transportable(optimizer: Optimizer) -> None:
    """Raise ``TeleportationError`` if the state of ``optimizer`` does not move by elementwise
    factors."""
    name = type(optimizer).__name__
    if name not in _FACTORS:
        raise TeleportationError(
            f"the state of {name} cannot be transported; use optimizer_state 'reset' or 'keep' "
            f"(transport is known for {', '.join(sorted(_FACTORS))})"
        )


def check_state(state: Any, trained: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Raise ``TeleportationError`` unless ``state`` is one that an optimizer like this one saved.

    Args:
        state: to be loaded into ``TeleportedOptimizer``.
        trained: the tensors that it trains, by name.
        optimizer: the torch optimizer inside.
    """
    keys = ("cob", "optimizer", "teleported_weights")
    if not isinstance(state, Mapping) or any(key not in state for key in keys):
        found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise TeleportationError(f"a saved state has the keys {', '.join(keys)}; got {found or 'none'}")
    groups = state["optimizer"].get("param_groups") if isinstance(state["optimizer"], Mapping) else None
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if not isinstance(groups, list) or [len(group["params"]) for group in groups] != expected:
        raise TeleportationError(
            f"the saved state of {type(optimizer).__name__} is not of groups of {expected} parameters"
        )
    for name, weights in state["teleported_weights"].items():
        if name not in trained or trained[name].shape != weights.shape:
            known = f"shape {tuple(trained[name].shape)}" if name in trained else "none of that name"
            raise TeleportationError(
                f"the saved state has weights {name} of shape {tuple(weights.shape)}, the network {known}"
            )


def initial_state(optimizer: Optimizer) -> dict[Tensor, Any]:
    """The state of ``optimizer`` before its first step, which for most is none.

    Adagrad and others fill it when they are made; so one more is made, unless that takes arguments that are
    no hyper-parameters.
    """
    known = inspect.signature(type(optimizer)).parameters
    defaults = {name: value for name, value in optimizer.defaults.items() if name in known}
    required = (name for name, each in known.items() if each.default is each.empty and name not in defaults)
    if set(required) - {next(iter(known))}:
        return {}
    groups = [dict(group) for group in optimizer.param_groups]
    return dict(type(optimizer)(groups, **defaults).state)


def maker_like(optimizer: Optimizer) -> partial[Optimizer]:
    """Makes an optimizer of other tensors, with the present hyper-parameters of the first group."""
    known = inspect.signature(type(optimizer)).parameters.keys() - {"params", *_IMPLEMENTATIONS}
    group = optimizer.param_groups[0]
    return partial(type(optimizer), **{key: group[key] for key in known & group.keys()})


@torch.no_grad()
def transport(optimizer: Optimizer, ratios: Mapping[Tensor, Tensor]) -> None:
    """Move the state of an optimizer that works in teleported coordinates.

    Args:
        optimizer: one that ``check_transportable`` accepts.
        ratios: for each parameter tensor, its new scale over its old one, broadcastable to it.
    """
    factors = _FACTORS[type(optimizer).__name__]
    for parameter, ratio in ratios.items():
        for key, value in _tensors_of(optimizer, parameter):
            if key in factors:
                value.mul_(factors[key](ratio))


@torch.no_grad()
def scale_momentum(optimizer: Optimizer, ratios: Mapping[Tensor, Tensor], power: int) -> None:
    """Multiply the momentum of an SGD that works in the plain network's coordinates by ``ratio ** power``.

    Its momentum is the teleported one over the scale: power −1 keeps the teleported one, −2 transports it.
    """
    for parameter, ratio in ratios.items():
        for key, value in _tensors_of(optimizer, parameter):
            if key == "momentum_buffer":
                value.mul_(ratio.pow(power))


def _tensors_of(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    state = optimizer.state.get(parameter, {})
    return ((key, value) for key, value in state.items() if isinstance(value, Tensor))
