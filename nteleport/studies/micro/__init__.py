"""The study `micro`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.jobs.job import Component
from nteleport.schema.fields import number, option, redefault, whole_number
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import Study

_SMALL_MLP = Component("mlp", {"hidden_layers": [128]})


@dataclass(frozen=True, kw_only=True)
class MicroSettings(StudySettings):
    """Angles between gradients and micro-teleportations, as in Fig. 4, on digits and random data."""

    models: tuple[Component, ...] = redefault(StudySettings, "models", (_SMALL_MLP,))
    datasets: tuple[str, ...] = redefault(StudySettings, "datasets", ("digits", "random"))
    cob_range: float = option(
        0.001,
        number("above 0", lambda r: r > 0),
        "Range of the micro-teleportations: so small that they are nearly straight lines.",
    )
    batch_sizes: tuple[int, ...] = option(
        (8, 64), whole_number(1), "Images per gradient; may be repeated.",
        several=True, flag="batch-size", metavar="N",
    )  # fmt: skip
    teleportations: int = option(
        100, whole_number(1), "Angles of each kind, each on a new batch.", metavar="N"
    )


STUDY = Study("micro", "Angles between gradients and micro-teleportations.", MicroSettings, "micro_angles")
