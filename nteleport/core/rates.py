"""Rates: what a teleportation does to the steps of training, without the teleportation.

Training a teleported network is training the plain one by an optimizer that works on ``s ⊙ θ``, see
``nteleport.core.coordinates``. That asks nothing of ``s``: any positive numbers would do, also those that
no change of basis gives. *Rates* ``r`` say by how much the steps of each weight grow:

``p = 2`` (SGD, ASGD: steps proportional to the gradient)
    The optimizer works on ``θ / √r``, so gradients are multiplied by ``r``. Weight decay is not, whatever
    momentum there is: ``θ ← θ − lr (r g + wd θ)``.
``p = 1`` (all others)
    The optimizer works on ``θ / r``, with gradients ``r g``. If ``Δ`` is the step that it takes for these
    gradients and ``wd`` a decoupled weight decay, ``θ ← (1 − lr wd) θ + r Δ``. For Adam and its kin ``Δ`` does
    not depend on ``r``, ``eps`` aside. A weight decay that is part of the gradient (an L2 penalty) is that of
    ``θ / r``, as after a teleportation it is that of the teleported weights.

So constant rates are parameter groups of plain PyTorch: SGD with ``lr · r`` and ``weight_decay / r``; AdamW
with ``lr · r``, ``eps / r`` and ``weight_decay / r``; Adam with ``lr · r``, ``eps / r`` and ``weight_decay / r²``.
A teleportation's own rates are ``|s|⁻ᵖ``: they train as it does, wherever an optimizer acts on each weight by
itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import ASGD, SGD, Optimizer

from nteleport.core.quiver import Quiver, scales
from nteleport.errors import TeleportationError, nearest

Rates = Mapping[str, Tensor]
"""By the name of a parameter, positive numbers that broadcast to it, one dimension for each of its own.
Parameters without rates have 1."""


def rate_exponent(optimizer_class: type[Optimizer]) -> int:
    """``p``: 2 where steps are proportional to the gradient, otherwise 1."""
    return 2 if optimizer_class in (SGD, ASGD) else 1


def own_rates(quiver: Quiver, cob: Tensor, exponent: int) -> dict[str, Tensor]:
    """The rates of a teleportation, ``|s|⁻ᵖ``, for every parameter that the CoB reaches.

    Args:
        quiver: from ``nteleport.analyze``.
        cob: shape ``(quiver.cob_size,)``.
        exponent: ``p``, see ``rate_exponent``.
    """
    return {name: s.abs().pow(-exponent) for name, s in scales(quiver, cob, expand=False).items()}


def layer_rates(rates: Rates) -> dict[str, Tensor]:
    """One number per tensor, the mean of its rates: all that parameter groups can imitate."""
    # Axes along which a rate is constant have size 1, which leaves the mean as it is.
    return {name: rate.mean().view([1] * rate.dim()) for name, rate in rates.items()}


def shuffled_rates(quiver: Quiver, rates: Rates, generator: torch.Generator) -> dict[str, Tensor]:
    """The rates of each tensor in a random order: the same numbers without the pattern of a CoB.

    Args:
        quiver: has the shapes of the parameters.
        rates: to be shuffled within each tensor, element by element.
        generator: source of the permutations, on the CPU.
    """
    shuffled = {}
    for name, rate in rates.items():
        whole = rate.expand(quiver.parameters[name].shape)
        order = torch.randperm(whole.numel(), generator=generator).to(rate.device)
        shuffled[name] = whole.flatten()[order].view_as(whole)
    return shuffled


def checked_rates(rates: object, like: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rates in the dtype and on the device of ``like``, in the order of ``parameters``.

    Raises:
        TeleportationError: rates of no parameter, that do not broadcast to it, or that are not positive, or
            whose squares or inverses leave the range of the dtypes in which they are used.
    """
    if not isinstance(rates, Mapping):
        raise TeleportationError(f"rates are a mapping from names to tensors, got {type(rates).__name__}")
    for name, rate in rates.items():
        if name not in parameters:
            raise TeleportationError(
                f"rates of {name!r}, which is no parameter{nearest(str(name), parameters)}"
            )
        _check_rate(name, rate, like.dtype, parameters[name])
    return {name: rates[name].detach().to(like) for name in parameters if name in rates}


def _check_rate(name: str, rate: object, dtype: torch.dtype, parameter: Tensor) -> None:
    shape = tuple(parameter.shape)
    if not isinstance(rate, Tensor) or not rate.is_floating_point() or rate.layout != torch.strided:
        found = rate.dtype if isinstance(rate, Tensor) else type(rate).__name__
        raise TeleportationError(f"rates of {name} are a dense tensor of real numbers, got {found}")
    fits = rate.dim() == len(shape) and all(
        found in (1, size) for found, size in zip(rate.shape, shape, strict=True)
    )
    if not fits:
        raise TeleportationError(
            f"rates of {name} have shape {tuple(rate.shape)}, expected {shape} or 1 along some axes"
        )
    narrow = parameter.dtype.to_real()
    for power in (1, -1, 2, -2):
        used = rate.to(dtype).pow(power)
        usable = (used > 0) & torch.isfinite(used)
        if abs(power) == 1:
            usable &= torch.isfinite(used.to(narrow)) & (used.to(narrow) > 0)
        if not bool(usable.all()):
            raise TeleportationError(
                f"rates of {name} go from {float(rate.min()):.1e} to {float(rate.max()):.1e}; expected positive "
                f"numbers that, with their inverses, are finite in {narrow}, and with their squares in {dtype}"
            )
