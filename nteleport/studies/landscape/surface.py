"""A loss surface: the scores on a plane of weight space, kept on disk while it is computed.

Every pass over the data replaces the file of the surface by one with a few more points, so an interrupted
surface continues where it stopped. The file contains a key of everything the surface depends on; with a
different key the surface is started from scratch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from nteleport.jobs.atomic import replacing
from nteleport.studies.points import Point, Points, PointScorer
from nteleport.studies.study import Progress, no_progress
from nteleport.training.metrics import Scores


@dataclass(frozen=True, eq=False)
class Plane:
    """The points ``center + x · first + y · second`` of plain weights; a `Points`.

    Attributes:
        center: parameters by name.
        first, second: directions by name, in the coordinates of the plain network.
        places: the (x, y) of each point.
    """

    center: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    places: Sequence[tuple[float, float]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Point:
        x, y = self.places[position]
        return {name: w + x * self.first[name] + y * self.second[name] for name, w in self.center.items()}


@dataclass(frozen=True, eq=False)
class _Rest:
    """The remaining points of another `Points`; a `Points` itself."""

    points: Points
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Point:
        return self.points[self.positions[position]]


def grid(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """All places of a rectangular grid, row by row."""
    return [(x, y) for y in ys for x in xs]


def evaluate_surface(
    scorer: PointScorer,
    plane: Plane,
    *,
    file: Path | None = None,
    key: str = "",
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """The training scores at each place of a plane.

    Args:
        scorer: of the network; it measures a split called ``train``.
        plane: the points to evaluate.
        file: keeps completed points; its folder must exist. None keeps nothing.
        key: a key of everything the surface depends on.
        progress: receives the number of points, including those from the file.

    Returns:
        One row per place, ``x, y, loss, accuracy``, in the order of ``plane.places``.
    """
    found = _read(file, key, len(plane)) if file is not None else _nothing(len(plane))
    rest = [int(position) for position in np.flatnonzero(~found["done"])]
    before = len(plane) - len(rest)
    progress(before, len(plane))
    pending = 0
    for done, (position, scores) in enumerate(scorer.scores(_Rest(plane, rest)), 1):
        _put(found, rest[position], scores)
        pending += 1
        if file is not None and pending >= scorer.points_per_pass:
            _write(file, key, found)
            pending = 0
        progress(before + done, len(plane))
    if file is not None:
        _write(file, key, found)
    places = pd.DataFrame(plane.places, columns=["x", "y"])
    return places.assign(loss=found["loss"], accuracy=found["accuracy"])


def _put(found: dict[str, NDArray[Any]], position: int, scores: Mapping[str, Scores]) -> None:
    train = scores["train"]
    found["loss"][position], found["accuracy"][position] = train.loss, train.accuracy
    found["done"][position] = True


def _nothing(size: int) -> dict[str, NDArray[Any]]:
    return {"done": np.zeros(size, bool), "loss": np.full(size, np.nan), "accuracy": np.full(size, np.nan)}


def _read(file: Path, key: str, size: int) -> dict[str, NDArray[Any]]:
    """The completed points: none if the file is missing, damaged or of another surface."""
    found = _nothing(size)
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key and stored["done"].shape == (size,):
                found = {name: stored[name] for name in found}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    return found


def _write(file: Path, key: str, found: Mapping[str, NDArray[Any]]) -> None:
    content: dict[str, Any] = {"key": np.array(key), **found}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **content)
