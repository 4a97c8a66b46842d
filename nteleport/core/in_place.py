"""Teleport the weights of a network in place: nothing but numbers changes.

With activations kept, teleported weights belong to the network as it is. They are written into its own
parameters, and the optimizer's state into its own tensors; no object is replaced, so that optimizers,
averaged copies, ``DistributedDataParallel`` and references held elsewhere stay valid.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from nteleport.core.analysis import analyze
from nteleport.core.certificate import UP_TO_EPS_TOLERANCE, Certificate, Snapshot
from nteleport.core.checks import check_network, checked_cob
from nteleport.core.choosing import choose_cob
from nteleport.core.cob import admitted_cob, sample_cob
from nteleport.core.objectives import UserFunction
from nteleport.core.optimizer_state import check_transportable, transport
from nteleport.core.quiver import (
    Activations,
    Norms,
    Quiver,
    cob_dtype,
    corrections,
    factor_scales,
    scales,
)
from nteleport.core.scaling import divide, fast_factors, multiply, multiply_sparse
from nteleport.core.tracing import ExampleInputs, as_call
from nteleport.errors import TeleportationError, nearest
from nteleport.randomness import wide_dtype
from nteleport.vocabulary import NORMS, OPTIMIZER_STATES, Objective, OptimizerState, Sampling

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


class Teleported:
    """A network that was teleported in place, by ``teleport_``.

    Attributes:
        certificate: what the move did to outputs and weights; None where it was switched off.
        cob: the change of basis, shape ``(cob_size,)``, relative to the weights before.
        quiver: how it acts on the parameters.
    """

    def __init__(self, move: _Move, certificate: Certificate | None) -> None:
        self.certificate, self.cob, self.quiver = certificate, move.cob, move.quiver
        self._move, self._undone = move, False

    def undo(self) -> None:
        """Move the weights that the network has now back by the change of basis, in place.

        They are divided by the factors that multiplied them, one rounding per factor: directly after the
        move they are the weights before to two units in the last place, and exactly those where all entries
        are powers of two (weights of normalizations that were corrected for ``eps``: to three units). Running
        statistics that moved move back, too. Gradients and the optimizer's state move back likewise where
        they were transported; a state that was reset is reset again, a state that was kept is left alone.

        Raises:
            TeleportationError: it was undone already, or the network has other parameters now.
        """
        if self._undone:
            raise TeleportationError("this teleportation was undone already")
        check_network(self._move.network, self._move.quiver)
        self._move.weights(self._move.network, back=True)
        self._move.companions(back=True)
        self._undone = True


def teleport_(
    network: nn.Module,
    example_inputs: ExampleInputs,
    *,
    cob_range: float = 0.9,
    sampling: Sampling = "intra_landscape",
    objective: Objective | UserFunction | None = None,
    cob: Tensor | None = None,
    quiver: Quiver | None = None,
    generator: torch.Generator | None = None,
    optimizer: Optimizer | None = None,
    optimizer_state: OptimizerState = "transport",
    activations: Activations = "kept",
    norms: Norms = "exact",
    certificate: bool | Literal["full"] = True,
    tolerance: float | None = None,
) -> Teleported:
    """Teleport the weights of ``network`` in place; its activations are kept.

    The network computes what it computed before, and no object is replaced: parameters (tied, frozen and
    not held by the optimizer included), gradients that are there already and the tensors of
    ``optimizer.state`` are multiplied in place under ``torch.no_grad()``.

    Args:
        network: any module that ``torch.export`` can trace; not a wrapper around it.
        example_inputs: as for ``nteleport.analyze``. The certificate compares outputs on them.
        cob_range, sampling, generator: of the change of basis, as for ``nteleport.sample_cob``. Entries that
            admit positive numbers only take ``|τ|``, those that admit 1 and −1 only a fair coin.
        objective: choose the change of basis instead, by this objective of ``nteleport.choose_cob`` and on
            the example inputs. For objectives that need labels or options, call ``choose_cob`` yourself and
            give its ``cob``.
        cob: the change of basis itself, shape ``(quiver.cob_size,)``.
        quiver: from ``nteleport.analyze`` of this architecture with activations kept, to skip the analysis.
        optimizer: trains ``network``; its state follows.
        optimizer_state: ``transport`` moves the state exactly, as a gradient (a first moment) or its square
            (a second moment), except for the ``eps`` inside RMSprop's and Adamax's; ``reset`` starts it
            afresh; ``keep`` leaves the numbers as they are.
        activations: only ``kept`` can be in place.
        norms: ``up_to_eps`` also moves the inputs of normalizations, and running statistics with them, see
            ``nteleport.analyze``: outputs change by the order of ``eps / variance``.
        certificate: compare outputs before and after, by two forward passes; ``"full"`` also in both modes,
            in float64 and on random inputs. Without one, no copy is made and nothing can be rolled back.
        tolerance: the largest relative change of outputs that is accepted; None for the square root of the
            machine epsilon of the coarsest dtype of weights and outputs (3.5e-4 in float32, 1.5e-8 in
            float64; on a GPU float32 counts as TF32, 0.03), and with ``norms="up_to_eps"`` at least 0.01.

    Returns:
        The certificate, the change of basis, the quiver, and ``undo()``.

    Raises:
        AnalysisError: the network cannot be traced.
        TeleportationError: a wrong argument, a change of basis that the network does not admit, or outputs
            that changed by more than ``tolerance``; in any case weights and states are as before, bit for
            bit.
    """
    _check_words(network, optimizer, optimizer_state, activations, norms, certificate, tolerance)
    if cob is not None and objective is not None:
        raise TeleportationError("a change of basis is either given or chosen by an objective, not both")
    if quiver is None:
        quiver = analyze(network, example_inputs, activations="kept", norms=norms)
    check_network(network, quiver)
    if quiver.activations != "kept":
        raise TeleportationError(
            "this quiver conjugates activations: expected one from nteleport.analyze with activations='kept'"
        )
    if norms == "up_to_eps" and quiver.norms == "exact":
        raise TeleportationError("this quiver has norms='exact': expected one from nteleport.analyze with "
                                 "norms='up_to_eps', or none")  # fmt: skip
    state = _state(network, quiver)
    _check_tensors(state)
    if objective is not None:
        batches = [(as_call(example_inputs), None)]
        cob = choose_cob(quiver, network, objective, batches=batches, generator=generator).cob
    elif cob is None:
        cob = admitted_cob(
            quiver, sample_cob(quiver.cob_size, cob_range, sampling, generator=generator), generator
        )
    move = _Move(network, quiver, _usable(quiver, cob, state, optimizer), optimizer, optimizer_state)
    move.check()
    if certificate is False:
        move.weights(network)
        found = None
    else:
        snapshot = Snapshot(network, example_inputs, full=certificate == "full")
        if tolerance is None:
            inexact = UP_TO_EPS_TOLERANCE if quiver.norms == "up_to_eps" else 0.0
            tolerance = max(snapshot.tolerance, inexact)
        found = _certified(move, snapshot, tolerance)
    move.companions()
    return Teleported(move, found)


def _certified(move: _Move, snapshot: Snapshot, tolerance: float) -> Certificate:
    """Move the weights; move them back if outputs change too much, or if anything goes wrong."""
    try:
        move.weights(move.network)
        certificate = snapshot.certify(move.quiver, move.cob, move.weights)
        change = certificate.largest_relative
        if not change <= tolerance:
            reason = "its outputs are that sensitive to rounding"
            if move.quiver.norms == "up_to_eps":
                reason = (
                    "a variance that it normalizes by is not large against eps: take entries nearer to 1, or "
                    "norms='exact'"
                )
            raise TeleportationError(
                f"the outputs changed by {change:.1e} of their largest value, more than the tolerance of "
                f"{tolerance:.1e}; the weights are restored. Either the quiver does not belong to this "
                f"network, or {reason}"
            )
    except BaseException:
        snapshot.restore()
        raise
    return certificate


class _Move:
    """One change of basis of one network, and what follows its weights."""

    def __init__(
        self,
        network: nn.Module,
        quiver: Quiver,
        cob: Tensor,
        optimizer: Optimizer | None,
        optimizer_state: OptimizerState,
    ) -> None:
        self.network, self.quiver, self.cob = network, quiver, cob
        self._optimizer, self._optimizer_state = optimizer, optimizer_state
        self._corrected = {name for c in quiver.corrections for name in (c.weight, c.variance)}

    @torch.no_grad()
    def weights(self, network: nn.Module, *, back: bool = False) -> None:
        """Move the weights of ``network``, and its running statistics where the quiver moves them: of this
        network, or of a copy in another dtype."""
        state = _state(network, self.quiver)
        extra = self._corrections(network, moved=back)
        (divide if back else multiply)(*self._with_factors(state, extra))

    def check(self) -> None:
        """Raise ``TeleportationError`` unless the corrections of this network are numbers."""
        for name, factor in self._corrections(self.network, moved=False).items():
            if not bool((factor > 0).all()):
                raise TeleportationError(
                    f"{name} belongs to a running variance that is negative or not finite: it cannot move"
                )

    @torch.no_grad()
    def companions(self, *, back: bool = False) -> None:
        """Move the gradients and the optimizer's state, after the weights."""
        parameters = dict(self.network.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        extra = self._corrections(self.network, moved=not back)
        sparse = {name: gradients.pop(name) for name, g in list(gradients.items()) if g.is_sparse}
        (multiply if back else divide)(*self._with_factors(gradients, extra))
        for name, gradient in sparse.items():
            factors = self._with_factors({name: parameters[name]}, {})[1].get(name, [])
            multiply_sparse(gradient, factors if back else [f.reciprocal() for f in factors])
        if self._optimizer is None or self._optimizer_state == "keep":
            return
        if self._optimizer_state == "reset":
            _reset(self._optimizer, parameters)
            return
        for name, parameter in parameters.items():  # one by one: a whole scale has the size of a weight
            found = scales(self.quiver, self.cob, expand=False, names=[name])
            if name in extra:
                found[name] = found.get(name, 1) * extra[name]
            for scale in found.values():
                scale = scale.to(parameter.device)
                transport(self._optimizer, {parameter: scale.reciprocal() if back else scale})

    def _with_factors(
        self, tensors: Mapping[str, Tensor], extra: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Tensors without their graphs, and the factors of each, ``extra`` ones included."""
        plain = {name: tensor.detach() for name, tensor in tensors.items()}
        cob = self.cob
        if any(tensor.dtype in (torch.float64, torch.complex128) for tensor in plain.values()):
            cob = cob.double()
        found = factor_scales(self.quiver, cob, plain)
        found |= {n: (*found.get(n, ()), extra[n].to(cob.dtype)) for n in extra if n in plain}
        return plain, {
            name: fast_factors(plain[name], tuple(f.to(plain[name].device) for f in factors))
            for name, factors in found.items()
        }

    @torch.no_grad()
    def _corrections(self, network: nn.Module, *, moved: bool) -> dict[str, Tensor]:
        """What multiplies weights of normalizations besides their scales, from the running statistics before
        the move or, ``moved``, after it."""
        if not self.quiver.corrections:
            return {}
        wide = wide_dtype(self.cob.device)
        named = _state(network, self.quiver).items()
        state = {name: tensor.to(wide) for name, tensor in named if name in self._corrected}
        found = corrections(self.quiver, self.cob.to(wide), state, power=-1 if moved else 1)
        return {name: factor.reciprocal() for name, factor in found.items()} if moved else found


def _state(network: nn.Module, quiver: Quiver) -> dict[str, Tensor]:
    """The parameters of a network, and the buffers that the quiver moves, by name."""
    buffers = dict(network.named_buffers()) if quiver.buffers else {}
    return {**dict(network.named_parameters()), **{name: buffers[name] for name in quiver.buffers}}


def _reset(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """Start the state of these parameters afresh, in the dictionaries that hold it."""
    known = inspect.signature(type(optimizer)).parameters
    options = {key: value for key, value in optimizer.defaults.items() if key in known}
    # Some optimizers fill the state when they are made, as Adagrad.
    fresh = type(optimizer)([dict(group) for group in optimizer.param_groups], **options)
    for parameter in parameters.values():
        if parameter in optimizer.state:
            optimizer.state[parameter].clear()
            optimizer.state[parameter].update(fresh.state.get(parameter, {}))


def _usable(quiver: Quiver, cob: Tensor, state: Mapping[str, Tensor], optimizer: Optimizer | None) -> Tensor:
    """The change of basis in the dtype and on the device of the parameters, checked."""
    parameters = [tensor for name, tensor in state.items() if name not in quiver.buffers]
    device = parameters[0].device if parameters else torch.device("cpu")
    like = torch.empty(0, dtype=cob_dtype(parameters), device=device)
    return checked_cob(quiver, cob, like, state, power=1 if optimizer is None else 2)


def _check_words(
    network: nn.Module,
    optimizer: Optimizer | None,
    optimizer_state: str,
    activations: str,
    norms: str,
    certificate: object,
    tolerance: object,
) -> None:
    if not isinstance(network, nn.Module):
        raise TeleportationError(f"expected a torch.nn.Module, got {type(network).__name__}")
    if isinstance(network, _WRAPPERS):
        raise TeleportationError(
            f"{type(network).__name__} wraps a network: expected the network itself, its attribute module"
        )
    _check_word("activations", activations, get_args(Activations))
    if activations == "conjugated":
        raise TeleportationError(
            "weights with conjugated activations do not fit the network as it is, so they cannot be written "
            "into it: wrap it in nteleport.TeleportableModel instead, or keep the activations"
        )
    _check_word("norms", norms, NORMS)
    _check_word("optimizer_state", optimizer_state, OPTIMIZER_STATES)
    if not isinstance(certificate, bool):
        _check_word("certificate", certificate, ("full",), "True, False or ")
    if tolerance is not None and not (
        isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool) and tolerance >= 0
    ):
        raise TeleportationError(f"tolerance is a number of at least 0 or None, got {tolerance!r}")
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise TeleportationError(f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if optimizer_state == "transport":
        check_transportable(optimizer)


def _check_word(what: str, word: object, known: tuple[str, ...], others: str = "") -> None:
    if word not in known:
        expected = others + (", ".join(known) if len(known) > 1 else repr(known[0]))
        raise TeleportationError(
            f"unknown {what} {word!r}, expected {'one of ' if len(known) > 1 else ''}{expected}"
            f"{nearest(str(word), known)}"
        )


def _check_tensors(state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_meta or tensor.is_inference():
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            found = "is on the device 'meta'" if tensor.is_meta else "was made in inference mode"
            raise TeleportationError(f"{kind} {name} {found}: it cannot be written to in place")
