"""The settings of studies that train a network themselves."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.experiment.components import read_optimizers
from nteleport.jobs.job import Component
from nteleport.schema.fields import Refused, whole_number
from nteleport.schema.yaml_source import Node, Problems
from nteleport.studies.options import option
from nteleport.studies.settings import StudySettings

SGD = Component("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4})


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
    """What a study that trains can be told besides."""

    epochs: int = option(10, whole_number(0), "Epochs of training.", metavar="N")

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if len(self.models) > 1 or len(self.datasets) > 1:
            return "this study takes one model and one data set"
        return super().problem()


@dataclass(frozen=True, kw_only=True)
class OneTrainingSettings(TrainingSettings):
    """What a study can be told that trains with one optimizer."""

    batch_size: int = option(64, whole_number(1), "Images a batch.", metavar="N")
    optimizer: Component = option(
        SGD, optimizer, "The optimizer, as in an experiment file: {cls: SGD, lr: 0.01}.", metavar="OPTIMIZER"
    )
