"""The settings that all studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.sampling import SAMPLINGS, sampling_problem
from nteleport.schema.fields import number, one_of, optional, whole_number
from nteleport.studies.options import dataset, model, option, options_of, path, text


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What every study can be told; each study has a subclass with its own defaults and further fields.

    Raises:
        StudyError: values that do not go together, as `problem` says.
    """

    models: tuple[Component, ...] = option(
        (Component("mlp"),), model, "A model, or {cls: NAME, argument: value, …}; may be repeated.",
        several=True, flag="model", metavar="MODEL",
    )  # fmt: skip
    datasets: tuple[str, ...] = option(
        ("digits",), dataset, "A data set; or random data, `random:NAME` shaped like one, `random` like "
        "cifar10; may be repeated.",
        several=True, flag="dataset", metavar="NAME",
    )  # fmt: skip
    data_dir: Path = option(Path("data"), path, "Where data sets lie or are downloaded to.", metavar="DIR")
    weights: Path | None = option(
        None, optional(path), "Trained weights, from `train --save-weights`; one model only.", metavar="FILE"
    )
    cob_range: float = option(
        0.9, number("of at least 0", lambda r: r >= 0), "Range of the changes of basis."
    )
    cob_sampling: str = option(
        "intra_landscape", one_of(*SAMPLINGS), "How changes of basis are drawn.", metavar="NAME"
    )
    seed: int = option(0, whole_number(0), "Everything random follows from it.")
    device: str = option("auto", text, "auto, cpu, cuda, cuda:1 or mps.", metavar="NAME")

    def __post_init__(self) -> None:
        problem = self.problem()
        if problem:
            raise StudyError(problem)

    def problem(self) -> str | None:
        """Why these settings cannot run, or None; a subclass that has more to say asks `super()` first."""
        for name, (each, _) in options_of(type(self)).items():
            if each.several and not getattr(self, name):
                return f"{name} is empty, expected at least one entry"
        if self.weights is not None and len(self.models) > 1:
            return f"weights {self.weights} belong to one model, expected one but got {len(self.models)}"
        return sampling_problem(self.cob_sampling, self.cob_range)

    @property
    def model(self) -> Component:
        """The model, of a study that takes one.

        Raises:
            StudyError: there are several.
        """
        if len(self.models) != 1:
            names = ", ".join(each.label for each in self.models)
            raise StudyError(f"this study takes one model, got {names}")
        return self.models[0]

    @property
    def dataset(self) -> str:
        """The data set, of a study that takes one.

        Raises:
            StudyError: there are several.
        """
        if len(self.datasets) != 1:
            raise StudyError(f"this study takes one data set, got {', '.join(self.datasets)}")
        return self.datasets[0]
