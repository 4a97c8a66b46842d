"""Teleportation as a callback of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from nteleport.core.objectives import UserFunction
from nteleport.errors import TeleportationError
from nteleport.extras import import_extra
from nteleport.integrations.teleporter import Schedule, SplitBatch, Teleporter, Teleporting
from nteleport.vocabulary import Activations, Objective, OptimizerState, Sampling

_callbacks = import_extra(
    "lightning.pytorch.callbacks", extra="lightning", purpose="nteleport.integrations.lightning"
)

__all__ = ["Teleport"]


class Teleport(Teleporting, _callbacks.Callback):  # type: ignore[misc,name-defined]  # Lightning's types are not followed
    """Teleport the network of a ``LightningModule`` while it is trained, in place.

    Checkpoints carry the change of basis; from one, training continues bit for bit on a CPU.

    Args:
        schedule: one of ``{"every_n_epochs": n}``, ``{"epochs": [0, 10]}`` and ``{"every_n_steps": n}``, with
            the meaning they have in experiment files; ``"teleport_only_once": True`` with the first or the
            last. Epochs and steps of the optimizer are counted from 0.
        cob_range, sampling: of random changes of basis, as for ``nteleport.sample_cob``. Each replaces the
            one before.
        activations: ``kept`` moves weights and optimizer state as far as the unmodified network allows;
            ``conjugated`` lets the optimizer work in teleported coordinates, see ``nteleport.attach``.
        objective: choose the change of basis instead, by an objective of ``nteleport.choose_cob`` and on the
            batch at hand; with activations kept, each choice starts from the weights as they are.
        optimizer_state: ``transport``, ``reset`` or ``keep``, as for ``nteleport.teleport_``.
        network: the name of the submodule to teleport, such as ``"net"``; None for the ``LightningModule``
            itself, if its ``forward`` is what it trains.
        split_batch: turns a training batch into example inputs of the network and labels. By default, a batch
            is a pair of them, or a mapping with the key ``labels``. Labels are needed for some objectives.
        certificate: as for ``nteleport.teleport_``, with activations kept.
        seed: of the random changes of basis, which use no other random numbers.

    Raises:
        TeleportationError: everything that is wrong with the arguments.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        cob_range: float = 0.9,
        sampling: Sampling = "intra_landscape",
        activations: Activations = "kept",
        objective: Objective | UserFunction | None = None,
        optimizer_state: OptimizerState = "transport",
        network: str | None = None,
        split_batch: SplitBatch | None = None,
        certificate: bool | Literal["full"] = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._network = network
        self._teleporter = Teleporter(
            schedule,
            cob_range=cob_range,
            sampling=sampling,
            activations=activations,
            objective=objective,
            optimizer_state=optimizer_state,
            split_batch=split_batch,
            certificate=certificate,
            seed=seed,
        )

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Forget an earlier training."""
        if stage == "fit":
            self._teleporter.begin()

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
        """Teleport if the schedule says so."""
        step, epoch = trainer.global_step, trainer.current_epoch if batch_idx == 0 else None
        if not self._teleporter.has_work(step, epoch):
            return
        if len(trainer.optimizers) != 1:
            raise TeleportationError(f"expected one optimizer, and there are {len(trainer.optimizers)}")
        network = self._submodule(pl_module)
        self._teleporter.before_step(network, trainer.optimizers[0], batch, step=step, epoch=epoch)

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Keep what a checkpoint needs; modules leave their device now."""
        self._teleporter.end()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """As at the end."""
        self._teleporter.end()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint carries."""
        return self._teleporter.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._teleporter.load_state_dict(state_dict)

    def _submodule(self, pl_module: nn.Module) -> nn.Module:
        try:
            return pl_module if self._network is None else pl_module.get_submodule(self._network)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise TeleportationError(
                f"{type(pl_module).__name__} has no submodule {self._network!r}, expected one of {names}"
            ) from None
