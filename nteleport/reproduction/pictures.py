"""Curves and boxes of the trainings of each figure, drawn from the jobs on disk. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nteleport.errors import ResultsError
from nteleport.plots.report import plot_results
from nteleport.reproduction.claims import Claim, TrainingClaim
from nteleport.reproduction.layout import Layout


def draw_trainings(claims: Sequence[Claim], layout: Layout) -> list[Path]:
    """Draw the validation accuracy of every experiment, each into a folder of its own."""
    files: list[Path] = []
    for experiment in dict.fromkeys(c.experiment for c in claims if isinstance(c, TrainingClaim)):
        claim = next(c for c in claims if isinstance(c, TrainingClaim) and c.experiment == experiment)
        names = {job.name for job in layout.expand(claim)}
        folder = layout.pictures / Path(experiment).stem
        try:
            drawn = plot_results(
                layout.jobs, metrics=["val_accuracy"], boxplot=True, out_dir=folder, only=names
            )
        except ResultsError:  # nothing of it is trained yet
            continue
        files += drawn.files
    return files
