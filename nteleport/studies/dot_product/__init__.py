"""The study `dot-product`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.studies.settings import RangesSettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class DotProductSettings(RangesSettings):
    """Cosine and angle between the weights and the teleported weights, against the range of the CoB."""


STUDY = Study("dot-product", "Angles between weights before and after.", DotProductSettings, "weight_angles")
