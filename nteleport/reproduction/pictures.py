"""The pictures behind the answers: a seed of each study, the boxes of each experiment. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nteleport.errors import ResultsError
from nteleport.plots.report import plot_results
from nteleport.reproduction.claims import Claim, StudyClaim, TrainingClaim
from nteleport.reproduction.folder import Layout

_SEED = 0
"""Whose pictures of a study are shown."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words."""

    figure: int
    shows: str
    path: Path


def draw_pictures(claims: Sequence[Claim], layout: Layout) -> list[Picture]:
    """Draw every experiment as far as it is trained; give these pictures and those that the studies drew."""
    pictures: list[Picture] = []
    drawn: set[tuple[str, ...]] = set()
    for claim in claims:
        if isinstance(claim, StudyClaim):
            pictures += _of_study(claim, layout)
        elif claim.experiments not in drawn:
            drawn.add(claim.experiments)
            pictures += _of_experiment(claim, layout)
    return pictures


def _of_study(claim: StudyClaim, layout: Layout) -> Iterator[Picture]:
    folder = layout.study(claim, _SEED).folder
    for path in sorted(folder.glob("*.png")):
        yield Picture(claim.figure, f"study {path.stem}, {claim.name}, seed {_SEED}", path)


def _of_experiment(claim: TrainingClaim, layout: Layout) -> Iterator[Picture]:
    """Curves and boxes are drawn; the boxes are what is shown."""
    names = {job.name for job in layout.expand(claim)}
    experiment = Path(claim.experiments[0]).stem
    try:
        drawn = plot_results(
            layout.jobs,
            metrics=["val_accuracy"],
            boxplot=True,
            out_dir=layout.pictures / experiment,
            only=names,
        )
    except ResultsError:  # nothing of it is trained yet
        return
    for path in drawn.files:
        if path.match("*-boxes.png"):
            yield Picture(claim.figure, f"{experiment}.yml", path)
