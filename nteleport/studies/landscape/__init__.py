"""The study `landscape`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import number, one_of, option, optional, whole_number
from nteleport.studies.settings import OneTrainingSettings, probe_count
from nteleport.studies.study import Study

_REACH = number("above 0", lambda reach: reach > 0)


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
    teleport_epochs: tuple[int, ...] = option(
        (), whole_number(0), "Teleport at the start of each of these epochs, each time to a new change of "
        "basis; instead of --teleport-epoch.",
        several=True, metavar="N",
    )  # fmt: skip
    points: int = option(21, whole_number(2), "Points along each side of a surface.", metavar="N")
    line_points: int = option(51, whole_number(2), "Points of a one-dimensional surface.", metavar="N")
    reach: float = option(1.0, _REACH, "How far to follow the random directions, in filter lengths.")
    reach_x: float | None = option(None, optional(_REACH), "The same for the first direction alone.")
    reach_y: float | None = option(None, optional(_REACH), "The same for the second direction alone.")
    directions: str = option(
        "filters", one_of("filters", "all"),
        "What random directions move: filters alone, or biases and normalizations too.", metavar="WORD",
    )  # fmt: skip
    images: int = option(512, whole_number(2), "Training images on which the loss is measured.", metavar="N")
    statistics: str = option(
        "recompute", one_of("recompute", "keep"),
        "BatchNorm statistics: recomputed at each point on these images, or the network's.", metavar="WORD",
    )  # fmt: skip
    probes: int = option(
        8,
        probe_count,
        "Random vectors of each estimate of the curvature; 0 for none.",
        metavar="N",
    )
    points_per_pass: int | None = option(
        None,
        optional(whole_number(1)),
        "Points evaluated at once; by default what fits in memory.",
        metavar="N",
    )

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if self.teleport_epoch is not None and self.teleport_epochs:
            return "teleport_epoch and teleport_epochs are both given, expected one of them"
        name = "teleport_epochs" if self.teleport_epochs else "teleport_epoch"
        if self.epochs and self.teleports_at[-1] >= self.epochs:
            return f"{name} {self.teleports_at[-1]} is past the last epoch {self.epochs - 1}"
        return super().problem()

    @property
    def teleports_at(self) -> tuple[int, ...]:
        """The epochs at whose start the network is teleported, first to last; at least one."""
        if self.teleport_epochs:
            return tuple(sorted(set(self.teleport_epochs)))
        return (self.epochs // 2 if self.teleport_epoch is None else self.teleport_epoch,)

    @property
    def window(self) -> tuple[float, float]:
        """How far the first and the second random direction are followed."""
        return self.reach_x or self.reach, self.reach_y or self.reach


STUDY = Study(
    "landscape",
    "Loss surfaces before and after teleporting.",
    LandscapeSettings,
    "loss_landscape",
    resumable=True,
)
