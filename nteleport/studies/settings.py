"""The settings that studies share, and the checks of their values.

Each field declares its default, check and help once, by `option`. The command line (`--cob-range`), the
entries of a `study.yml` and their checks follow from that. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nteleport.data.catalog import DATASETS, DataSource, dataset_info
from nteleport.errors import StudyError, UnknownNameError, nearest
from nteleport.experiment.components import read_datasets, read_models, read_optimizers
from nteleport.jobs.job import Component
from nteleport.schema.fields import (
    Refused,
    known_name,
    number,
    one_of,
    option,
    optional,
    options_of,
    whole_number,
)
from nteleport.schema.yaml_source import Node, Problems
from nteleport.vocabulary import SAMPLINGS, Sampling, sampling_problem


def path(node: Node) -> Path:
    """A file or folder."""
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return Path(str(node.value))
    raise Refused(f"{node.described()}, expected a path")


def text(node: Node) -> str:
    """Any word."""
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return str(node.value)
    raise Refused(f"{node.described()}, expected a word")


def model(node: Node) -> Component:
    """A model as in an experiment file: a name, or `{cls: name, …}`."""
    problems = Problems()
    found = read_models(node, problems)
    if problems or len(found) != 1:
        raise Refused(problems[0].message.removeprefix("models: ") if problems else "expected one model")
    return found[0].value


def _study_dataset(name: str) -> str:
    """The canonical name of a data set of a study: one of the catalog, `random` or `random:NAME`."""
    lowered = name.strip().lower()
    kind, _, like = lowered.partition(":")
    if kind == "random":
        return f"random:{dataset_info(like).name}" if like else "random"
    if lowered not in DATASETS:
        known = (*DATASETS, "random")
        expected = f"expected one of {', '.join(known)}{nearest(lowered, known)}"
        raise UnknownNameError(f"unknown data set {name!r}: {expected}")
    return lowered


_dataset_name = known_name(_study_dataset, "the name of a data set, or random")


def dataset(node: Node) -> str | DataSource:
    """A data set of the catalog, or random data of its shape: `random:mnist`; `random` is like CIFAR-10.

    Or one of the user's, as in an experiment file: `{load: module:function, name: NAME}`.
    """
    if not isinstance(node.value, dict):
        return _dataset_name(node)
    problems = Problems()
    found = read_datasets(node, problems)
    if problems:
        raise Refused(problems[0].message.removeprefix("datasets: "))
    return found[0].value


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The settings of every study; each study has a subclass with its own defaults and further fields.

    Raises:
        StudyError: incompatible values, as described by `problem`.
    """

    models: tuple[Component, ...] = option(
        (Component("mlp"),), model, "A model, or {cls: NAME, argument: value, …}; may be repeated.",
        several=True, flag="model", metavar="MODEL",
    )  # fmt: skip
    datasets: tuple[str | DataSource, ...] = option(
        ("digits",), dataset, "A data set, or random data: `random:NAME` in the shape of one, `random` of "
        "cifar10; or {load: MODULE:FUNCTION, name: NAME}; may be repeated.",
        several=True, flag="dataset", metavar="NAME",
    )  # fmt: skip
    data_dir: Path = option(Path("data"), path, "Where data sets are, or are downloaded to.", metavar="DIR")
    weights: Path | None = option(
        None, optional(path), "Trained weights, from `train --save-weights`; one model only.", metavar="FILE"
    )
    cob_range: float = option(
        0.9, number("of at least 0", lambda r: r >= 0), "Range of the changes of basis."
    )
    cob_sampling: Sampling = option(
        "intra_landscape", one_of(*SAMPLINGS), "How changes of basis are drawn.", metavar="NAME"
    )
    seed: int = option(0, whole_number(0), "Determines everything random.")
    device: str = option("auto", text, "auto, cpu, cuda, cuda:1 or mps.", metavar="NAME")

    def __post_init__(self) -> None:
        problem = self.problem()
        if problem:
            raise StudyError(problem)

    def problem(self) -> str | None:
        """Why these settings cannot run, or None; a subclass with more checks calls `super()` first."""
        for name, (each, default) in options_of(type(self)).items():
            if each.several and default and not getattr(self, name):
                return f"{name} is empty, expected at least one entry"
        if self.weights is not None and len(self.models) > 1:
            return f"weights {self.weights} belong to one model, expected one but got {len(self.models)}"
        return sampling_problem(self.cob_sampling, self.cob_range)

    @property
    def model(self) -> Component:
        """The model of a study that takes one.

        Raises:
            StudyError: there are several.
        """
        if len(self.models) != 1:
            names = ", ".join(each.label for each in self.models)
            raise StudyError(f"this study takes one model, got {names}")
        return self.models[0]

    @property
    def dataset(self) -> str | DataSource:
        """The data set of a study that takes one.

        Raises:
            StudyError: there are several.
        """
        if len(self.datasets) != 1:
            raise StudyError(f"this study takes one data set, got {', '.join(map(str, self.datasets))}")
        return self.datasets[0]


