"""Teleportation as a callback of the Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from nteleport.core.certificate import weights_digest
from nteleport.core.objectives import UserFunction
from nteleport.errors import CheckpointError, TeleportationError
from nteleport.extras import import_extra
from nteleport.integrations.teleporter import Schedule, SplitBatch, Teleporter, Teleporting
from nteleport.jobs.atomic import replacing
from nteleport.vocabulary import Activations, Objective, OptimizerState, Sampling

_transformers = import_extra(
    "transformers", extra="transformers", purpose="nteleport.integrations.transformers"
)

__all__ = ["TeleportCallback"]

_FILE = "nteleport.pt"


class TeleportCallback(Teleporting, _transformers.TrainerCallback):  # type: ignore[misc,name-defined]  # untyped
    """Teleport the model of a ``Trainer`` while it is trained, in place.

    Checkpoints carry the change of basis, in a file ``nteleport.pt``; from one, training continues bit for
    bit on a CPU. With activations conjugated, ``cob`` is None after the training.

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
        split_batch: turns a call of the model in training, a pair ``(args, kwargs)``, into example inputs and
            labels. By default, the labels are the keyword argument ``labels``, and all others are inputs.
            Labels are needed for some objectives.
        certificate: as for ``nteleport.teleport_``, with activations kept.
        seed: of the random changes of basis, which use no other random numbers.
        resume_from: the folder of the checkpoint that ``Trainer.train`` resumes from, if it is not in
            ``output_dir``.

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
        split_batch: SplitBatch | None = None,
        certificate: bool | Literal["full"] = True,
        seed: int = 0,
        resume_from: str | Path | None = None,
    ) -> None:
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
        self._resume_from = None if resume_from is None else Path(resume_from)
        self._epoch = -1
        self._starts_epoch = False
        self._hook: RemovableHandle | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Forget an earlier training, and read the file of a checkpoint that is resumed."""
        self._remove_hook()
        resumed = state.global_step > 0
        self._teleporter.detach(keep_state=resumed)  # of a training that was interrupted
        self._teleporter.begin()
        self._epoch = -1
        if not resumed:
            return
        folder = self._resume_from or _folder(args, state)
        if not folder.is_dir():
            raise CheckpointError(
                f"training resumes at step {state.global_step}, and there is no folder {folder}: give "
                "TeleportCallback the folder of the checkpoint, resume_from"
            )
        if (folder / _FILE).exists():  # otherwise it was saved without this callback
            self._teleporter.load_state_dict(_read(folder / _FILE, known["model"]))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Count the epochs; one that is resumed in its midst does not start."""
        if self._epoch < 0:
            self._epoch = int(state.epoch or 0)
            self._starts_epoch = self._epoch == (state.epoch or 0)
        else:
            self._epoch += 1
            self._starts_epoch = True

    def on_step_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **known: Any
    ) -> None:
        """Where there is work to do before this step, do it when the model is called: with its inputs."""
        step, epoch = state.global_step, self._epoch if self._starts_epoch else None
        self._starts_epoch = False
        self._remove_hook()
        if not self._teleporter.has_work(step, epoch):
            return

        def teleport(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._remove_hook()
            if module is not model:
                raise TeleportationError(
                    "the model runs in copies, as in DataParallel, which cannot be teleported: use one "
                    "process for each device"
                )
            self._teleporter.before_step(module, optimizer, (args, kwargs), step=step, epoch=epoch)

        self._hook = model.register_forward_pre_hook(torch.compiler.disable(teleport), with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Notice a model that was not called."""
        if self._hook is not None:
            self._remove_hook()
            raise TeleportationError(
                f"the {type(known['model']).__name__} was not called in this step, so there are no example "
                "inputs: TeleportCallback needs a Trainer that trains its model by calling it"
            )

    def on_save(self, args: Any, state: Any, control: Any, *, model: nn.Module, **known: Any) -> None:
        """Write the file of a checkpoint."""
        saved = self._teleporter.state_dict()
        if not saved or not args.should_save:
            return
        folder = _folder(args, state)
        if not folder.is_dir():
            warnings.warn(
                f"the change of basis is not saved: expected the checkpoint in {folder}", stacklevel=2
            )
            return
        digest = weights_digest(dict(model.named_parameters()))
        with replacing(folder / _FILE) as temporary:
            torch.save({**saved, "weights_digest": digest}, temporary)

    def on_train_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Give the optimizer back."""
        self._remove_hook()
        self._teleporter.detach()

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _folder(args: Any, state: Any) -> Path:
    """Where ``Trainer`` has the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _read(path: Path, model: nn.Module) -> Mapping[str, Any]:
    """The state in the file of a checkpoint, which belongs to the weights that the model has.

    Raises:
        CheckpointError: it cannot be read, or belongs to other weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    digest = content.get("weights_digest") if isinstance(content, Mapping) else None
    if digest != weights_digest(dict(model.named_parameters())):
        raise CheckpointError(
            f"{path} belongs to other weights than those that were loaded: give TeleportCallback the folder "
            "of the checkpoint that training resumes from, resume_from"
        )
    found: Mapping[str, Any] = content
    return found
