"""The study `interpolate`: its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nteleport.jobs.job import Component
from nteleport.schema.fields import boolean, number, one_of, option, optional, redefault, whole_number
from nteleport.studies.settings import SGD, TrainingSettings, optimizer, path, probe_count
from nteleport.studies.study import Study

_LINE = number("", lambda _: True)


@dataclass(frozen=True, kw_only=True)
class InterpolateSettings(TrainingSettings):
    """Loss and accuracy on the line between two networks, before and after teleporting, as in Fig. 5.

    Networks A and B are trained here, each with its own batch size and optimizer, or loaded from files.
    """

    epochs: int = redefault(TrainingSettings, "epochs", 30)
    batch_size_a: int = option(8, whole_number(1), "Images per batch when training A.", metavar="N")
    batch_size_b: int = option(128, whole_number(1), "Images per batch when training B.", metavar="N")
    optimizer_a: Component = option(SGD, optimizer, "For A: {cls: SGD, lr: 0.01}.", metavar="OPTIMIZER")
    optimizer_b: Component = option(SGD, optimizer, "For B: {cls: SGD, lr: 0.01}.", metavar="OPTIMIZER")
    weights_b: Path | None = option(
        None, optional(path), "Trained weights of B; --weights are those of A.", metavar="FILE"
    )
    same_start: bool = option(True, boolean, "A and B are trained from the same initial weights.")
    cob: str = option(
        "own", one_of("own", "same"), "Teleport A and B by their own CoBs or by the same.", metavar="WORD"
    )
    teleportations: int = option(1, whole_number(1), "Teleportations drawn, one line each.", metavar="N")
    alpha_from: float = option(-0.5, _LINE, "Where the line begins; A is at 0.")
    alpha_to: float = option(1.5, _LINE, "Where the line ends; B is at 1.")
    points: int = option(101, whole_number(2), "Points on each line, evenly spaced.", metavar="N")
    statistics: str = option(
        "recompute", one_of("recompute", "interpolate"),
        "BatchNorm statistics: recomputed at each point on training images, or interpolated.", metavar="WORD",
    )  # fmt: skip
    images: int | None = option(
        None, optional(whole_number(1)), "At most this many images of each split.", metavar="N"
    )
    probes: int = option(
        8, probe_count, "Random vectors of each estimate of the curvature; 0 for none.", metavar="N"
    )

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if self.alpha_from >= self.alpha_to:
            return f"alpha_from {self.alpha_from:g} is not below alpha_to {self.alpha_to:g}"
        return super().problem()

    def alphas(self) -> list[float]:
        """The positions on each line."""
        step = (self.alpha_to - self.alpha_from) / (self.points - 1)
        return [round(self.alpha_from + step * k, 12) for k in range(self.points)]


STUDY = Study(
    "interpolate",
    "Loss and accuracy on the line between two networks.",
    InterpolateSettings,
    "interpolate_networks",
)