SGD = Component("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4})


def probe_count(node: Node) -> int:
    """How many random vectors estimate a trace: 0, or as many as give a standard error."""
    count = whole_number(0)(node)
    if count == 1:
        raise Refused("1, expected 0 or at least 2")
    return count


def optimizer(node: Node) -> Component:
    """An optimizer as in an experiment file, a name or `{cls: NAME, argument: value, …}`; no scheduler."""
    problems = Problems()
    found = read_optimizers(node, problems)
    if problems or len(found) != 1:
        raise Refused(
            problems[0].message.removeprefix("optimizers: ") if problems else "expected one optimizer"
        )
    if found[0].value.scheduler is not None:
        raise Refused(
            "lr_scheduler: a study trains at a constant rate, expected an optimizer without a scheduler"
        )
    return found[0].value.optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(StudySettings):
    """The additional settings of a study that trains."""

    epochs: int = option(10, whole_number(0), "Epochs of training.", metavar="N")

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if len(self.models) > 1 or len(self.datasets) > 1:
            return "this study takes one model and one data set"
        return super().problem()


@dataclass(frozen=True, kw_only=True)
class OneTrainingSettings(TrainingSettings):
    """The settings of a study that trains with one optimizer."""

    batch_size: int = option(64, whole_number(1), "Images per batch.", metavar="N")
    optimizer: Component = option(
        SGD, optimizer, "The optimizer, as in an experiment file: {cls: SGD, lr: 0.01}.", metavar="OPTIMIZER"
    )


@dataclass(frozen=True, kw_only=True)
class RangesSettings(StudySettings):
    """Evenly spaced ranges of the CoB, and the number of draws from each."""

    cob_range: float = option(0.9, number("above 0", lambda r: r > 0), "The largest range.")
    smallest_cob_range: float = option(0.01, number("above 0", lambda r: r > 0), "The smallest range.")
    ranges: int = option(15, whole_number(1), "Number of ranges, evenly spaced between the two.", metavar="N")
    teleportations: int = option(10, whole_number(1), "Teleportations at each range.", metavar="N")

    def problem(self) -> str | None:
        if self.smallest_cob_range > self.cob_range:
            return f"smallest_cob_range {self.smallest_cob_range:g} is above cob_range {self.cob_range:g}"
        return super().problem() or sampling_problem(self.cob_sampling, self.smallest_cob_range)

    def spaced_ranges(self) -> list[float]:
        """The ranges, smallest first; one alone is `cob_range`."""
        if self.ranges == 1:
            return [self.cob_range]
        step = (self.cob_range - self.smallest_cob_range) / (self.ranges - 1)
        return [*(self.smallest_cob_range + step * k for k in range(self.ranges - 1)), self.cob_range]


def plain_settings(settings: Any) -> dict[str, Any]:
    """The fields as plain data, as `read_options` reads them back; an empty list is left out."""
    values = {name: getattr(settings, name) for name in options_of(type(settings))}
    return {name: _plain(value) for name, value in values.items() if value != ()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, DataSource):
        return value.settings()
    if isinstance(value, Component):
        return value.settings() if value.kwargs else value.cls
    return str(value) if isinstance(value, Path) else value
