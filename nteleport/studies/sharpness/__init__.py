"""The study `sharpness`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import boolean, number, option, whole_number
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class SharpnessSettings(StudySettings):
    """Trace and largest eigenvalues of the Hessian of the loss, before and after teleporting."""

    images: int = option(
        256, whole_number(1), "The first images of the training split; the loss is their mean.", metavar="N"
    )
    batch_size: int = option(256, whole_number(1), "Images at once; only memory depends on it.", metavar="N")
    probes: int = option(32, whole_number(2), "Random vectors of each estimate of a trace.", metavar="N")
    eigenvalues: int = option(3, whole_number(0), "How many of the largest eigenvalues; 0 for none.")
    steps: int = option(
        60,
        whole_number(1),
        "Lanczos steps at most; each keeps a vector as large as the weights.",
        metavar="N",
    )
    tolerance: float = option(
        1e-3, number("above 0", lambda t: t > 0),
        "Lanczos ends when no residual exceeds this share of the largest eigenvalue.",
    )  # fmt: skip
    per_layer: bool = option(True, boolean, "The layers too, each by itself; otherwise the network alone.")


STUDY = Study(
    "sharpness", "Curvature of the loss before and after teleporting.", SharpnessSettings, "hessian_sharpness"
)
