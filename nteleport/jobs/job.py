"""A job: one cell of an experiment and one run of it, as pure data.

A job is identified by its content. `Job.name` ends in a hash of everything that can change the job's results,
in a canonical form: fields at their default are omitted (so a field added later changes no old name), options
that have no effect in the job's mode are omitted (so a baseline is the same job whatever teleportations the
experiment has), and equal numbers are written equally. `Job.seed` hashes less: only data set, model,
initializer and run. So a teleported job and its baseline share initial weights and batches.

This module does not import torch: planning, listing and plotting must be instant.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from nteleport.data.catalog import DataSource
from nteleport.plugins import check_reference, is_reference
from nteleport.schema.fields import (
    Refused,
    boolean,
    boolean_or,
    known_name,
    number,
    one_of,
    option,
    optional,
    whole_number,
)
from nteleport.schema.yaml_source import Node
from nteleport.vocabulary import (
    HISTOGRAMS,
    LOSSES,
    METRICS,
    MODES,
    MONITORS,
    OBJECTIVES,
    OPTIMIZER_STATES,
    PRECISIONS,
    PREPROCESSINGS,
    SAMPLINGS,
    SCHEDULES,
    Activations,
    Histogram,
    Metric,
    Mode,
    Monitor,
    Objective,
    OptimizerState,
    Precision,
    Preprocessing,
    Sampling,
    Schedule,
)

_LONGEST_SLUG = 90


def _loss(node: Node) -> str:
    """The name of a loss, or a reference to one of the user's."""
    return known_name(check_reference, "a loss")(node) if is_reference(node.value) else one_of(*LOSSES)(node)


@dataclass(frozen=True)
class TrainingParams:
    """How a network is trained, independent of the optimizer and the teleportations."""

    epochs: int = option(10, whole_number(1))
    batch_size: int = option(32, whole_number(1))
    shuffle_batches: bool = option(False, boolean)
    drop_last_batch: bool = option(False, boolean)
    max_batch: int | None = option(None, optional(whole_number(1)))
    """Maximum number of batches per epoch; None for all."""
    validation: float | None = option(
        None, optional(number("above 0 and below 1, or null", lambda share: 0 < share < 1))
    )
    """Fraction of the training split held out; None validates on the test split, as published."""
    train_images: int | None = option(None, optional(whole_number(1)))
    """At most this many of the images that are left are trained on, the same ones in every epoch."""
    optimizer_state: OptimizerState = option("reset", one_of(*OPTIMIZER_STATES))
    """What a teleportation does to the optimizer state."""
    preprocessing: Preprocessing = option("standard", one_of(*PREPROCESSINGS))
    """`published`: the constants of the paper's code, see `nteleport.data.catalog.preprocessed`."""
    precision: Precision = option("fp32", one_of(*PRECISIONS))
    compile: bool = option(False, boolean)
    channels_last: bool = option(False, boolean)
    fused: Literal["auto"] | bool = option("auto", boolean_or("auto"))
    certificates: bool = option(True, boolean)
    """Whether each teleportation is certified; one that changes outputs is then rolled back."""
    loss: str = option("cross_entropy", _loss)
    """`cross_entropy`, `mse`, or a function of the user's, `module:name`; see `nteleport.training.losses`."""


def _epochs(node: Node) -> tuple[int, ...]:
    """One number of an epoch, or a list of them."""
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        raise Refused("an empty list, expected at least one epoch")
    return tuple(whole_number(0)(item) for item in items)


@dataclass(frozen=True)
class Plateau:
    """When a metric has stopped improving: as `torch.optim.lr_scheduler.ReduceLROnPlateau` has it, with a
    threshold of 0.
    """

    patience: int = option(10, whole_number(0))
    """The number of epochs without improvement that are tolerated: the next one is a plateau."""
    monitor: Monitor = option("val_accuracy", one_of(*MONITORS))

    def settings(self) -> dict[str, Any]:
        """As in an experiment file."""
        return {"patience": self.patience, **_without_defaults({"monitor": self.monitor}, Plateau())}


