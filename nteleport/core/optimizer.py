"""An optimizer that is made to train a teleported network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nteleport.core.attachment import Attachment
from nteleport.core.checks import check_network
from nteleport.core.quiver import Quiver
from nteleport.errors import TeleportationError


class TeleportedOptimizer(Attachment):
    """A torch optimizer of all trained parameters of a network, attached to it.

    See ``Attachment`` for what it does; ``nteleport.attach`` does it to an optimizer that exists.

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
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            raise TeleportationError(
                f"expected a class of torch.optim, as torch.optim.SGD; got {optimizer_class!r}"
            )
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise TeleportationError(f"no parameter of {type(network).__name__} requires a gradient")
        fused = _fused(optimizer_class, trained, hyper_parameters)
        self._fused_by_default = bool(fused)
        super().__init__(optimizer_class(trained, **fused, **hyper_parameters), network, quiver)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step from the gradients of the plain network.

        Args:
            closure: re-evaluates the loss, for optimizers that need it; it clears gradients and runs
                backward.

        Returns:
            What the closure returned, if there is one.

        Raises:
            TeleportationError: see ``Attachment``.
        """
        if self._fused_by_default and any(
            p.grad is not None and p.grad.is_sparse for p in self._parameters.values()
        ):  # which fused steps do not support
            for group in self.optimizer.param_groups:
                group["fused"] = False
        try:
            return self.optimizer.step() if closure is None else self.optimizer.step(closure)
        finally:
            self._coordinates.leave()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the network, as ``Optimizer.zero_grad`` does."""
        self.network.zero_grad(set_to_none)


def _fused(
    optimizer_class: type[Optimizer], parameters: Iterable[Tensor], given: Mapping[str, Any]
) -> dict[str, Any]:
    """``fused=True`` where the class accepts it, the device supports it and no argument contradicts it."""
    known = inspect.signature(optimizer_class).parameters
    contradicted = {"fused", "foreach", "capturable", "differentiable"} & given.keys()
    supported = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in parameters)
    return {"fused": True} if "fused" in known and supported and not contradicted else {}
