"""The study `weights`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import boolean, one_of, option, whole_number
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import Study
from nteleport.vocabulary import HISTOGRAMS, Histogram


@dataclass(frozen=True, kw_only=True)
class WeightsSettings(StudySettings):
    """Densities of weights before and after teleporting, and redrawn from the latter, as in Fig. 11."""

    per_layer: bool = option(False, boolean, "Each layer separately, instead of the whole model.")
    histogram: Histogram = option(
        "tensor", one_of(*HISTOGRAMS),
        "Redraw each weight tensor from its own histogram or, as published, from one of the network.",
        metavar="NAME",
    )  # fmt: skip
    bins: int = option(200, whole_number(10), "Bins of a density, fewer for small layers.", metavar="N")


STUDY = Study(
    "weights", "Densities of weights before and after teleporting.", WeightsSettings, "weight_densities"
)
