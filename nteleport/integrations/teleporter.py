"""Teleport a network while a framework trains it: what the callbacks of all frameworks share.

A framework has the loop, the network and the optimizer; before each step it reports the epoch and the step to
a ``Teleporter``. At the first step, the network is analyzed. With activations kept, weights and optimizer
state are then moved in place (``nteleport.teleport_``). With activations conjugated, the optimizer's steps
happen in teleported coordinates (``nteleport.attach``), and the weights in the network stay the plain ones.
Either way the network as it is computes, evaluates and saves what it should.

When, and with which random numbers, follows from the numbers of epochs and steps alone. So a resumed training
needs to know the change of basis, and the weights that the optimizer holds, and no more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nteleport.core.analysis import analyze
from nteleport.core.attachment import Attachment, attach
from nteleport.core.certificate import Certificate
from nteleport.core.checks import check_cob, check_whole
from nteleport.core.choosing import choose_cob
from nteleport.core.cob import admitted_cob, sample_cob
from nteleport.core.in_place import teleport_
from nteleport.core.objectives import UserFunction
from nteleport.core.optimizer_state import check_transportable, maker_like
from nteleport.core.quiver import Quiver
from nteleport.core.tracing import ExampleInputs
from nteleport.errors import TeleportationError, nearest
from nteleport.integrations.schedule import check_option, read_teleportation
from nteleport.jobs.schedule import teleports_at, teleports_before
from nteleport.randomness import generator_for
from nteleport.vocabulary import OPTIMIZER_STATES, Activations, Objective, OptimizerState, Sampling

Schedule = Mapping[str, Any]
"""``every_n_epochs``, ``epochs`` or ``every_n_steps``, as in experiment files, and ``teleport_only_once``."""

SplitBatch = Callable[[Any], tuple[ExampleInputs, Any]]
"""Turns a batch into example inputs of the network and labels, or None for labels."""


class Teleporter:
    """Teleports one network by a schedule; see ``Teleport`` and ``TeleportCallback`` for the arguments.

    Attributes:
        quiver: of the network; None before the first step.
        attachment: of the optimizer; None before the first step, and with activations kept.
        certificates: of the teleportations so far, with activations kept.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        cob_range: float,
        sampling: Sampling,
        activations: Activations,
        objective: Objective | UserFunction | None,
        optimizer_state: OptimizerState,
        split_batch: SplitBatch | None,
        certificate: bool | Literal["full"],
        seed: int,
    ) -> None:
        options = {"cob_range": cob_range, "cob_sampling": sampling, "activations": activations}
        self._how = read_teleportation(schedule, options)
        if objective is not None and not callable(objective):
            check_option("objective", objective)
        if optimizer_state not in OPTIMIZER_STATES:
            raise TeleportationError(
                f"optimizer_state is one of {', '.join(OPTIMIZER_STATES)}; got {optimizer_state!r}"
                f"{nearest(str(optimizer_state), OPTIMIZER_STATES)}"
            )
        self._objective, self._optimizer_state = objective, optimizer_state
        self._split = split_batch or _split
        self._certificate, self._seed = certificate, seed
        self.attachment: Attachment | None = None
        self.begin()

    def begin(self) -> None:
        """Forget an earlier training; its optimizer is left as it is."""
        self.attachment = None
        self.quiver: Quiver | None = None
        self.certificates: list[Certificate] = []
        self._cob: Tensor | None = None  # with activations kept, in float64 on the CPU
        self._last: tuple[str, int] | None = None  # the epoch or step of the last teleportation
        self._loaded: dict[str, Any] = {}  # not restored yet, or of a training that ended

    def end(self) -> None:
        """Let go of network and optimizer, which may move to other devices; ``state_dict`` stays."""
        self._loaded = self.state_dict()
        if "teleported_weights" in self._loaded:
            weights = self._loaded["teleported_weights"]
            self._loaded["teleported_weights"] = {name: w.cpu() for name, w in weights.items()}
        self.quiver, self.attachment = None, None

    def detach(self, *, keep_state: bool = False) -> None:
        """Give the optimizer back, see ``Attachment.detach``; nothing happens if none is attached.

        Args:
            keep_state: whether it has loaded the state of a checkpoint, which did not follow the network here
                and must not move with it.
        """
        if self.attachment is None:
            return
        optimizer = self.attachment.optimizer
        loaded = copy.deepcopy(optimizer.state_dict()) if keep_state else None
        self.attachment.detach(self._optimizer_state)
        self.attachment = None
        if loaded is not None:
            optimizer.load_state_dict(loaded)

    @property
    def cob(self) -> Tensor | None:
        """The change of basis since the training began, shape ``(cob_size,)``; None before the first step."""
        if self.attachment is not None:
            return self.attachment.cob
        found: Tensor | None = self._loaded.get("cob", self._cob)
        return found

    def has_work(self, step: int, epoch: int | None) -> bool:
        """Whether ``before_step`` has anything to do."""
        return self.quiver is None or self._due(step, epoch) is not None

    def before_step(
        self, network: nn.Module, optimizer: Optimizer, batch: Any, *, step: int, epoch: int | None
    ) -> None:
        """Teleport if the schedule says so; analyze the network if this is the first call.

        It may be called several times before a step, as for the batches whose gradients are accumulated.

        Args:
            network: the plain network, without wrappers.
            optimizer: trains it.
            batch: of the training, on the device of the network.
            step: counted from 0 through all epochs.
            epoch: if this is its first step, counted from 0; otherwise None.

        Raises:
            AnalysisError: the network cannot be traced on this batch.
            TeleportationError: nothing of the network can be teleported, it or its optimizer is not of a kind
                that can, or the loaded state does not fit.
        """
        if not self.has_work(step, epoch):
            return
        optimizer = unwrapped(optimizer)
        inputs, labels = self._split(batch)
        if self.quiver is None:
            self.quiver = self._analyzed(network, optimizer, inputs)
        due = self._due(step, epoch)
        if due is None:
            return
        generator = generator_for("teleport", self._seed, *due)
        if self.attachment is not None:
            cob = self._next_cob(self.quiver, network, optimizer, (inputs, labels), generator)
            self.attachment.teleport(cob, self._optimizer_state)
        else:
            self._move_in_place(self.quiver, network, optimizer, (inputs, labels), generator)
        self._last = due

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the network and the optimizer; empty before the first step."""
        state: dict[str, Any] = {"activations": self._how.activations, "last": self._last}
        if self.attachment is not None:
            attached = self.attachment.state_dict()
            return {**state, "cob": attached["cob"], "teleported_weights": attached["teleported_weights"]}
        if self.quiver is not None:
            return {**state, "cob": self._cob}
        return dict(self._loaded)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned, as soon as the network and the optimizer are there.

        Raises:
            TeleportationError: it is none, or of other activations.
        """
        checked = _checked_state(state)
        if checked["activations"] != self._how.activations:
            raise TeleportationError(
                f"the checkpoint was saved with activations {checked['activations']}, and this callback has "
                f"activations {self._how.activations}"
            )
        self._loaded, self._last = checked, checked["last"]

    def _due(self, step: int, epoch: int | None) -> tuple[str, int] | None:
        """The epoch or step for which a teleportation is due."""
        if self._how.schedule == "every_n_steps":
            due = ("step", step) if teleports_before(step, self._how) else None
        else:
            starts = epoch is not None and teleports_at(epoch, self._how, epochs=epoch + 1)
            due = ("epoch", epoch) if epoch is not None and starts else None
        return None if due == self._last else due

    def _analyzed(self, network: nn.Module, optimizer: Optimizer, inputs: ExampleInputs) -> Quiver:
        """The quiver of the network; the optimizer is attached, and what was loaded restored."""
        parameters = dict(network.named_parameters())
        check_whole(parameters)
        ours = {id(parameter) for parameter in parameters.values()}
        if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            raise TeleportationError(
                f"{type(optimizer).__name__} trains no parameter of this {type(network).__name__}; it may "
                "hold copies or parts of them, as in DeepSpeed, which cannot be teleported"
            )
        if self._optimizer_state == "transport":
            check_transportable(optimizer)
        quiver = analyze(network, inputs, activations=self._how.activations)
        if quiver.cob_size == 0:
            raise TeleportationError(
                f"nothing of {type(network).__name__} can be teleported with activations "
                f"{self._how.activations}; the report of nteleport.analyze says why"
            )
        loaded, self._loaded = self._loaded, {}
        if self._how.activations == "kept":
            self._cob = loaded.get("cob", torch.ones(quiver.cob_size, dtype=torch.float64))
            check_cob(quiver, self._cob)
            return quiver
        attachment = attach(optimizer, network, quiver)
        if loaded:
            attachment.load_state_dict({**loaded, "optimizer": optimizer.state_dict()})
        self.attachment = attachment
        return quiver

    def _next_cob(
        self,
        quiver: Quiver,
        network: nn.Module,
        optimizer: Optimizer,
        batch: tuple[ExampleInputs, Any],
        generator: torch.Generator,
    ) -> Tensor:
        """The change of basis to move to: drawn, or chosen from where the weights of the network are."""
        if self._objective is None:
            drawn = sample_cob(
                quiver.cob_size, self._how.cob_range, self._how.cob_sampling, generator=generator
            )
            return admitted_cob(quiver, drawn, generator)
        options: dict[str, Any] = {}
        if self._objective == "lookahead":
            options["optimizer"] = maker_like(optimizer)
        chosen = choose_cob(
            quiver, network, self._objective, batches=[batch], generator=generator, **options
        ).cob
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(chosen, 0)  # each process has a batch of its own
        return chosen

    def _move_in_place(
        self,
        quiver: Quiver,
        network: nn.Module,
        optimizer: Optimizer,
        batch: tuple[ExampleInputs, Any],
        generator: torch.Generator,
    ) -> None:
        assert self._cob is not None
        cob = self._next_cob(quiver, network, optimizer, batch, generator).cpu().double()
        if self._objective is not None:  # chosen from the weights as they are, and not as they began
            cob = cob * self._cob
        done = teleport_(
            network,
            batch[0],
            cob=cob / self._cob,
            quiver=quiver,
            optimizer=optimizer,
            optimizer_state=self._optimizer_state,
            certificate=self._certificate,
        )
        self._cob = cob
        if done.certificate is not None:
            self.certificates.append(done.certificate)


