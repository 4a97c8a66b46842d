"""What is asked of a change of basis and of a network before anything is changed.

Zero or infinite scales would turn weights into numbers that are not finite, without a word. So entries,
scales and their inverses are checked in the dtypes in which they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import mul

import torch
from torch import Tensor, nn

from nteleport.core.quiver import Quiver, check_form, factor_scales, scales
from nteleport.errors import TeleportationError


def check_cob(quiver: Quiver, cob: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise ``TeleportationError`` unless ``cob`` is a usable CoB of ``quiver`` in ``dtype``.

    Usable are finite, non-zero entries that the quiver admits and whose inverses are finite and non-zero,
    too; in the dtype of ``cob`` if ``dtype`` is None. This reads the values, and thus waits for the device:
    it is meant for entry points, not for hot loops.
    """
    check_form(quiver, cob)
    if cob.is_meta:
        raise TeleportationError("a change of basis on the device 'meta' has no values to teleport by")
    used = cob if dtype is None else cob.to(dtype)
    usable = _in_range(used) & _in_range(used.reciprocal())
    if not bool(usable.all()):
        position = int((~usable).nonzero()[0])
        raise TeleportationError(
            f"entry {position} of the change of basis is {cob[position].item()}; "
            f"every entry and its inverse must be finite and non-zero in {used.dtype}"
        )
    for word, holds in (("positive", used > 0), ("sign", used.abs() == 1)):
        if word not in quiver.admits:
            continue
        refused = torch.tensor([each == word for each in quiver.admits], device=used.device) & ~holds
        if bool(refused.any()):
            position = int(refused.nonzero()[0])
            expected = "a positive number" if word == "positive" else "1 or -1"
            raise TeleportationError(
                f"entry {position} of the change of basis is {cob[position].item()}; "
                f"with activations kept this network admits {expected} there"
            )


def _in_range(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values != 0)


def checked_cob(
    quiver: Quiver, cob: Tensor, like: Tensor, parameters: Mapping[str, Tensor], power: int = 1
) -> Tensor:
    """``cob`` in the dtype and on the device of ``like``, checked to be usable for these parameters.

    Raises:
        TeleportationError: see ``check_cob`` and ``check_scales``.
    """
    check_cob(quiver, cob, like.dtype)
    usable = cob.detach().to(like)
    check_scales(quiver, usable, parameters, power)
    return usable


def check_scales(quiver: Quiver, cob: Tensor, parameters: Mapping[str, Tensor], power: int = 1) -> None:
    """Raise ``TeleportationError`` if a scale, or what it is made of, leaves the range of its dtype.

    That is, if a factor, the product of factors or an inverse of these is zero or not finite: to the power
    1 in the dtype of the parameter, to the power ``power`` in the dtype of the CoB. Like ``check_cob``,
    this waits for the device. Scales are formed only for parameters where the extremes of the CoB leave a
    doubt, which those of sampled CoBs do not in float32.
    """
    if not cob.numel():
        return
    check_cob(quiver, cob)
    extent = _extent(cob)
    for name, parameter in parameters.items():
        narrow = _narrow(parameter, cob)
        # A scale has at most one factor of each power, or one that is squared.
        room = min(math.log(_range(narrow)) / 2, math.log(_range(cob.dtype)) / (2 * power)) - 0.01
        if extent > room and quiver.knows(name) and quiver.scaling(name).factors:
            _check_scale(name, factor_scales(quiver, cob, [name])[name], narrow, power)


def check_move(
    quiver: Quiver, new: Tensor, old: Tensor, parameters: Mapping[str, Tensor], power: int = 1
) -> None:
    """Raise ``TeleportationError`` if what was moved by ``old`` cannot be moved on to ``new``.

    Both are usable themselves; what moves is multiplied by the quotient of their scales.
    """
    try:
        check_scales(quiver, new / old, parameters, power)
    except TeleportationError as error:
        raise TeleportationError(f"the new change of basis over the current one: {error}") from None
    if not new.numel():
        return
    extent = _extent(old) + _extent(new / old)
    for name, parameter in parameters.items():
        narrow = _narrow(parameter, new)
        if extent > math.log(_range(narrow)) / 2 - 0.01 and quiver.knows(name):
            _check_way(quiver, name, new / old, old, narrow)


def _check_way(quiver: Quiver, name: str, ratio: Tensor, old: Tensor, narrow: torch.dtype) -> None:
    """Raise ``TeleportationError`` if a weight overflows between the factors of its move."""
    scale = scales(quiver, old, expand=False, names=[name]).get(name)
    for factor in factor_scales(quiver, ratio, [name]).get(name, ()):
        scale = factor if scale is None else scale * factor
        if not bool(_in_range(scale.to(narrow)).all()):
            raise TeleportationError(
                f"{name} cannot move there in one step: on the way it leaves the range of {narrow}; "
                "undo the teleportation first"
            )


