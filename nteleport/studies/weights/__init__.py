"""The study `weights`: its settings."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.schema.fields import boolean, number, one_of, option, optional, whole_number
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
    xlim: tuple[float, ...] = option(
        (), number("", lambda _: True), "Two weights between which densities are shown; by default all.",
        several=True, metavar="LOW,HIGH",
    )  # fmt: skip
    ylim_max: float | None = option(
        None,
        optional(number("above 0", lambda top: top > 0)),
        "The largest density shown.",
        metavar="DENSITY",
    )
    bins: int = option(200, whole_number(10), "Bins of a density, fewer for small layers.", metavar="N")

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if self.xlim and (len(self.xlim) != 2 or self.xlim[0] >= self.xlim[1]):
            return f"xlim {', '.join(f'{x:g}' for x in self.xlim)}: expected two weights, the smaller first"
        return super().problem()


STUDY = Study(
    "weights", "Densities of weights before and after teleporting.", WeightsSettings, "weight_densities"
)