@dataclass(frozen=True)
class Teleportation:
    """When and how a job teleports (section 3 of the paper).

    Fields that are not options of the mode have no effect.
    """

    mode: Mode = "no_teleport"
    every_n_epochs: int = option(1, whole_number(0))
    """The first teleportation is at the start of this epoch, counted from 0."""
    teleport_only_once: bool = option(False, boolean)
    cob_range: float = option(0.5, number("of at least 0", lambda value: value >= 0))
    cob_sampling: Sampling = option("intra_landscape", one_of(*SAMPLINGS))
    center: float = option(1.0, number("above 0", lambda value: value > 0))
    """Center of the range, for the sampling `centered` only."""
    teleport_prob: float = option(1.0, number("above 0 and at most 1", lambda value: 0 < value <= 1))
    metric: Metric = option("weighted_grad_norm", one_of(*METRICS))
    num_teleportations: int = option(10, whole_number(1))
    num_batches: int = option(1, whole_number(1))
    histogram: Histogram = option("tensor", one_of(*HISTOGRAMS))
    """What `same_distr` draws from: a histogram per weight tensor or, as published, one of the network."""
    activations: Activations = option("conjugated", one_of(*get_args(Activations)))
    """`kept` teleports only as far as the unmodified network allows."""
    epochs: tuple[int, ...] | None = option(None, _epochs)
    """Teleport at the start of these epochs; like the next two, instead of `every_n_epochs`."""
    every_n_steps: int | None = option(None, whole_number(1))
    """Teleport before this step, counted from 0 through all epochs, and before its multiples."""
    on_plateau: Plateau | None = None
    """Teleport at the start of the epoch after a plateau."""
    objective: Objective = option("grad_norm", one_of(*(each for each in OBJECTIVES if each != "nearest")))
    """What `optimize` chooses by; `nearest` needs a second network, and jobs have none."""
    steps: int = option(50, whole_number(1))
    max_log_range: float | None = option(
        1.0, optional(number("above 0, or null for no bound", lambda value: value > 0))
    )
    """Bound of the logarithm of the entries that `optimize` chooses."""

    @property
    def schedule(self) -> Schedule:
        """The option that says when: the one that was given."""
        given = (each for each in SCHEDULES[1:] if getattr(self, each) is not None)
        return next((each for each in given if each in MODES[self.mode].options), SCHEDULES[0])

    def settings(self) -> dict[str, Any]:
        """The mode and the options that have an effect in it."""
        options = {name: getattr(self, name) for name in MODES[self.mode].options}
        for other in set(SCHEDULES) - {self.schedule}:
            options.pop(other, None)
        if options.get("every_n_epochs") == 0:  # every 0 epochs means once, at epoch 0
            options["teleport_only_once"] = True
        if self.epochs is not None and "epochs" in options:
            options["epochs"] = sorted(set(self.epochs))
            options.pop("teleport_only_once", None)
        if self.on_plateau is not None and "on_plateau" in options:
            options["on_plateau"] = self.on_plateau.settings()
        if self.cob_sampling != "centered":
            options.pop("center", None)
        if self.activations == "conjugated":  # left out, as from the jobs of earlier versions
            options.pop("activations", None)
        return {"mode": self.mode, **options}

    @property
    def label(self) -> str:
        """The teleportation in a few words: "no teleport", "random, once at 0, inter 0.9"."""
        if self.mode == "no_teleport":
            return "no teleport"
        chosen = self.settings()
        words = [self.mode, self._schedule_label(bool(chosen.get("teleport_only_once")))]
        if "cob_range" in chosen:
            words.append(f"{self.cob_sampling.removesuffix('_landscape')} {self.cob_range:g}")
        if "center" in chosen:
            words[-1] += f" around {self.center:g}"
        if chosen.get("teleport_prob", 1) != 1:
            words.append(f"prob {self.teleport_prob:g}")
        if self.mode == "optim":
            words.append(f"{self.metric} of {self.num_teleportations} on {self.num_batches}")
        if self.mode == "optimize":
            bound = "unbounded" if self.max_log_range is None else f"within {self.max_log_range:g}"
            words.append(f"{self.objective} in {self.steps} steps {bound} on {self.num_batches}")
        if "activations" in chosen:
            words.append(f"activations {self.activations}")
        return ", ".join(words)

    def _schedule_label(self, once: bool) -> str:
        if self.schedule == "epochs":
            return " ".join(["at", *map(str, self.settings()["epochs"])])
        if self.schedule == "every_n_steps":
            return f"once at step {self.every_n_steps}" if once else f"every {self.every_n_steps} steps"
        if self.on_plateau is not None and self.schedule == "on_plateau":
            times = "first plateau" if once else "plateaus"
            return f"{times} of {self.on_plateau.monitor} after {self.on_plateau.patience}"
        return f"once at {self.every_n_epochs}" if once else f"every {self.every_n_epochs}"


