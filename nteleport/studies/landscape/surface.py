"""A loss surface: the scores on a plane of weight space, kept on disk while it is computed.

Every pass over the data replaces the file of the surface by one that has a few points more, so an
interrupted surface goes on where it was left. The file carries a key of everything the surface depends on;
one of another key is started afresh.
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
    """The points ``centre + x · first + y · second`` of plain weights; a `Points`.

    Attributes:
        centre: parameters by name.
        first, second: directions by name, in the coordinates of the plain network.
        places: the (x, y) of each point.
    """

    centre: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    places: Sequence[tuple[float, float]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Point:
        x, y = self.places[position]
        return {name: w + x * self.first[name] + y * self.second[name] for name, w in self.centre.items()}


@dataclass(frozen=True, eq=False)
class _Rest:
    """Some of the points of another; a `Points`."""

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
        plane: where.
        file: keeps what is finished; its folder must exist. None keeps nothing.
        key: of all that the surface depends on.
        progress: told of the points, those from the file included.

    Returns:
        A row for each place, ``x, y, loss, accuracy``, in the order of ``plane.places``.
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
    """What is finished: nothing if there is no file, or a damaged one, or one of another surface."""
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
