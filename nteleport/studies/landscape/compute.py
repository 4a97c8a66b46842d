"""The loss around a network, before and after teleporting, and the path of its training on it.

The surface of a teleported network along a direction ``d'`` of its weights is the surface of the plain
network along ``d' / s(τ)``. So drawing it requires no teleportation: both surfaces are planes through the
same plain weights (``nteleport.studies.landscape.surface``).

- Along random directions, filter-normalized in the coordinates of each network from the same raw draw.
- Along the first two principal components of the training path. In the coordinates of the plain network a
  teleportation, which does not change the function, is a corner of the path; in those of the network
  teleported by the CoB of the last teleportation, that CoB maps the whole path. In either picture the
  contours are valid for the whole path.

The trained network and every completed point are kept in a folder until the study is finished.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nteleport.core.quiver import scales, teleported
from nteleport.jobs.atomic import replacing
from nteleport.randomness import generator_for
from nteleport.schema.yaml_source import to_yaml
from nteleport.studies.curvature import curvature, curvature_batches
from nteleport.studies.landscape import LandscapeSettings
from nteleport.studies.landscape.directions import filter_normalized, principal_plane
from nteleport.studies.landscape.surface import Plane, evaluate_surface, grid
from nteleport.studies.points import Evaluation, PointScorer, first_images
from nteleport.studies.settings import plain_settings
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, draw_cob, one_subject, seeded
from nteleport.studies.training import Training
from nteleport.training.provenance import versions

PLAIN, TELEPORTED = "plain", "teleported"
"""The two networks, or the two coordinate systems of one network."""

UNFINISHED = "landscape.unfinished"
"""The folder with everything completed so far."""

_MARGIN = 0.2
"""Margin around a path, as a fraction of its extent."""

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Trained:
    """A network at the end of its training.

    Attributes:
        weights: plain, by name.
        cob: its change of basis, that of the last teleportation.
        path: one row per epoch and coordinate system, ``coordinates, epoch, x, y, teleported, share_x,
            share_y``; empty without training.
        directions: of the path in each coordinate system, expressed in plain coordinates.
    """

    weights: Named
    cob: Tensor
    path: pd.DataFrame
    directions: Mapping[str, tuple[Named, Named]]


@seeded
def loss_landscape(
    settings: LandscapeSettings, *, progress: Progress = no_progress, folder: Path | None = None
) -> dict[str, pd.DataFrame]:
    """Loss surfaces around a network, before and after teleporting.

    Args:
        folder: keeps completed parts, so that an interrupted run can continue; None keeps nothing.

    Returns:
        ``landscape`` and ``landscape-line``: one row per point, ``coordinates, x, y, loss, accuracy``, where
        ``coordinates`` is ``plain`` or ``teleported`` and ``x``, ``y`` are in filter lengths. With training
        also ``landscape-path-surface``, the same with ``x``, ``y`` in units of weights, and
        ``landscape-path``: one row per epoch, ``coordinates, epoch, x, y, teleported, share_x, share_y,
        loss``, where ``teleported`` marks the points at which the network was teleported and the shares are
        fractions of the variance of the path. With probes also ``landscape-sharpness``: one row per
        coordinate system, ``coordinates`` and the columns of ``nteleport.studies.curvature``, of which
        ``trace`` changes by construction and ``invariant_trace`` cannot.

    Raises:
        NTeleportError: invalid settings.
    """
    subject = one_subject(settings)
    key = _key(settings)
    keep = None if folder is None else folder / UNFINISHED
    if keep is not None:
        keep.mkdir(exist_ok=True)
    scorer = _scorer(subject, settings)
    trained = _trained(subject, scorer, settings, keep, key)
    planes = list(_planes(subject, trained, settings))
    sizes = [len(plane) for _, _, plane in planes]
    tables: dict[str, list[pd.DataFrame]] = {}
    for number, (table, coordinates, plane) in enumerate(planes):
        before = sum(sizes[:number])
        found = evaluate_surface(
            scorer, plane, key=f"{key} {table} {coordinates}",
            file=None if keep is None else keep / f"{table}-{coordinates}.npz",
            progress=lambda done, _, before=before: progress(before + done, sum(sizes)),  # type: ignore[misc]
        )  # fmt: skip
        found.insert(0, "coordinates", coordinates)
        tables.setdefault(table, []).append(found)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    if len(trained.path):
        joined["landscape-path"] = trained.path
    if settings.probes:
        joined["landscape-sharpness"] = _curvatures(subject, trained, settings)
    if keep is not None:
        shutil.rmtree(keep)
    return joined


def _curvatures(subject: Subject, trained: Trained, settings: LandscapeSettings) -> pd.DataFrame:
    """The curvature of the loss at the network, in both coordinate systems."""
    images = curvature_batches(subject.data.train, settings.images)
    rows: list[dict[str, object]] = []
    for coordinates, cob in ((PLAIN, torch.ones_like(trained.cob)), (TELEPORTED, trained.cob)):
        scale = scales(subject.quiver, cob)
        found = curvature(subject.network, images, scale, probes=settings.probes, seed=settings.seed)
        rows.append({"coordinates": coordinates, **found})
    return pd.DataFrame(rows)


def _scorer(subject: Subject, settings: LandscapeSettings) -> PointScorer:
    images = first_images(subject.data.train, settings.images)
    calibration = images if settings.statistics == "recompute" else None
    return PointScorer(subject.network, Evaluation({"train": images}, calibration, settings.points_per_pass))


def _planes(
    subject: Subject, trained: Trained, settings: LandscapeSettings
) -> Iterator[tuple[str, str, Plane]]:
    """Every surface: its table, its coordinate system and its plane."""
    reach_x, reach_y = settings.window
    line = _spaced(-reach_x, reach_x, settings.line_points)
    window = grid(*(_spaced(-reach, reach, settings.points) for reach in (reach_x, reach_y)))
    for coordinates in (PLAIN, TELEPORTED):
        first, second = (_random(subject, trained, settings, coordinates, axis) for axis in ("x", "y"))
        yield "landscape-line", coordinates, Plane(trained.weights, first, second, grid(line, [0.0]))
        yield "landscape", coordinates, Plane(trained.weights, first, second, window)
    for coordinates, (first, second) in trained.directions.items():
        path = trained.path[trained.path["coordinates"] == coordinates]
        xs, ys = (_around(path[axis], settings.points) for axis in ("x", "y"))
        yield "landscape-path-surface", coordinates, Plane(trained.weights, first, second, grid(xs, ys))


def _random(
    subject: Subject, trained: Trained, settings: LandscapeSettings, coordinates: str, axis: str
) -> Named:
    """A filter-normalized direction in one coordinate system, expressed in plain coordinates."""
    generator = generator_for("study", settings.seed, f"landscape {axis}")
    vectors = settings.directions == "all"
    if coordinates == PLAIN:
        return filter_normalized(trained.weights, generator, vectors=vectors)
    there = teleported(trained.weights, subject.quiver, trained.cob)
    there = filter_normalized(there, generator, vectors=vectors)
    return teleported(there, subject.quiver, trained.cob, power=-1)


def _trained(
    subject: Subject, scorer: PointScorer, settings: LandscapeSettings, keep: Path | None, key: str
) -> Trained:
    """The trained network, trained now or before an interruption."""
    file = None if keep is None else keep / "training.pt"
    state = None if file is None else _read_training(file, key)
    if state is None:
        state = _train(subject, scorer, settings)
        if file is not None:
            with replacing(file) as temporary, temporary.open("wb") as stream:
                torch.save({"key": key, **state}, stream)
    subject.network.load_state_dict(state["network"])
    weights = {name: p.detach().clone() for name, p in subject.network.named_parameters()}
    directions = {
        coordinates: (_named(weights, found[0]), _named(weights, found[1]))
        for coordinates, found in state["directions"].items()
    }
    return Trained(weights, state["cob"].to(subject.device), pd.DataFrame(state["path"]), directions)


def _read_training(file: Path, key: str) -> dict[str, Any] | None:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch raises for a missing or damaged file; train again
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None


def _train(subject: Subject, scorer: PointScorer, settings: LandscapeSettings) -> dict[str, Any]:
    generator = generator_for("study", settings.seed, "landscape")
    cobs = {
        epoch: draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).float()
        for epoch in settings.teleports_at
    }
    training = Training(subject, settings.optimizer, settings.batch_size, "landscape")
    positions = [_flat(subject)]
    for epoch in range(settings.epochs):
        if epoch in cobs:
            training.teleport(cobs[epoch])
        training.run_epoch(epoch)
        positions.append(_flat(subject))
    cob = cobs[settings.teleports_at[-1]]
    state: dict[str, Any] = {"network": subject.network.state_dict(), "cob": cob.cpu()}
    rows: list[dict[str, Any]] = []
    directions: dict[str, Tensor] = {}
    if settings.epochs:
        losses = _losses(subject, scorer, positions)
        ones = torch.ones_like(cob)
        for coordinates, each in ((PLAIN, ones), (TELEPORTED, cob)):
            scale = torch.cat([s.flatten() for s in scales(subject.quiver, each).values()]).cpu()
            plane = principal_plane(
                [scale * p for p in positions], generator_for("study", settings.seed, "second")
            )
            directions[coordinates] = plane.directions / scale
            for epoch, (x, y) in enumerate(plane.coordinates.tolist()):
                at = {"epoch": epoch, "x": x, "y": y, "teleported": epoch in cobs}
                shares = {"share_x": plane.shares[0], "share_y": plane.shares[1]}
                rows.append({"coordinates": coordinates, **at, **shares, "loss": losses[epoch]})
    return {**state, "path": rows, "directions": directions}


def _losses(subject: Subject, scorer: PointScorer, positions: list[Tensor]) -> list[float]:
    parameters = dict(subject.network.named_parameters())
    points = [_named(parameters, position) for position in positions]
    return [scores["train"].loss for _, scores in scorer.scores(points)]


def _flat(subject: Subject) -> Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in subject.network.parameters()])


def _named(like: Mapping[str, Tensor], flat: Tensor) -> Named:
    pieces = flat.split([p.numel() for p in like.values()])
    return {
        name: piece.view_as(p).to(p.device) for (name, p), piece in zip(like.items(), pieces, strict=True)
    }


def _around(values: pd.Series[float], points: int) -> list[float]:
    low, high = float(values.min()), float(values.max())
    margin = _MARGIN * (high - low) or 1.0
    return _spaced(low - margin, high + margin, points)


def _spaced(low: float, high: float, points: int) -> list[float]:
    return [low + (high - low) * k / (points - 1) for k in range(points)]


def _key(settings: LandscapeSettings) -> str:
    """A key of everything the surfaces depend on, which excludes the number of points per pass."""
    chosen = {n: v for n, v in plain_settings(settings).items() if n not in ("points_per_pass", "data_dir")}
    if settings.weights is not None:  # the file may have been replaced by another network
        chosen["weights"] = hashlib.sha256(settings.weights.read_bytes()).hexdigest()
    return hashlib.sha256(to_yaml({**chosen, **versions()}).encode()).hexdigest()