@dataclass(frozen=True)
class Component:
    """A class chosen by name, with its keyword arguments: a model, an initializer or an optimizer."""

    cls: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, key: str = "cls") -> dict[str, Any]:
        """The name under `key`, then the keyword arguments, as in an experiment file."""
        return {key: self.cls, **self.kwargs}

    @property
    def label(self) -> str:
        """One line for a legend: `SGD lr=0.01 momentum=0.9`."""
        chosen = _canonical(self.settings())
        return " ".join([chosen.pop("cls"), *(f"{key}={_flat(value)}" for key, value in chosen.items())])


@dataclass(frozen=True)
class Scheduler(Component):
    """A learning-rate scheduler, stepped at the end of each `interval`: `epoch` or `step`."""

    interval: str = "epoch"

    def settings(self, key: str = "cls") -> dict[str, Any]:
        interval = {} if self.interval == "epoch" else {"interval": self.interval}
        return {**super().settings(key), **interval}


@dataclass(frozen=True, eq=False)
class Job:
    """One training: everything that determines its results, and `run`, which counts repetitions from 0.

    Jobs are equal when their digests are, however they were written down.
    """

    dataset: str | DataSource
    training: TrainingParams
    model: Component
    initializer: Component
    optimizer: Component
    scheduler: Scheduler | None = None
    teleportation: Teleportation = Teleportation()
    run: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def seed(self) -> int:
        """63 bits from data set, model, initializer and run: a teleported job and its baseline share it."""
        origin = {key: self._cell[key] for key in ("dataset", "model", "initializer")}
        return int(_digest({**origin, "run": self.run})[:16], 16) >> 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical job in hexadecimal: equal jobs have equal digests."""
        return _digest({**self._cell, "run": self.run})

    @property
    def hash8(self) -> str:
        """The first 8 characters of the digest."""
        return self.digest[:8]

    @property
    def slug(self) -> str:
        """The job in readable words that are safe in a file name. Not unique, unlike `name`."""
        return f"{self._cell_slug}-run{self.run}"

    @property
    def name(self) -> str:
        """The name of the job's directory, `<slug>-<hash8>`."""
        return f"{self.slug}-{self.hash8}"

    @cached_property
    def cell_name(self) -> str:
        """The name of the job's cell of the matrix, shared by all its runs."""
        return f"{self._cell_slug}-{_digest(self._cell)[:8]}"

    def to_experiment(self, runs: Sequence[int] | None = None) -> dict[str, Any]:
        """The content of an experiment file that expands to this job, or to these `runs` of its cell."""
        optimizer = self.optimizer.settings()
        if self.scheduler is not None:
            optimizer["lr_scheduler"] = self.scheduler.settings()
        teleportation = {"teleport": self.teleportation.settings()}
        return {
            "runs": [self.run] if runs is None else list(runs),
            "datasets": [self._dataset_settings],
            "models": [self.model.settings()],
            "initializers": [self.initializer.settings("type")],
            "optimizers": [optimizer],
            "training_params": self._training_settings(),
            "teleportations": teleportation if self._teleports else {"no_teleport": None},
        }

    def hparams(self) -> dict[str, str | int | float | bool | None]:
        """Every hyper-parameter as a scalar under a dotted key, and a label per component under its name.

        `optimizer.lr` is 0.01, `teleport.cob_range` 0.9; `optimizer` is "SGD lr=0.01 momentum=0.9"
        and `teleport` "random, once at 0, inter 0.9". A list becomes its JSON text.
        """
        parts: dict[str, tuple[str, dict[str, Any]]] = {
            "model": (self.model.label, self.model.settings()),
            "initializer": (self.initializer.label, self.initializer.settings("type")),
            "optimizer": (self.optimizer.label, self.optimizer.settings()),
            "lr_scheduler": ("none", {}),
            "teleport": (self.teleportation.label, self.teleportation.settings()),
        }
        if self.scheduler is not None:
            parts["lr_scheduler"] = (self.scheduler.label, self.scheduler.settings())
        flat: dict[str, Any] = {"dataset": str(self.dataset), "run": self.run, "seed": self.seed}
        for part, (label, _) in parts.items():
            flat[part] = label
        for part, (_, chosen) in parts.items():
            flat.update({f"{part}.{key}": _flat(value) for key, value in chosen.items()})
        if isinstance(self.dataset, DataSource):
            own = {"load": self.dataset.load, **self.dataset.kwargs}
            flat.update({f"dataset.{key}": _flat(value) for key, value in own.items()})
        flat.update({f"training.{key}": value for key, value in self._training_settings().items()})
        return flat

    @property
    def _teleports(self) -> bool:
        return self.teleportation.mode != "no_teleport"

    def _training_settings(self) -> dict[str, Any]:
        chosen = {each.name: getattr(self.training, each.name) for each in fields(TrainingParams)}
        if not self._teleports or MODES[self.teleportation.mode].resets:  # it decides nothing
            del chosen["optimizer_state"]
        if self.training.certificates or not self._teleports:  # left out, as from earlier jobs
            del chosen["certificates"]
        if self.training.train_images is None:
            del chosen["train_images"]
        if self.training.loss == TrainingParams.loss:  # left out, as from earlier jobs
            del chosen["loss"]
        return chosen

    @property
    def _dataset_settings(self) -> str | dict[str, Any]:
        return self.dataset.settings() if isinstance(self.dataset, DataSource) else self.dataset

    @cached_property
    def _cell(self) -> dict[str, Any]:
        """Everything but the run, without defaults: the input of the hashes."""
        return {
            "dataset": self._dataset_settings,
            "training": _without_defaults(self._training_settings(), TrainingParams()),
            "model": self.model.settings(),
            "initializer": self.initializer.settings("type"),
            "optimizer": self.optimizer.settings(),
            "scheduler": self.scheduler.settings() if self.scheduler else None,
            "teleportation": _without_defaults(self.teleportation.settings(), Teleportation()),
        }

    @cached_property
    def _cell_slug(self) -> str:
        words = [str(self.dataset), self.model.label, self.optimizer.label]
        if self.initializer.cls != "none":
            words.insert(2, self.initializer.label)
        text = re.sub(r"[^a-z0-9._]+", "-", " ".join(words).lower().replace("=", ""))
        return f"{text[:_LONGEST_SLUG].strip('-.')}-{self.teleportation.mode}"


def _without_defaults(
    chosen: dict[str, Any], defaults: TrainingParams | Teleportation | Plateau
) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if value != getattr(defaults, key)}


def _canonical(value: Any) -> Any:
    """Sort keys, and write an integral float as the integer it equals."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(_canonical(value), separators=(",", ":")).encode()).hexdigest()


def _flat(value: Any) -> Any:
    return json.dumps(_canonical(value)) if isinstance(value, (list, tuple, Mapping)) else value