def _check_scale(name: str, factors: tuple[Tensor, ...], narrow: torch.dtype, power: int) -> None:
    """Raise ``TeleportationError`` if the scale of one parameter leaves the range of a dtype."""
    powers = [each.pow(power) for each in factors]
    wide = factors[0].dtype
    held = [(each, narrow) for each in (*factors, reduce(mul, factors))]
    held += [(each, wide) for each in (*powers, reduce(mul, powers))]
    for values, dtype in held:
        if not bool((_in_range(values.to(dtype)) & _in_range(values.reciprocal().to(dtype))).all()):
            sizes = torch.cat([each.abs().flatten() for each in factors])
            squares = "" if power == 1 else f", their powers of {power}"
            raise TeleportationError(
                f"the scale of {name} is made of factors from {float(sizes.min()):.1e} to "
                f"{float(sizes.max()):.1e}; these{squares}, their products and the inverses of all must be "
                f"finite and non-zero in {dtype}"
            )


def _extent(cob: Tensor) -> float:
    """The largest logarithm of an entry or of its inverse."""
    size = cob.abs()
    return float(torch.maximum(size.max(), size.min().reciprocal()).double().log())


def _narrow(parameter: Tensor, cob: Tensor) -> torch.dtype:
    """The dtype of a parameter or of the CoB, whichever has the smaller range."""
    return parameter.dtype if _range(parameter.dtype) < _range(cob.dtype) else cob.dtype


def _range(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max if dtype.is_floating_point or dtype.is_complex else torch.inf


def check_network(network: nn.Module, quiver: Quiver, parameters: Mapping[str, Tensor] | None = None) -> None:
    """Raise ``TeleportationError`` unless the quiver knows these parameters of a network, by name and
    shape; all of them, and no others, if None.

    Buffers that the quiver scales must be there, too. A quiver without entries moves nothing, so it fits any
    network: baselines are trained with one.
    """
    for value, kind in ((network, nn.Module), (quiver, Quiver)):
        if not isinstance(value, kind):
            raise TeleportationError(f"expected a {kind.__name__}, got {type(value).__name__}")
    named = dict(network.named_parameters()) if parameters is None else parameters
    for name, parameter in named.items() if quiver.cob_size else ():
        known = quiver.parameters.get(name)
        if known is None or known.shape != parameter.shape:
            found = "none of that name" if known is None else f"{tuple(known.shape)}"
            raise TeleportationError(
                f"parameter {name} has shape {tuple(parameter.shape)}, in the quiver {found}: "
                "expected the quiver of this network, from nteleport.analyze"
            )
    _check_buffers(network, quiver)
    unknown = [name for name in quiver.parameters if name not in named] if parameters is None else []
    if unknown and quiver.cob_size:
        raise TeleportationError(
            f"the quiver has parameter {unknown[0]}, which this network has not: "
            "expected the quiver of this network, from nteleport.analyze"
        )


def _check_buffers(network: nn.Module, quiver: Quiver) -> None:
    buffers = dict(network.named_buffers()) if quiver.buffers else {}
    for name, scaling in quiver.buffers.items():
        if name not in buffers or buffers[name].shape != scaling.shape:
            found = (
                f"has shape {tuple(buffers[name].shape)}" if name in buffers else "is none of this network"
            )
            raise TeleportationError(
                f"buffer {name} {found}, in the quiver it has {tuple(scaling.shape)}: "
                "expected the quiver of this network, from nteleport.analyze"
            )


def refuse_buffers(quiver: Quiver, kind: str) -> None:
    """Raise ``TeleportationError`` where a quiver scales buffers: ``kind`` teleports parameters alone, which
    would not fit the running statistics beside them."""
    if quiver.buffers:
        raise TeleportationError(
            f"this quiver (norms='up_to_eps') moves running statistics such as {next(iter(quiver.buffers))}, "
            f"and {kind} moves parameters alone: expected norms='exact', or nteleport.teleport_"
        )


def check_whole(parameters: Mapping[str, Tensor]) -> None:
    """Raise ``TeleportationError`` unless all parameters are plain tensors, and not parts of larger ones."""
    for name, parameter in parameters.items():
        if type(parameter.data) is not Tensor:
            raise TeleportationError(
                f"parameter {name} is a {type(parameter.data).__name__}: only whole tensors can be scaled, "
                "so networks sharded by FSDP cannot be teleported"
            )
