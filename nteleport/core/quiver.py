"""How a change of basis acts on the parameters of a network.

A teleportation gives every hidden neuron ``i`` a non-zero scalar ``τ_i``; the weight on the edge ``j → i``
becomes ``w_ij · τ_i / τ_j`` (Armenta et al., *Neural Teleportation*, arXiv 2012.01118, section 3). For each
parameter, the scale is a product of entries of the change of basis (CoB), one per axis, each with power +1
(the side of the neurons that the parameter feeds) or −1 (the side of those it reads). A ``Quiver``
records which entries those are. It is found once, by ``nteleport.analyze``, and from then on only
applied, by ``scales``.

Entry 0 of the *extended* CoB is the constant 1: neurons that point to it (inputs and outputs of the network)
are *pinned*. Entry ``k + 1`` of the extended CoB is entry ``k`` of the CoB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import mul
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nteleport.core.axes import Axes, Owner, Scaling, axes
from nteleport.errors import TeleportationError
from nteleport.vocabulary import Activations as Activations
from nteleport.vocabulary import Norms as Norms

Status = Literal["teleported", "tied", "untouched"]

Admitted = Literal["nonzero", "positive", "sign"]
"""Which numbers an entry of a CoB may be: any but 0, those above 0, or 1 and −1."""


@dataclass(frozen=True, eq=False)
class Factor:
    """One factor of the scale of a parameter: entries of the extended CoB, raised to ``power``.

    Attributes:
        index: int64 tensor, broadcastable to the parameter; the extended CoB entry of each position. It
            varies along one axis, except on the grouped side of a grouped convolution, where it varies along
            two.
        power: +1 on the output side, −1 on the input side; ±2 for running variances.
    """

    index: Tensor
    power: int


@dataclass(frozen=True, eq=False)
class ParameterScaling:
    """How one parameter or buffer is scaled: the product of its ``factors``, at most one of each power.

    Attributes:
        shape: of the parameter.
        factors: empty where the CoB does not reach it.
        status: teleported, tied to another use of the parameter, or untouched.
        reason: why, in words.
        outputs: extended CoB entries of the neurons that the parameter feeds, one vector per use that owns
            neurons, in execution order.
    """

    shape: torch.Size
    factors: tuple[Factor, ...]
    status: Status
    reason: str
    outputs: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A run of ``size`` entries of the CoB, from ``start``, owned by the layer ``name``."""

    name: str
    start: int
    size: int


@dataclass(frozen=True)
class Correction:
    """What keeps a normalization by running statistics exact although its ``eps`` does not scale.

    With ``r`` the scale of the running variance ``v``, the ``weight`` is multiplied, besides its scale, by
    ``sqrt((r v + eps) / (r (v + eps)))``. Then the layer computes in evaluation mode what it computed before.

    Attributes:
        weight: the parameter γ.
        variance: the buffer ``v``, of the same shape.
        eps: of the layer.
    """

    weight: str
    variance: str
    eps: float


class Lost(NamedTuple):
    """Entries of the paper's quiver that a layer loses where activations are kept.

    Attributes:
        layer: that owns them in the paper's quiver.
        size: how many they are.
        operator: that pins them, or ties them to other entries.
        pinned: whether they are 1; otherwise they are tied.
    """

    layer: str
    size: int
    operator: str
    pinned: bool


class ReportRow(NamedTuple):
    """One parameter in ``Quiver.report``."""

    name: str
    shape: tuple[int, ...]
    status: Status
    reason: str


