"""The study `landscape`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import number, one_of, option, optional, whole_number
from nteleport.studies.settings import OneTrainingSettings
from nteleport.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class LandscapeSettings(OneTrainingSettings):
    """Loss surfaces around a network, before and after teleporting, and the path of its training on them.

    The study trains the network and teleports it during training. With --epochs 0 only the surfaces of the
    given weights are drawn. An interrupted study continues when it is run again with the same --out.
    """

    teleport_epoch: int | None = option(
        None, optional(whole_number(0)), "Teleport at the start of this epoch; by default halfway.",
        metavar="N",
    )  # fmt: skip
    points: int = option(21, whole_number(2), "Points along each side of a surface.", metavar="N")
    line_points: int = option(51, whole_number(2), "Points of a one-dimensional surface.", metavar="N")
    reach: float = option(
        1.0, number("above 0", lambda reach: reach > 0),
        "How far to follow the random directions, in filter lengths.",
    )  # fmt: skip
    images: int = option(512, whole_number(2), "Training images on which the loss is measured.", metavar="N")
    statistics: str = option(
        "recompute", one_of("recompute", "keep"),
        "BatchNorm statistics: recomputed at each point on these images, or the network's.", metavar="WORD",
    )  # fmt: skip
    points_per_pass: int | None = option(
        None,
        optional(whole_number(1)),
        "Points evaluated at once; by default what fits in memory.",
        metavar="N",
    )

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if self.teleport_epoch is not None and self.epochs and self.teleport_epoch >= self.epochs:
            return f"teleport_epoch {self.teleport_epoch} is past the last epoch {self.epochs - 1}"
        return super().problem()

    @property
    def teleports_at(self) -> int:
        """The epoch at whose start the network is teleported."""
        return self.epochs // 2 if self.teleport_epoch is None else self.teleport_epoch


STUDY = Study(
    "landscape",
    "Loss surfaces before and after teleporting.",
    LandscapeSettings,
    "loss_landscape",
    resumable=True,
)
