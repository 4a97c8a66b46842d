"""The study `activations`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import option, whole_number
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class ActivationsSettings(StudySettings):
    """What each neuron puts out before and after teleporting, with feature maps of convolutions."""

    images: int = option(64, whole_number(1), "Test images of which statistics are taken.", metavar="N")
    maps: int = option(3, whole_number(0), "Feature maps to show per convolution, of one image.", metavar="N")


STUDY = Study(
    "activations",
    "Activations of every neuron before and after teleporting.",
    ActivationsSettings,
    "neuron_activations",
)
