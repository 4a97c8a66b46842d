"""The study `gradients`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import option, whole_number
from nteleport.studies.settings import RangesSettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class GradientsSettings(RangesSettings):
    """Normalized gradients before and after teleporting, against the range of the CoB, as in Fig. 7."""

    batches: int = option(10, whole_number(1), "Batches; each is used for every teleportation.", metavar="N")
    batch_size: int = option(32, whole_number(1), "Images per batch.", metavar="N")


STUDY = Study("gradients", "Gradients before and after teleporting.", GradientsSettings, "gradient_changes")
