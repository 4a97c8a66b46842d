"""A network seen from another point of weight space: the simple, general view.

The teleported network, with weights ``θ' = s ⊙ θ`` and activations ``x ↦ τ f(x / τ)``, computes what the
unmodified network computes at ``θ' / s``. ``TeleportableModel`` does exactly that, and so works for any
module, trains with any optimizer, and is differentiable in the change of basis. For training at full speed
see ``nteleport.TeleportedOptimizer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from nteleport.core.analysis import analyze
from nteleport.core.checks import check_move, check_network, checked_cob, refuse_buffers
from nteleport.core.cob import admitted_cob, sample_cob
from nteleport.core.plain_weights import read_as_replaced_in_backward, replaced
from nteleport.core.quiver import Quiver, cob_dtype, factor_scales, teleported
from nteleport.core.scaling import divide, fast_factors, multiply
from nteleport.core.tracing import ExampleInputs, as_call
from nteleport.errors import TeleportationError
from nteleport.vocabulary import Sampling


class TeleportableModel(nn.Module):
    """A network whose parameters are teleported weights.

    Attributes:
        network: the wrapped module. Its parameters hold ``θ'``; call the model, not the network.
        quiver: how the CoB acts on the parameters.
        cob: buffer of shape ``(cob_size,)``: the CoB relative to the network as it was given.
        example_inputs: positional arguments on which the network was analyzed.
        example_kwargs: keyword arguments likewise.

    Args:
        network: any module that ``torch.export`` can trace; it is wrapped, not copied.
        example_inputs: a tensor, a tuple of positional arguments, a mapping of keyword arguments, or a pair
            of both; as for ``nteleport.analyze``.
        quiver: from an earlier ``nteleport.analyze`` of this architecture, to skip the analysis.

    Raises:
        AnalysisError: the network cannot be traced.
        TeleportationError: not a network, the quiver of another one, or one that moves running statistics
            (``norms="up_to_eps"``).
    """

    cob: Tensor

    def __init__(
        self, network: nn.Module, example_inputs: ExampleInputs, quiver: Quiver | None = None
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TeleportationError(f"expected a torch.nn.Module, got {type(network).__name__}")
        self.network = network
        self.example_inputs, self.example_kwargs = as_call(example_inputs)
        self._quiver = analyze(network, example_inputs) if quiver is None else quiver
        check_network(network, self._quiver)
        refuse_buffers(self._quiver, "TeleportableModel")
        self.register_buffer("cob", self._identity())

    @property
    def quiver(self) -> Quiver:
        """How the CoB acts on the parameters, its indices on the device of the CoB."""
        factors = [f for p in self._quiver.parameters.values() for f in p.factors]
        if factors and factors[0].index.device != self.cob.device:
            self._quiver = self._quiver.to(self.cob.device)
        return self._quiver

    @property
    def cob_size(self) -> int:
        """Number of entries of the CoB."""
        return self._quiver.cob_size

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own outputs: those of the unmodified network at ``θ' / s``."""
        parameters = dict(self.network.named_parameters())
        weights = {id(parameters[name]): weight for name, weight in self._plain_weights(parameters).items()}
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            names = {id(parameter): name for name, parameter in parameters.items()}
            read_as_replaced_in_backward(self.network, partial(self._plain_weight, names))
        with replaced(self.network, weights):
            return self.network(*args, **kwargs)

    def _plain_weight(self, names: Mapping[int, str], parameter: Tensor) -> Tensor:
        """One weight of the unmodified network, with a graph of its own."""
        name = names.get(id(parameter))
        return parameter if name is None else self._plain_weights({name: parameter})[name]

    def _plain_weights(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``θ' / s`` by name, in the dtype of each."""
        plain = teleported(parameters, self.quiver, self.cob, power=-1)
        return {name: weight.to(parameters[name].dtype) for name, weight in plain.items()}

    def teleport(self, cob: Tensor, reset: bool = True) -> None:
        """Move the weights; the function stays the same.

        Args:
            cob: shape ``(cob_size,)``, every entry finite and non-zero.
            reset: teleport from the original position; otherwise from the current one, so that CoBs multiply.

        Raises:
            TeleportationError: wrong shape, or entries for which an entry, a scale, or an inverse of these is
                zero or not finite in the dtype in which it is used. In that case nothing is changed.
        """
        new = self._checked(cob)
        if not reset:
            new = self._checked(new * self.cob.detach())
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        check_move(self.quiver, new, self.cob.detach(), parameters)
        before, after = factor_scales(self.quiver, self.cob.detach()), factor_scales(self.quiver, new)
        ratios = {
            name: tuple(b / a for a, b in zip(before[name], after[name], strict=True)) for name in after
        }
        multiply(parameters, {name: fast_factors(parameters[name], ratio) for name, ratio in ratios.items()})
        self.cob = new.clone()

    def _checked(self, cob: Tensor) -> Tensor:
        """A usable CoB in the dtype and on the device of the network's CoB."""
        return checked_cob(self.quiver, cob, self.cob, dict(self.network.named_parameters()))

    def random_teleport(
        self,
        cob_range: float,
        sampling: Sampling,
        *,
        center: float = 1.0,
        reset: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """Teleport by a sampled CoB.

        Args:
            cob_range, sampling, center, generator: as for ``nteleport.sample_cob``.
            reset: as for ``teleport``.

        Raises:
            TeleportationError: unknown ``sampling``, or one that forbids ``cob_range``.
        """
        cob = sample_cob(self.cob_size, cob_range, sampling, center=center, generator=generator)
        cob = admitted_cob(self._quiver, cob, generator)
        self.teleport(cob, reset=reset)

    def undo_teleportation(self) -> None:
        """Teleport back to the original position, where the CoB is 1.

        Directly after a single teleportation this is exact to two units in the last place: it divides by the
        factors that were multiplied.
        """
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        scale = factor_scales(self.quiver, self.cob.detach())
        divide(parameters, {name: fast_factors(parameters[name], factors) for name, factors in scale.items()})
        self.cob = self._identity()

    def weight_vector(self) -> Tensor:
        """All teleported parameters as one detached vector, in the order of
        ``network.named_parameters()``."""
        return parameters_to_vector([p.detach() for p in self.network.parameters()])

    def load_weight_vector(self, vector: Tensor) -> None:
        """Set all teleported parameters from a vector as ``weight_vector`` returns it.

        Raises:
            TeleportationError: not a tensor of this length, or of numbers that the parameters cannot hold:
                integers, or complex numbers for real parameters. Real numbers are rounded to the dtype of
                each parameter.
        """
        parameters = list(self.network.parameters())
        self._check_weight_vector(vector)
        with torch.no_grad():
            for parameter, piece in zip(
                parameters, vector.split([p.numel() for p in parameters]), strict=True
            ):
                parameter.copy_(piece.view_as(parameter))

    def _check_weight_vector(self, vector: Tensor) -> None:
        parameters = list(self.network.parameters())
        expected = sum(p.numel() for p in parameters)
        found = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        if found != (expected,):
            raise TeleportationError(f"the weights of this network have shape ({expected},), got {found}")
        real = any(not p.is_complex() for p in parameters)
        if vector.is_meta or not (vector.is_floating_point() or (vector.is_complex() and not real)):
            raise TeleportationError(
                f"the weights of this network are {parameters[0].dtype} on {parameters[0].device}, got "
                f"{vector.dtype} on {vector.device}"
            )

    def position(self) -> tuple[Tensor, Tensor]:
        """The position in weight space: the vector of teleported weights and a copy of the CoB."""
        return self.weight_vector(), self.cob.detach().clone()

    def load_position(self, weights: Tensor, cob: Tensor) -> None:
        """Set both as ``position`` returns them; nothing is teleported, so the function changes with the
        weights.

        Raises:
            TeleportationError: wrong length, or a CoB entry that is zero or not finite. In that case nothing
                is set.
        """
        usable = self._checked(cob)
        self.load_weight_vector(weights)  # checks them before it sets any
        self.cob = usable.clone()

    def gradient_vector(self, x: Any, y: Any, loss_fn: Callable[[Any, Any], Tensor]) -> Tensor:
        """Gradient of ``loss_fn(model(x), y)`` at the teleported weights, as one vector.

        Args:
            x: input of the network; a tuple is taken as positional arguments, a mapping as keyword arguments.
            y: target, passed to ``loss_fn``.
            loss_fn: returns a scalar.

        Returns:
            A vector like ``weight_vector``; zero where a parameter is frozen or unused. ``.grad`` is left
            unchanged.

        Raises:
            TeleportationError: ``loss_fn`` returned anything but one number.
        """
        parameters = list(self.network.parameters())
        trained = [p for p in parameters if p.requires_grad]
        args, kwargs = as_call(x if isinstance(x, (tuple, Mapping)) else (x,))
        loss = loss_fn(self(*args, **kwargs), y)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise TeleportationError(f"a loss is a tensor of one number, got {got}")
        found = dict(zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True))
        gradients = [torch.zeros_like(p) if found.get(p) is None else found[p] for p in parameters]
        return parameters_to_vector(gradients)

    def reset_parameters(self) -> None:
        """Draw new weights with each layer's ``reset_parameters`` and set the CoB to 1."""
        for module in self.network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        self.cob = self._identity()

    def _identity(self) -> Tensor:
        parameters = list(self.network.parameters())
        device = parameters[0].device if parameters else None
        return torch.ones(self._quiver.cob_size, dtype=cob_dtype(parameters), device=device)
