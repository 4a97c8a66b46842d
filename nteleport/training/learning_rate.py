"""Learning-rate schedulers: any class of `torch.optim.lr_scheduler`, built from an experiment's settings.

Three things are done for the user. Lengths that a scheduler needs and that follow from the job
(`total_steps`, `epochs`, `T_max`) are computed when left out, `steps_per_epoch` always, counted in the
scheduler's own interval. A formula in text, `lr_lambda: "lambda epoch: 0.95 ** epoch"`, is compiled by the
safe expression library. And `ReduceLROnPlateau` watches the validation accuracy, so its `mode` is `max`
unless the experiment says otherwise; where targets are numbers it watches the validation loss, in mode `min`.

A scheduler changes the hyper-parameters of the wrapped torch optimizer. A teleportation changes at most its
state, so the scheduler's progress is unaffected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler

from nteleport.errors import JobError, nearest
from nteleport.jobs.job import Scheduler
from nteleport.plugins import is_reference, look_up

Watched = Literal["accuracy", "loss"]
"""What `ReduceLROnPlateau` follows, on the validation split."""


class LearningRate:
    """The learning rate of an optimizer during training.

    `scheduler` is None for a constant rate. `notes` say where the experiment file was not followed.
    `interval` is `epoch` or `step`; `ReduceLROnPlateau` always steps once per epoch, like the accuracy it
    watches, or the loss.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: Any | None = None,
        interval: str = "epoch",
        notes: Sequence[str] = (),
        watches: Watched = "accuracy",
    ) -> None:
        self.watches = watches
        self.notes = tuple(notes)
        self._optimizer = optimizer
        self.scheduler = scheduler
        self._follows = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        self._by_step = interval == "step" and not self._follows

    @property
    def current(self) -> float:
        """The rate of the first parameter group for the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step_finished(self) -> None:
        """Call after each step of the optimizer."""
        if self.scheduler is not None and self._by_step:
            self.scheduler.step()

    def epoch_finished(self, validation: float) -> None:
        """Call at the end of each epoch with the validation accuracy, or with the loss, see `watches`."""
        if self.scheduler is None or self._by_step:
            return
        if self._follows:
            self.scheduler.step(validation)
        else:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The progress of the scheduler, as plain data."""
        return {} if self.scheduler is None else dict(self.scheduler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the progress that `state_dict` returned. Load the optimizer's own state before this."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dict(state))


def build_learning_rate(
    optimizer: torch.optim.Optimizer,
    spec: Scheduler | None,
    *,
    epochs: int,
    steps_per_epoch: int,
    compile_lambda: Callable[[str], Callable[[float], float]],
    watches: Watched = "accuracy",
) -> LearningRate:
    """Attach the scheduler `spec` to `optimizer`.

    Args:
        optimizer: a torch optimizer; of a `TeleportedOptimizer`, the wrapped one.
        spec: the scheduler and its keyword arguments; None for a constant rate.
        epochs: length of the training.
        steps_per_epoch: optimizer steps in an epoch.
        compile_lambda: turns the text of a lambda into a function.
        watches: what `ReduceLROnPlateau` follows.

    Raises:
        PluginError: the module of a scheduler of the user's cannot be run.
        JobError: there is no such scheduler, or it refuses the arguments.
    """
    if spec is None:
        return LearningRate(optimizer)
    length = epochs * steps_per_epoch if spec.interval == "step" else epochs
    per_epoch = steps_per_epoch if spec.interval == "step" else 1
    lengths = {"total_steps": length, "T_max": length, "epochs": epochs, "steps_per_epoch": per_epoch}
    notes: list[str] = []
    scheduler = _build(optimizer, spec.cls, spec.kwargs, lengths, compile_lambda, notes, watches)
    _check_length(scheduler, spec, length)
    return LearningRate(optimizer, scheduler, spec.interval, notes, watches)


def _check_length(scheduler: Any, spec: Scheduler, length: int) -> None:
    """A one-cycle schedule raises an error in mid-training when it is stepped beyond its end."""
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < length:
        raise JobError(
            f"{spec.cls} ends after {total} steps, but this training makes {length} ({spec.interval}s): "
            "expected at least as many, or leave total_steps and epochs out"
        )


def _build(
    optimizer: torch.optim.Optimizer,
    name: str,
    kwargs: Mapping[str, Any],
    lengths: Mapping[str, int],
    compile_lambda: Callable[[str], Callable[[float], float]],
    notes: list[str],
    watches: Watched,
) -> Any:
    found = look_up(name) if is_reference(name) else getattr(lr_scheduler, name, None)
    if not (inspect.isclass(found) and issubclass(found, lr_scheduler.LRScheduler)):
        raise JobError(f"torch has no learning-rate scheduler {name!r}{nearest(name, dir(lr_scheduler))}")
    cls: Any = found
    chosen = {key: _compiled(value, compile_lambda) for key, value in kwargs.items()}
    if "schedulers" in chosen:  # SequentialLR and ChainedScheduler combine others
        chosen["schedulers"] = [
            _build(
                optimizer,
                part["cls"],
                {k: v for k, v in part.items() if k != "cls"},
                lengths,
                compile_lambda,
                notes,
                watches,
            )
            for part in chosen["schedulers"]
        ]
    wanted = inspect.signature(cls).parameters
    if name == "ReduceLROnPlateau":
        mode = "max" if watches == "accuracy" else "min"
        if chosen.setdefault("mode", mode) == "max" and watches == "loss":
            raise JobError(f"{name}: mode max, expected min: targets are numbers, and it follows the loss")
    computed = {key: value for key, value in _computed(chosen, lengths).items() if key in wanted}
    for key, value in computed.items():
        if chosen.get(key) not in (None, value):
            notes.append(f"{name}: {key} is {value} here, not {chosen[key]} as in the experiment file")
    chosen.update(computed)
    try:
        return cls(optimizer=optimizer, **chosen)
    except (TypeError, ValueError) as error:
        raise JobError(f"torch refuses the arguments of the scheduler {name}: {error}") from error


def _computed(chosen: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, int]:
    """The lengths to fill in: `total_steps` or `epochs` × `steps_per_epoch`, which are equivalent.

    `steps_per_epoch` follows from data and batch size whatever the file says, as in the published code.
    """
    in_epochs = "epochs" in chosen or "steps_per_epoch" in chosen
    keys = ("epochs", "steps_per_epoch", "T_max") if in_epochs else ("total_steps", "T_max")
    return {key: lengths[key] for key in keys if chosen.get(key) is None or key == "steps_per_epoch"}


def _compiled(value: Any, compile_lambda: Callable[[str], Callable[[float], float]]) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("lambda"):
        return compile_lambda(value)
    if isinstance(value, (list, tuple)):
        return [_compiled(item, compile_lambda) for item in value]
    return value
