"""The study `weights`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import boolean, option, whole_number
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class WeightsSettings(StudySettings):
    """Densities of weights before and after teleporting, and redrawn from the latter, as in Fig. 11."""

    per_layer: bool = option(False, boolean, "Each layer separately, instead of the whole model.")
    bins: int = option(200, whole_number(10), "Bins of a density, fewer for small layers.", metavar="N")


STUDY = Study(
    "weights", "Densities of weights before and after teleporting.", WeightsSettings, "weight_densities"
)
