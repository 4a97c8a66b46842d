"""Training a teleported network at the speed of the plain one, by the user's own optimizer.

The teleported network computes ``f(θ' / s)``, so there is no need to run it: the plain network runs at ``θ =
θ' / s`` and only the optimizer works in teleported coordinates, see ``nteleport.core.coordinates``. There
``s`` may be more than a change of basis can give, see ``nteleport.core.rates``.

Around each step, torch's hooks scale the gradients, show the optimizer its weights, and write the plain ones
back. Whatever calls ``optimizer.step`` need not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import mul
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from nteleport.core.checks import check_move, check_network, check_whole, checked_cob, refuse_buffers
from nteleport.core.coordinates import Coordinates, PlainCoordinates, TeleportedCoordinates
from nteleport.core.optimizer_state import check_state, check_transportable, initial_state
from nteleport.core.quiver import Quiver, cob_dtype, factor_scales
from nteleport.core.rates import Rates, checked_rates, rate_exponent
from nteleport.core.scaling import fast_factors, multiply, multiply_sparse
from nteleport.core.watch import Watch
from nteleport.errors import TeleportationError
from nteleport.vocabulary import OPTIMIZER_STATES, OptimizerState

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_ATTACHED: WeakSet[Optimizer] = WeakSet()


def attach(optimizer: Optimizer, network: nn.Module, quiver: Quiver) -> Attachment:
    """Let the steps of an optimizer happen in teleported coordinates.

    The optimizer stays what it is, for schedulers, ``GradScaler``, checkpoints and compiled steps. Until the
    first ``teleport``, nothing about its steps changes.

    Args:
        optimizer: any torch optimizer, with any parameter groups. Those of its parameters that are not the
            network's are stepped as usual.
        network: the plain network. It may be compiled or in ``DistributedDataParallel``.
        quiver: from ``nteleport.analyze``.

    Raises:
        TeleportationError: the quiver is of another network or moves running statistics
            (``norms="up_to_eps"``), the optimizer trains nothing of it or is attached already, or parameters
            are sharded (FSDP).
    """
    return Attachment(optimizer, network, quiver)


class Attachment:
    """An optimizer that works on the teleported weights of ``network``; made by ``nteleport.attach``.

    A step starts from the weights that the network has: also from those that were loaded into it or written
    to it in place since the last step, unless through ``parameter.data``. It consumes ``.grad`` of the
    parameters. ``step`` of the optimizer raises ``TeleportationError`` if the network was moved to another
    dtype or device, or if parameters were replaced, added or removed, since it was attached.

    Attributes:
        network: the plain network; it runs forward and backward as usual.
        quiver: how the CoB acts on its parameters.
        cob: the current CoB, shape ``(cob_size,)``; initially ones.
        rates: the current rates by parameter; initially none.
        rate_exponent: what rates multiply: 2 gradients, 1 steps.
        optimizer: the torch optimizer.
    """

    def __init__(self, optimizer: Optimizer, network: nn.Module, quiver: Quiver) -> None:
        if optimizer in _ATTACHED:
            raise TeleportationError(
                f"this {type(optimizer).__name__} is attached to a network already: detach it first"
            )
        network = _unwrapped(network)
        check_network(network, quiver, {})
        refuse_buffers(quiver, "an attached optimizer")
        self.optimizer, self.network, self.quiver = optimizer, network, quiver
        self._stepped = self._parameters_of_groups()
        ours = {id(p) for p in self._stepped}
        self._parameters = {name: p for name, p in network.named_parameters() if id(p) in ours}
        check_network(network, quiver, self._parameters)
        check_whole(self._parameters)
        if not self._parameters:
            raise TeleportationError(
                f"{type(optimizer).__name__} trains no parameter of this {type(network).__name__}"
            )
        first, dtype = next(iter(self._parameters.values())), cob_dtype(network.parameters())
        self.cob = torch.ones(quiver.cob_size, dtype=dtype, device=first.device)
        self._off_ones = False  # the CoB; known, so that no step waits for the device
        self.rates: Rates = {}
        self.rate_exponent = rate_exponent(type(optimizer))
        self._coordinates: Coordinates = (
            PlainCoordinates() if type(optimizer) is SGD else TeleportedCoordinates(self._parameters)
        )
        self._watch = Watch(network, self._parameters)
        # Of 1 / s, for SGD of 1 / s²; empty while nothing is scaled.
        self._factors: dict[str, list[Tensor]] = {}
        self._hook()

    def detach(self, optimizer_state: OptimizerState = "transport") -> None:
        """Give the optimizer back: from now on it steps the plain weights, at the CoB 1 and without rates.

        Args:
            optimizer_state: what becomes of its state, see ``teleport``.

        Raises:
            TeleportationError: see ``teleport``.
        """
        self._check_policy(optimizer_state)
        self._watch.check_kept()
        self._move(torch.ones_like(self.cob), {}, optimizer_state)
        for handle in self._handles:
            handle.remove()
        _ATTACHED.discard(self.optimizer)

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
        self._check_policy(optimizer_state)
        if optimizer_state != "reset":
            power = 2 if optimizer_state == "transport" else 1
            check_move(self.quiver, cob, self.cob, self._parameters, power)
        self._move(cob, self.rates, optimizer_state)

    def set_rates(self, rates: Rates, optimizer_state: OptimizerState = "reset") -> None:
        """Make the steps of each weight larger or smaller; weights and CoB stay.

        For SGD, gradients are multiplied by the rates; for other optimizers, steps, see
        ``nteleport.core.rates``.

        Args:
            rates: in place of earlier ones. By the name of a parameter, positive numbers of its shape, or of
                size 1 along some axes; parameters that are left out have rate 1.
            optimizer_state: see ``teleport``; ``transport`` makes the state what it would be had the rates
                been there.

        Raises:
            TeleportationError: unusable rates, an unknown policy, or a state that cannot be transported.
        """
        self._watch.check_kept()
        found = self._checked_rates(rates)
        self._check_policy(optimizer_state)
        self._move(self.cob, found, optimizer_state)

    def reset_state(self) -> None:
        """Start the optimizer's state afresh; hyper-parameters are kept."""
        self.optimizer.state.clear()
        self.optimizer.state.update(initial_state(self.optimizer))

    def reload_weights(self) -> None:
        """Adopt the network's parameters; call this after writing to them through ``parameter.data``.

        Other writes are noticed by ``step``.

        Raises:
            TeleportationError: see ``step``.
        """
        self._watch.check_kept()
        self._adopt(list(self._parameters))

    def scales(self) -> dict[str, Tensor]:
        """The scale of every trained parameter, rates included, in its shape; expanded views: do not write to
        them.
        """
        compact, one = self._compact_scales(self._parameters), self.cob.new_ones(())
        return {name: compact.get(name, one).expand_as(p) for name, p in self._parameters.items()}

    def teleported_weights(self) -> dict[str, Tensor]:
        """The weights ``θ'`` of every trained parameter; do not write to them."""
        self._watch.check_kept()
        self._take_over_writes()
        own = self._coordinates.own_weights()
        others = [name for name in self._parameters if name not in own]
        found = {**own, **{name: p.clone() for name, p in self._teleported(others).items()}}
        return {name: found[name] for name in self._parameters}

    def teleported_gradients(self) -> dict[str, Tensor]:
        """The gradients ``g / s`` of every parameter that has one; meaningful between backward and step."""
        found = ((name, p.grad, scale) for (name, p), scale in self._with_scales())
        return {name: (g / scale).to(g.dtype) for name, g, scale in found if g is not None}

    def clip_grad_norm_(
        self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
    ) -> Tensor:
        """``torch.nn.utils.clip_grad_norm_`` of the gradients that the optimizer gets.

        The norm of ``g / s`` is another than that of the plain ``g``, and so is the threshold at which it is
        clipped. All parameters of the optimizer count, also those that the CoB does not reach.

        Returns:
            The norm before clipping, a scalar.
        """
        scaled = self.teleported_gradients()
        ours = {id(p) for p in self._parameters.values()}
        others = [p for p in self._stepped if id(p) not in ours]
        gradients = [*scaled.values(), *(p.grad for p in others if p.grad is not None)]
        norm = nn.utils.get_total_norm(gradients, norm_type, error_if_nonfinite)
        nn.utils.clip_grads_with_norm_(self._stepped, max_norm, norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The CoB, the rates if there are any, the state of the torch optimizer and the teleported weights
        where they are held separately.

        The weights of the network are in its own ``state_dict``; restore those first.
        """
        self._take_over_writes()
        weights = self._coordinates.own_weights() if self._is_scaled else {}
        state = {"cob": self.cob, "optimizer": self.optimizer.state_dict(), "teleported_weights": weights}
        return {**state, "rates": dict(self.rates)} if self.rates else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            TeleportationError: it does not fit this network or this optimizer. In that case nothing is
                changed.
        """
        self._watch.check_kept()
        check_state(state, self._parameters, self.optimizer)
        self._set_scales(self._checked(state["cob"]), self._checked_rates(state.get("rates", {})))
        self.reload_weights()
        self.optimizer.load_state_dict(state["optimizer"])
        own = {name: w.to(self._parameters[name]) for name, w in state["teleported_weights"].items()}
        self._coordinates.hold({name: weight for name, weight in own.items() if name in self._factors})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hook()  # torch copies optimizers without their hooks

    def _hook(self) -> None:
        _ATTACHED.add(self.optimizer)
        before, after = (torch.compiler.disable(each) for each in (self._before_step, self._after_step))
        self._handles = [
            self.optimizer.register_step_pre_hook(before),
            self.optimizer.register_step_post_hook(after),
        ]

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments | None:
        self._coordinates.leave()  # a step that failed
        self._check_groups()
        self._take_over_writes()
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            self._push_gradients()
            self._coordinates.enter()
            return None

        def evaluate() -> Any:
            """The closure at the plain weights."""
            self._coordinates.leave()
            self._write_back()
            with torch.enable_grad():
                loss = closure()
            self._take_over_writes()
            self._push_gradients()
            self._coordinates.enter()
            return loss

        self._coordinates.enter()
        return (args[0], evaluate), {}

    def _after_step(self, *_: Any) -> None:
        self._coordinates.leave()
        self._write_back()

    def _parameters_of_groups(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _check_groups(self) -> None:
        now = self._parameters_of_groups()
        if [id(p) for p in now] != [id(p) for p in self._stepped]:
            raise TeleportationError(
                f"parameters of this {type(self.optimizer).__name__} were added, removed or replaced after "
                "it was attached: detach it before, and attach it again"
            )

    def _checked(self, cob: Tensor) -> Tensor:
        """A usable CoB in the dtype and on the device of the current one."""
        # Gradients are multiplied by 1 / s², or their squares by 1 / s² become moments.
        return checked_cob(self.quiver, cob, self.cob, self._parameters, power=2)

    def _checked_rates(self, rates: object) -> Rates:
        found = checked_rates(rates, self.cob, dict(self.network.named_parameters()))
        return {name: rate for name, rate in found.items() if name in self._parameters}

    def _check_policy(self, optimizer_state: str) -> None:
        if optimizer_state not in OPTIMIZER_STATES:
            raise TeleportationError(
                f"optimizer_state is one of {', '.join(OPTIMIZER_STATES)}; got {optimizer_state!r}"
            )
        if optimizer_state == "transport":
            check_transportable(self.optimizer)

    def _move(self, cob: Tensor, rates: Rates, optimizer_state: OptimizerState) -> None:
        """Work at another CoB and with other rates."""
        before = self._compact_scales(self._parameters)
        self._set_scales(cob, rates)
        if optimizer_state == "reset":
            self.reset_state()
        else:
            exactly = optimizer_state == "transport"
            self._coordinates.move_state(self.optimizer, self._ratios(before), exactly)
        self.reload_weights()

    def _set_scales(self, cob: Tensor, rates: Rates) -> None:
        self.cob, self.rates = cob.clone(), rates
        self._off_ones = bool((cob != 1).any())
        power = self._coordinates.gradient_power
        self._factors = {
            name: [factor.pow(power) for factor in fast_factors(self._parameters[name], scale)]
            for name, scale in self._factor_scales(self._parameters).items()
        }
        self._coordinates.hold_only(self._factors)

    def _factor_scales(self, names: Iterable[str]) -> dict[str, tuple[Tensor, ...]]:
        """The factors of the scale of each of these parameters that is scaled: those of the CoB, then that of
        its rates.
        """
        names = list(names)
        found: dict[str, tuple[Tensor, ...]] = {}
        if self._off_ones:
            known = [name for name in names if name in self.quiver.parameters]
            found = factor_scales(self.quiver, self.cob, known)
        for name in names:
            if name in self.rates:
                scale = self.rates[name].pow(-1 / self.rate_exponent)
                found[name] = (*found.get(name, ()), scale)
        return found

    @property
    def _is_scaled(self) -> bool:
        return bool(self._factors)

    @property
    def _notices_writes(self) -> bool:
        """Whether the weights of the optimizer lie elsewhere than those of the network."""
        return self._is_scaled and self._coordinates.holds_weights

    def _compact_scales(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The scale of each of these parameters that is scaled, of size 1 along axes where it is constant."""
        return {name: reduce(mul, factors) for name, factors in self._factor_scales(names).items()}

    def _with_scales(self) -> Iterator[tuple[tuple[str, Tensor], Tensor]]:
        return zip(self._parameters.items(), self.scales().values(), strict=True)

    def _ratios(self, before: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
        """For each trained tensor that moves, its new scale over the one ``before``."""
        after, one = self._compact_scales(self._parameters), self.cob.new_ones(())
        return {
            self._parameters[name]: after.get(name, one) / before.get(name, one)
            for name in {**before, **after}
        }

    def _plain(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._parameters[name].detach() for name in names}

    def _teleported(self, names: Iterable[str]) -> dict[str, Tensor]:
        plain = self._plain(names)
        found = self._compact_scales(plain)
        return {name: (p * found[name]).to(p.dtype) if name in found else p for name, p in plain.items()}

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
            self._coordinates.hold(self._teleported(name for name in names if name in self._factors))
        self._watch.note()

    def _push_gradients(self) -> None:
        """Give the optimizer the gradients in its coordinates."""
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        if not gradients:  # all parameters may have been replaced
            self._watch.check_owner()
        for name in [name for name, gradient in gradients.items() if gradient.is_sparse]:
            multiply_sparse(gradients.pop(name), self._factors.get(name, []))
        multiply(gradients, self._factors)


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network whose parameters have the names of the quiver."""
    while True:
        if isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(network, torch._dynamo.OptimizedModule):
            network = network._orig_mod
        else:
            return network
