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
    trainings = [claim for claim in claims if isinstance(claim, TrainingClaim)]
    for claim in {claim.experiments: claim for claim in trainings}.values():
        names = {job.name for job in layout.expand(claim)}
        folder = layout.pictures / Path(claim.experiments[0]).stem
        try:
            drawn = plot_results(
                layout.jobs, metrics=["val_accuracy"], boxplot=True, out_dir=folder, only=names
            )
        except ResultsError:  # nothing of it is trained yet
            continue
        files += drawn.files
    return files
