"""Training a teleported network at the speed of the plain one.

The teleported network computes ``f(θ' / s)``, so there is no need to run it: the plain network runs at ``θ =
θ' / s`` and only the optimizer works in teleported coordinates, see ``nteleport.core.coordinates``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nteleport.core.checks import check_move, check_network, checked_cob, refuse_buffers
from nteleport.core.coordinates import Coordinates, PlainCoordinates, TeleportedCoordinates
from nteleport.core.optimizer_state import check_state, check_transportable
from nteleport.core.quiver import (
    Quiver,
    cob_dtype,
    factor_scales,
    scales,
    teleported,
)
from nteleport.core.scaling import fast_factors, multiply, multiply_sparse
from nteleport.core.watch import Watch
from nteleport.errors import TeleportationError
from nteleport.vocabulary import OPTIMIZER_STATES, OptimizerState

_Value = TypeVar("_Value")


class TeleportedOptimizer:
    """A torch optimizer that works on the teleported weights of ``network``.

    Attributes:
        network: the plain network; it runs forward and backward as usual.
        quiver: how the CoB acts on its parameters.
        cob: the current CoB, shape ``(cob_size,)``; initially ones.
        optimizer: the wrapped torch optimizer; learning-rate schedulers attach to it.

    Args:
        network: its parameters that require gradients are trained.
        quiver: from ``nteleport.analyze``.
        optimizer_class: any class of ``torch.optim``.
        **hyper_parameters: its keyword arguments. ``fused`` is enabled where torch supports it, unless it,
            ``foreach``, ``capturable`` or ``differentiable`` is given.

    Raises:
        TeleportationError: the quiver belongs to another network or moves running statistics
            (``norms="up_to_eps"``), no parameter requires a gradient, or ``optimizer_class`` is none.
    """

    def __init__(
        self, network: nn.Module, quiver: Quiver, optimizer_class: type[Optimizer], **hyper_parameters: Any
    ) -> None:
        check_network(network, quiver, {})
        refuse_buffers(quiver, "TeleportedOptimizer")
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            raise TeleportationError(
                f"expected a class of torch.optim, as torch.optim.SGD; got {optimizer_class!r}"
            )
        self.network, self.quiver = network, quiver
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        check_network(network, quiver, self._parameters)
        if not self._parameters:
            raise TeleportationError(f"no parameter of {type(network).__name__} requires a gradient")
        first, dtype = next(iter(self._parameters.values())), cob_dtype(network.parameters())
        self.cob = torch.ones(quiver.cob_size, dtype=dtype, device=first.device)
        kind = PlainCoordinates if optimizer_class is SGD else TeleportedCoordinates
        self._coordinates: Coordinates = kind(self._parameters)
        fused = _fused(optimizer_class, self._parameters.values(), hyper_parameters)
        self._fused_by_default = bool(fused)
        self._hyper_parameters = {**fused, **hyper_parameters}
        self.optimizer = self._new_optimizer(optimizer_class)
        self._watch = Watch(network, self._parameters)
        self._factors: dict[str, list[Tensor]] = {}  # of 1 / s, for SGD of 1 / s²; empty while s = 1

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step from the gradients of the plain network. It consumes ``.grad`` of the
        parameters.

        It starts from the weights that the network has: also from those that were loaded into it or written
        to it in place since the last step, unless through ``parameter.data``.

        Args:
            closure: re-evaluates the loss, for optimizers that need it; it clears gradients and runs
                backward.

        Returns:
            What the closure returned, if there is one.

        Raises:
            TeleportationError: the network was moved to another dtype or device, or its parameters were
                replaced, since the optimizer was made.
        """
        self._take_over_writes()
        if closure is None:
            self._push_gradients()
            self.optimizer.step()
            self._write_back()
            return None
        evaluate = closure

        def evaluate_at_teleported_weights() -> Any:
            self._write_back()
            with torch.enable_grad():
                loss = evaluate()
            self._take_over_writes()
            self._push_gradients()
            return loss

        loss = self.optimizer.step(evaluate_at_teleported_weights)
        self._write_back()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the network, as ``Optimizer.zero_grad`` does."""
        self.network.zero_grad(set_to_none)
        self.optimizer.zero_grad(set_to_none)

    def teleport(self, cob: Tensor, optimizer_state: OptimizerState = "reset") -> None:
        """Move to another point of weight space; the function stays the same.

        Args:
            cob: the new total CoB, relative to the plain network; shape ``(cob_size,)``.
            optimizer_state: ``reset`` starts the optimizer's state afresh, ``transport`` moves it exactly (a
                first moment like a gradient, a second moment like its square), ``keep`` leaves the numbers as
                they are. Hyper-parameters, and thus the progress of a scheduler, are kept in all cases.

        Raises:
            TeleportationError: an unusable CoB, an unknown policy, or a state that cannot be transported.
        """
        self._watch.check_kept()
        cob = self._checked(cob)
        if optimizer_state not in OPTIMIZER_STATES:
            raise TeleportationError(
                f"optimizer_state is one of {', '.join(OPTIMIZER_STATES)}; got {optimizer_state!r}"
            )
        if optimizer_state == "transport":
            check_transportable(self.optimizer)
        if optimizer_state != "reset":
            power = 2 if optimizer_state == "transport" else 1
            check_move(self.quiver, cob, self.cob, self._parameters, power)
        before = self.cob
        self._set_cob(cob)
        if optimizer_state == "reset":
            self.reset_state()
        else:
            exactly = optimizer_state == "transport"
            self._coordinates.move_state(self.optimizer, self._ratios(before), exactly)
        self.reload_weights()

    def reset_state(self) -> None:
        """Start the optimizer's state afresh; hyper-parameters are kept."""
        self.optimizer.state.clear()
        self.optimizer.state.update(self._new_optimizer(type(self.optimizer)).state)

    def reload_weights(self) -> None:
        """Adopt the network's parameters; call this after writing to them through ``parameter.data``.

        Other writes are noticed by ``step``.

        Raises:
            TeleportationError: see ``step``.
        """
        self._watch.check_kept()
        self._adopt(list(self._parameters))

    def scales(self) -> dict[str, Tensor]:
        """The scale of every trained parameter, in its shape; expanded views: do not write to them."""
        compact, one = self._compact_scales(), self.cob.new_ones(())
        return {name: compact.get(name, one).expand_as(p) for name, p in self._parameters.items()}

    def teleported_weights(self) -> dict[str, Tensor]:
        """The weights ``θ'`` of every trained parameter; do not write to them."""
        self._watch.check_kept()
        self._take_over_writes()
        return self._coordinates.own_weights() or self._teleported(self._parameters)

    def teleported_gradients(self) -> dict[str, Tensor]:
        """The gradients ``g / s`` of every parameter that has one; meaningful between backward and step."""
        found = ((name, p.grad, scale) for (name, p), scale in self._with_scales())
        return {name: (g / scale).to(g.dtype) for name, g, scale in found if g is not None}

    def state_dict(self) -> dict[str, Any]:
        """The CoB, the state of the torch optimizer and the teleported weights where they are held
        separately.

        The weights of the network are in its own ``state_dict``; restore those first.
        """
        self._take_over_writes()
        weights = self._coordinates.own_weights() if self._is_teleported else {}
        return {"cob": self.cob, "optimizer": self.optimizer.state_dict(), "teleported_weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            TeleportationError: it does not fit this network or this optimizer. In that case nothing is
                changed.
        """
        self._watch.check_kept()
        check_state(state, self._coordinates.trained, self.optimizer)
        self._set_cob(self._checked(state["cob"]))
        self.reload_weights()
        self.optimizer.load_state_dict(state["optimizer"])
        for name, weights in state["teleported_weights"].items():
            self._coordinates.trained[name].data.copy_(weights)

    def _new_optimizer(self, optimizer_class: type[Optimizer]) -> Optimizer:
        return optimizer_class(self._coordinates.trained.values(), **self._hyper_parameters)

    def _checked(self, cob: Tensor) -> Tensor:
        """A usable CoB in the dtype and on the device of the current one."""
        # Gradients are multiplied by 1 / s², or their squares by 1 / s² become moments.
        return checked_cob(self.quiver, cob, self.cob, self._parameters, power=2)

    def _set_cob(self, cob: Tensor) -> None:
        self.cob = cob.clone()
        power = self._coordinates.gradient_power
        self._factors = {}
        if bool((self.cob != 1).any()):
            found = self._of_trained(factor_scales(self.quiver, self.cob))
            self._factors = {
                name: [factor.pow(power) for factor in fast_factors(self._parameters[name], scale)]
                for name, scale in found.items()
            }

    @property
    def _is_teleported(self) -> bool:
        return bool(self._factors)

    @property
    def _notices_writes(self) -> bool:
        """Whether the weights of the optimizer lie elsewhere than those of the network."""
        return self._is_teleported and self._coordinates.holds_weights

    def _compact_scales(self, cob: Tensor | None = None) -> dict[str, Tensor]:
        if cob is None and not self._is_teleported:
            return {}
        return self._of_trained(scales(self.quiver, self.cob if cob is None else cob, expand=False))

    def _of_trained(self, found: dict[str, _Value]) -> dict[str, _Value]:
        return {name: value for name, value in found.items() if name in self._parameters}

    def _with_scales(self) -> Iterator[tuple[tuple[str, Tensor], Tensor]]:
        return zip(self._parameters.items(), self.scales().values(), strict=True)

    def _ratios(self, before: Tensor) -> dict[Tensor, Tensor]:
        """For each trained tensor that can move, its new scale over the one at the CoB ``before``."""
        old, new = self._compact_scales(before), self._compact_scales(self.cob)
        return {self._coordinates.trained[name]: new[name] / old[name] for name in new}

    def _plain(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._parameters[name].detach() for name in names}

    def _teleported(self, names: Iterable[str]) -> dict[str, Tensor]:
        found = teleported(self._plain(names), self.quiver, self.cob)
        return {name: weight.to(self._parameters[name].dtype) for name, weight in found.items()}

    def _write_back(self) -> None:
        self._coordinates.write_back(self._factors)
        if self._notices_writes:
            self._watch.note_writes()

    def _take_over_writes(self) -> None:
        """Adopt the parameters that someone else wrote to since the last write-back. Reads no values."""
        changed = self._watch.changed(written=self._notices_writes)
        if changed:
            self._watch.check_kinds()
            self._adopt(changed)

    def _adopt(self, names: list[str]) -> None:
        if self._coordinates.holds_weights:
            found = self._teleported(names) if self._is_teleported else self._plain(names)
            self._coordinates.load_weight_vector(found)
        self._watch.note()

    def _push_gradients(self) -> None:
        """Give the optimizer the gradients in its coordinates."""
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if not gradients:  # all parameters may have been replaced
            self._watch.check_owner()
        for name in [name for name, gradient in gradients.items() if gradient.is_sparse]:
            multiply_sparse(gradients.pop(name), self._factors.get(name, []))
            self._step_without_fused()
        multiply(gradients, self._factors)
        self._coordinates.hand_over_gradients()

    def _step_without_fused(self) -> None:
        """Fused steps, the default here, do not support sparse gradients."""
        if self._fused_by_default:
            for group in self.optimizer.param_groups:
                group["fused"] = False


def _fused(
    optimizer_class: type[Optimizer], parameters: Iterable[Tensor], given: Mapping[str, Any]
) -> dict[str, Any]:
    """``fused=True`` where the class accepts it, the device supports it and no argument contradicts it."""
    known = inspect.signature(optimizer_class).parameters
    contradicted = {"fused", "foreach", "capturable", "differentiable"} & given.keys()
    supported = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in parameters)
    return {"fused": True} if "fused" in known and supported and not contradicted else {}