def unwrapped(optimizer: object) -> Optimizer:
    """The torch optimizer inside the wrappers of Lightning and Accelerate.

    Raises:
        TeleportationError: there is none.
    """
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise TeleportationError(f"expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def _split(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch: a pair of them, a mapping with ``labels``, or ``(args, kwargs)``."""
    match batch:
        case (tuple(args), dict(kwargs)):
            inputs, labels = _split(kwargs)
            return (args, inputs), labels
        case Mapping():
            return {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
        case [inputs, labels, *_]:
            return inputs, labels
        case [inputs]:
            return inputs, None
    return batch, None


def _checked_state(state: object) -> dict[str, Any]:
    """A saved state whose values have the types of one."""
    match state:
        case {"activations": str(activations), "cob": Tensor() as cob, "last": last} if cob.dim() == 1:
            weights = state.get("teleported_weights", {}) if isinstance(state, Mapping) else {}
            due: tuple[str, int] | None = None
            match last:
                case None:
                    pass
                case [str(kind), int(number)]:
                    due = (kind, number)
                case _:
                    raise TeleportationError("the saved state of a teleportation is damaged: its key last")
            if isinstance(weights, Mapping) and all(isinstance(each, Tensor) for each in weights.values()):
                found = {"activations": activations, "cob": cob, "last": due}
                return {**found, "teleported_weights": dict(weights)}
    raise TeleportationError(
        "a saved state of a teleportation has the keys activations, cob, last and teleported_weights"
    )


class Teleporting:
    """What the callbacks of all frameworks show of their ``Teleporter``."""

    _teleporter: Teleporter

    @property
    def cob(self) -> Tensor | None:
        """The change of basis since the training began, shape ``(cob_size,)``; None before the first step."""
        return self._teleporter.cob

    @property
    def attachment(self) -> Attachment | None:
        """During a training with activations conjugated, what ``nteleport.attach`` returned."""
        return self._teleporter.attachment

    @property
    def certificates(self) -> list[Certificate]:
        """Of the teleportations so far, with activations kept."""
        return self._teleporter.certificates