@dataclass(frozen=True, eq=False)
class Quiver:
    """Frozen description of how a CoB of ``cob_size`` entries acts on the parameters of a network.

    Attributes:
        cob_size: number of free entries of the CoB.
        parameters: for each name of ``network.named_parameters()``, its scaling.
        layers: which layer owns which entries of the CoB, in execution order.
        training: whether the network was traced in training mode. A network that wires itself differently in
            evaluation mode has a different quiver there; both keep its function in both modes.
        activations: whether teleported weights need conjugated activations, or the network as it is.
        admits: what each entry may be, ``cob_size`` words; all ``nonzero`` where activations are conjugated.
        lost: the entries that the paper's quiver has besides, where activations are kept.
        norms: whether the inputs of normalizations stay as they are, or may be scaled.
        buffers: running statistics that are scaled with the parameters, by their names among
            ``network.named_buffers()``; none unless ``norms`` is ``up_to_eps``.
        corrections: of the weights of the normalizations that own these buffers.
    """

    cob_size: int
    parameters: Mapping[str, ParameterScaling]
    layers: tuple[Layer, ...]
    training: bool = True
    activations: Activations = "conjugated"
    admits: tuple[Admitted, ...] = ()
    lost: tuple[Lost, ...] = ()
    norms: Norms = "exact"
    buffers: Mapping[str, ParameterScaling] = field(default_factory=dict)
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        if not self.admits:
            object.__setattr__(self, "admits", ("nonzero",) * self.cob_size)

    def report(self) -> list[ReportRow]:
        """Every parameter as teleported, tied or untouched, each with the reason."""
        return [ReportRow(name, tuple(p.shape), p.status, p.reason) for name, p in self.parameters.items()]

    def axes(self) -> Axes:
        """For every axis of every parameter the groups of neurons that scale it, as plain data for JSON.

        A *group* is a run of entries of the CoB that occur together, in one order, on every axis where they
        occur; it bears the name of the layer that owns it. Each *part* of an axis is a whole group: entry
        ``i`` of the group scales the positions ``start + i · step + r`` of the axis, for ``0 ≤ r < repeat``,
        by its value to the ``power``: +1 on the output side, −1 on the input side. A concatenation has
        several parts, flattened maps a ``repeat``, a channel shuffle a ``step``, the input side of a grouped
        convolution a part ``within`` the output channels of each group. Positions in no part are pinned.

        Model merging knows this as the permutation specification of a network, which it writes by hand
        (Ainsworth et al., arXiv 2209.04836).

        Returns:
            ``{"groups": {name: {"start", "size", "admits"}}, "parameters": {name: [{"axis", "group", "power",
            "start", "step", "repeat", "within"}]}}``, ``within`` being a list of ``{"axis", "start",
            "stop"}``.
        """
        parameters = {
            name: Scaling(p.shape, [(factor.index, factor.power) for factor in p.factors])
            for name, p in self.parameters.items()
        }
        owners = [Owner(layer.name, layer.start, layer.size) for layer in self.layers]
        return axes(parameters, owners, self.admits)

    def to(self, device: torch.device | str) -> Quiver:
        """The same quiver with its index tensors on ``device``."""

        def moved(scalings: Mapping[str, ParameterScaling]) -> dict[str, ParameterScaling]:
            return {
                name: replace(p, factors=tuple(Factor(f.index.to(device), f.power) for f in p.factors))
                for name, p in scalings.items()
            }

        return replace(self, parameters=moved(self.parameters), buffers=moved(self.buffers))

    def scaling(self, name: str) -> ParameterScaling:
        """How the parameter or buffer of this name is scaled."""
        return self.parameters[name] if name in self.parameters else self.buffers[name]

    def knows(self, name: str) -> bool:
        """Whether this is the name of a parameter, or of a buffer that is scaled."""
        return name in self.parameters or name in self.buffers


def cob_dtype(parameters: Iterable[Tensor]) -> torch.dtype:
    """The dtype of changes of basis of a network: the widest real dtype of its parameters, at least float32.

    Complex parameters count as their real parts; integers and booleans are never scaled and do not count.
    """
    dtypes = (p.dtype.to_real() for p in parameters if p.is_floating_point() or p.is_complex())
    return reduce(torch.promote_types, dtypes, torch.float32)


def check_form(quiver: Quiver, cob: object) -> None:
    """Raise ``TeleportationError`` unless ``cob`` is a tensor of the shape of a CoB, and of numbers.

    Reads no value.
    """
    if not isinstance(cob, Tensor):
        found = type(cob).__name__
    elif cob.is_complex() or cob.dtype == torch.bool or cob.is_quantized:
        found = str(cob.dtype)
    elif cob.layout != torch.strided:
        found = str(cob.layout)
    elif cob.shape != (quiver.cob_size,):
        found = str(tuple(cob.shape))
    else:
        return
    raise TeleportationError(
        f"a change of basis for this network is a dense tensor of real numbers of shape "
        f"({quiver.cob_size},), got {found}"
    )


def factor_scales(
    quiver: Quiver, cob: Tensor, names: Iterable[str] | None = None
) -> dict[str, tuple[Tensor, ...]]:
    """The factors whose product is the scale of each parameter, or buffer, that the CoB reaches.

    Each is broadcastable to the parameter and has as many elements as a layer has neurons (times group width
    for grouped convolutions), so they need almost no memory. ``names`` restricts the result to these
    parameters and buffers; all parameters if None.
    """
    check_form(quiver, cob)
    extended = torch.cat([cob.new_ones(1), cob])
    powers = {1: extended, -1: extended.reciprocal()}
    if quiver.buffers:
        powers |= {2 * power: each.square() for power, each in powers.items()}
    wanted = (
        (name, quiver.scaling(name).factors) for name in (quiver.parameters if names is None else names)
    )
    return {
        name: tuple(powers[f.power][f.index.to(cob.device)] for f in factors)
        for name, factors in wanted
        if factors
    }


