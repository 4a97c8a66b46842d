"""Sampling changes of basis (section 4 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from nteleport.core.quiver import Quiver, check_form
from nteleport.errors import TeleportationError
from nteleport.vocabulary import Sampling, sampling_problem

SMALLEST_ENTRY = 1e-6
"""No sampled entry is closer to zero than this: zero has no inverse."""


def sample_cob(
    size: int,
    cob_range: float,
    sampling: Sampling,
    *,
    center: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a change of basis.

    With ``r = cob_range``: ``intra_landscape`` U[1−r, 1+r]; ``inter_landscape`` U[1−r, 1+r] or U[−1−r, −1+r]
    with equal probability, chosen per entry; ``positive`` U[0, r]; ``negative`` U[−r, 0]; ``centered`` U[c−r,
    c+r].

    Args:
        size: number of entries; at least 0.
        cob_range: ``r``; at most 1 for ``intra_landscape``, in (0, ``center``] for ``centered``.
        sampling: one of the names above.
        center: ``c`` of ``centered``.
        generator: source of randomness, on the CPU; torch's default generator if None.

    Returns:
        float32 tensor of shape ``(size,)`` on the CPU, all ``|τ| ≥ 1e-6``.

    Raises:
        TeleportationError: unknown ``sampling``, or one that forbids ``cob_range``; a ``size`` that is not a
            whole number of at least 0; numbers beyond float32; a ``generator`` that is not one of the CPU.
    """
    problem = sampling_problem(sampling, cob_range, center)
    if problem:
        raise TeleportationError(problem)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**48:
        raise TeleportationError(f"size is the number of entries, a whole number of at least 0; got {size!r}")
    if cob_range + abs(center) > torch.finfo(torch.float32).max:
        raise TeleportationError(f"cob_range {cob_range:g} gives entries beyond float32")
    if generator is not None and not (
        isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    ):
        raise TeleportationError(f"expected a torch.Generator on the CPU or None, got {generator!r}")
    uniform = torch.rand(size, generator=generator)
    if sampling == "positive":
        cob = cob_range * uniform
    elif sampling == "negative":
        cob = -cob_range * uniform
    else:
        middle = center if sampling == "centered" else 1.0
        cob = middle + cob_range * (2 * uniform - 1)
        if sampling == "inter_landscape":
            flipped = torch.rand(size, generator=generator) < 0.5
            cob = torch.where(flipped, -cob, cob)
    return _away_from_zero(cob, negative=sampling == "negative")


def admitted_cob(quiver: Quiver, drawn: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A drawn CoB, made one that ``quiver`` admits: ``|τ|`` where an entry is positive; a fair coin, 1 or
    −1, where it admits nothing else.

    Args:
        drawn: shape ``(quiver.cob_size,)``, as from ``sample_cob``.
        generator: tosses the coins, on the CPU; it is not used where no entry admits ±1 only.

    Returns:
        a tensor like ``drawn``, on its device.
    """
    check_form(quiver, drawn)
    cob = torch.where(_admitting(quiver, "positive", drawn.device), drawn.abs(), drawn)
    if "sign" not in quiver.admits:
        return cob
    coins = 1 - 2 * torch.randint(2, (quiver.cob_size,), generator=generator)
    return torch.where(_admitting(quiver, "sign", cob.device), coins.to(cob), cob)


def layer_cob(quiver: Quiver, cob: Tensor) -> Tensor:
    """One entry per layer: the root mean square of its entries, 1 where it admits only ±1.

    Args:
        quiver: says which layer owns which entries.
        cob: one that it admits, shape ``(quiver.cob_size,)``.
    """
    constant = cob.clone()
    for layer in quiver.layers:
        entries = slice(layer.start, layer.start + layer.size)
        constant[entries] = cob[entries].double().square().mean().sqrt()
    return torch.where(_admitting(quiver, "sign", cob.device), 1.0, constant)


def _admitting(quiver: Quiver, word: str, device: torch.device) -> Tensor:
    """Which entries admit just what `word` says."""
    return torch.tensor([each == word for each in quiver.admits], dtype=torch.bool, device=device)


def _away_from_zero(cob: Tensor, *, negative: bool) -> Tensor:
    """Move entries within ``SMALLEST_ENTRY`` of zero out to it, keeping their sign."""
    sign = torch.where((cob < 0) | ((cob == 0) & negative), -1.0, 1.0)
    return sign * cob.abs().clamp(min=SMALLEST_ENTRY)