def scales(
    quiver: Quiver, cob: Tensor, *, expand: bool = True, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """The vector ``s(τ)`` that multiplies the parameters, ``θ' = s ⊙ θ`` (section 3 of the paper).

    The ``Quiver.corrections`` are no part of it: they depend on the running statistics.

    Args:
        quiver: from ``nteleport.analyze``.
        cob: shape ``(quiver.cob_size,)``, floating point. Gradients flow to it.
        expand: to the shape of each parameter. Otherwise axes along which a scale is constant keep size 1,
            and parameters that the CoB does not reach have no entry.
        names: restrict the result to these parameters, and buffers; all parameters if None.

    Returns:
        For each parameter name a tensor with the dtype and device of ``cob``. Constant axes share memory
        (they are expanded views): copy before writing.

    Raises:
        TeleportationError: not a tensor of real numbers of the shape of a CoB.
    """
    names = list(quiver.parameters if names is None else names)
    reached = {name: reduce(mul, factors) for name, factors in factor_scales(quiver, cob, names).items()}
    if not expand:
        return reached
    one = cob.new_ones(())
    return {name: reached.get(name, one).expand(quiver.scaling(name).shape) for name in names}


def teleported(
    parameters: Mapping[str, Tensor], quiver: Quiver, cob: Tensor, *, power: int = 1
) -> dict[str, Tensor]:
    """The parameters times ``scales ** power``, by name: teleported (1), or taken back to plain (−1).

    Differentiable in parameters and CoB. Parameters that the CoB does not reach are returned as they are.
    Where the quiver moves running statistics (``norms="up_to_eps"``), they belong among the parameters, and
    its corrections are applied.

    Args:
        parameters: by the names of the quiver, all or some of them.
        quiver: from ``nteleport.analyze``.
        cob: shape ``(quiver.cob_size,)``, on the device of the parameters.
        power: of the scales; gradients of plain weights take −1, second moments ∓2.

    Returns:
        Tensors of the shape of each parameter, in the wider of its dtype and the CoB's.

    Raises:
        TeleportationError: a CoB of another shape, or on another device than a parameter that it scales; the
            weight of a normalization without the running variance that corrects it.
    """
    moved = scaled(parameters, quiver, cob, power=power)
    for name, factor in corrections(quiver, cob, parameters, power=power).items():
        moved[name] = moved[name] * factor
    return moved


def corrections(
    quiver: Quiver, cob: Tensor, state: Mapping[str, Tensor], *, power: int = 1
) -> dict[str, Tensor]:
    """What multiplies weights of normalizations besides their scales, see ``Correction``.

    Args:
        state: parameters and buffers by name, before a move by ``cob ** power``. Weights that are not among
            them are left out.
        power: 1, or −1 for the move back; the corrections there and back are each other's inverses.

    Raises:
        TeleportationError: a weight among ``state`` without its running variance.
    """
    found = {}
    for each in quiver.corrections:
        if each.weight not in state:
            continue
        if each.variance not in state or power not in (1, -1):
            raise TeleportationError(
                f"{each.weight} moves together with {each.variance}: expected parameters and buffers of the "
                "network, such as its state_dict(), there (power 1) or back (-1)"
            )
        variance = state[each.variance].detach()
        ratio = _power(scales(quiver, cob, names=[each.variance])[each.variance], power).to(variance.device)
        quotient = (ratio * variance + each.eps) / (ratio * (variance + each.eps))
        found[each.weight] = torch.where(variance + each.eps == 0, 1, quotient).sqrt()
    return found


def scaled(
    parameters: Mapping[str, Tensor], quiver: Quiver, cob: Tensor, *, power: int = 1
) -> dict[str, Tensor]:
    """As ``teleported``, of any tensors that scale with the parameters, and without corrections."""
    known = [name for name in parameters if quiver.knows(name)]
    found = scales(quiver, cob, expand=False, names=known)
    for name in found:
        if parameters[name].device != cob.device:
            raise TeleportationError(
                f"parameter {name} is on {parameters[name].device} and the change of basis on {cob.device}: "
                "move them to one device"
            )
    return {name: p * _power(found[name], power) if name in found else p for name, p in parameters.items()}


def _power(scale: Tensor, power: int) -> Tensor:
    """``scale ** power``, as a factor: sparse gradients do not pass through a quotient."""
    whole = scale if abs(power) == 1 else scale.pow(abs(power))
    return whole.reciprocal() if power < 0 else whole
