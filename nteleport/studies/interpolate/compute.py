"""Loss and accuracy on the line between two networks, before and after teleporting (section 4.3, Fig. 5).

A point of weight space, teleported weights θ' with their change of basis τ, computes the same function as the
plain network at ``θ' / s(τ)``. So the line between two such points, which moves weights *and* CoB, is a
curve of plain weights, ``θ'_α / s(τ_α)``, and costs no more to evaluate than any other (``Line``).

Two consequences. With the same CoB at both ends the curve is the plain one: teleportation is linear in the
weights, and the loss along the line does not change. With different CoBs, an entry may approach zero or cross
it outside [0, 1]; weights are divided by it, so the loss may be huge there, as in the published figures. An
entry is kept at least 1e-6 away from zero.

BatchNorm's running statistics are not weights. On the line they are recomputed at every point from training
images, or interpolated as well (variances are kept nonnegative), depending on the settings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nteleport.checkpoints.files import read_checkpoint
from nteleport.checkpoints.fitting import load_into
from nteleport.core.cob import SMALLEST_ENTRY
from nteleport.core.quiver import Quiver, scales, teleported
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for
from nteleport.studies.curvature import curvature, curvature_batches
from nteleport.studies.interpolate import InterpolateSettings
from nteleport.studies.points import Evaluation, PointScorer, first_images
from nteleport.studies.study import Progress, no_progress
from nteleport.studies.subject import Subject, build_network, draw_cob, one_subject, seeded
from nteleport.studies.training import Training
from nteleport.training.assembly import build_optimizer
from nteleport.training.metrics import Scores

PLAIN, TELEPORTED, ITSELF = "A to B", "T(A) to T(B)", "A to T(A)"
"""The lines: between the networks, between their teleportations, from one to its own teleportation."""

CALIBRATION_IMAGES = 2048
NEAR_AN_END = 0.1
"""The distance from an end, in α, within which its sharpness is measured."""


@dataclass(frozen=True, eq=False)
class Position:
    """A point of teleported weight space.

    Attributes:
        weights: teleported, by parameter name.
        cob: shape ``(cob_size,)``.
        statistics: running statistics of normalizations, by buffer name.
    """

    weights: Mapping[str, Tensor]
    cob: Tensor
    statistics: Mapping[str, Tensor]

    def teleported(self, quiver: Quiver, cob: Tensor) -> Position:
        """The same function at the CoB ``cob``, starting from a CoB of ones."""
        return Position(teleported(self.weights, quiver, cob), cob, self.statistics)


@dataclass(frozen=True, eq=False)
class Line:
    """The plain weights along the line from one position to another; a `Points`.

    Attributes:
        quiver: of the network.
        first, second: at α = 0 and α = 1.
        alphas: the positions to evaluate.
        moves_statistics: interpolate running statistics as well.
    """

    quiver: Quiver
    first: Position
    second: Position
    alphas: list[float]
    moves_statistics: bool = False

    def __len__(self) -> int:
        return len(self.alphas)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        alpha = self.alphas[position]
        cob = _away_from_zero(torch.lerp(self.first.cob, self.second.cob, alpha))
        between = {
            name: torch.lerp(w, self.second.weights[name], alpha) for name, w in self.first.weights.items()
        }
        point = teleported(between, self.quiver, cob, power=-1)
        if self.moves_statistics:
            for name, statistic in self.first.statistics.items():
                moved = torch.lerp(statistic, self.second.statistics[name], alpha)
                point[name] = moved.clamp(min=0) if name.endswith("running_var") else moved
        return point


@seeded
def interpolate_networks(
    settings: InterpolateSettings, *, progress: Progress = no_progress
) -> dict[str, pd.DataFrame]:
    """Scores on the lines between two networks, before and after teleporting.

    Returns:
        ``interpolate``: one row per point and split, ``line, teleportation, alpha, split, loss,
        accuracy``; ``line`` is one of ``PLAIN``, ``TELEPORTED`` and ``ITSELF``. ``interpolate-sharpness``:
        one row per end of each line, ``line, teleportation, end, loss, rise``, where ``rise`` is the mean
        training loss within 0.1 of the end, minus the loss there. With probes it has the columns of
        ``nteleport.studies.curvature``, too: ``trace``, which teleporting changes by construction, beside
        ``invariant_trace``, which it cannot.

    Raises:
        NTeleportError: invalid settings.
    """
    subject = one_subject(settings)
    lines = list(_numbered_lines(settings))
    ends_measured = 2 * len(lines) if settings.probes else 0
    steps = _Steps(progress, _epochs(settings) + len(lines) * settings.points + ends_measured)
    first, second = _networks(subject, settings, steps)
    splits = {"train": subject.data.train, "validation": subject.data.test}
    scorer = PointScorer(
        subject.network,
        Evaluation(
            {name: first_images(split, settings.images) for name, split in splits.items()},
            first_images(subject.data.train, CALIBRATION_IMAGES)
            if settings.statistics == "recompute"
            else None,
        ),
    )
    rows: list[dict[str, object]] = []
    curvatures: list[dict[str, object]] = []
    for name, number in lines:
        ends = _ends(name, first, second, _draw_cobs(subject, settings, number), subject.quiver)
        line = Line(subject.quiver, *ends, settings.alphas(), settings.statistics == "interpolate")
        for index, scores in scorer.scores(line):
            rows += _rows(name, number, line.alphas[index], scores)
            steps.one_more()
        for end, position in enumerate(ends if settings.probes else ()):
            measured = _curvature(subject, settings, position)
            curvatures.append({"line": name, "teleportation": number, "end": float(end), **measured})
            steps.one_more()
    table = pd.DataFrame(rows)
    rises = sharpness(table)
    if curvatures and len(rises):
        rises = rises.merge(pd.DataFrame(curvatures), on=["line", "teleportation", "end"], how="left")
    return {"interpolate": table, "interpolate-sharpness": rises}


def _curvature(subject: Subject, settings: InterpolateSettings, position: Position) -> dict[str, float]:
    """The curvature of the loss at the teleported weights of a position, with its running statistics."""
    network = copy.deepcopy(subject.network)
    plain = teleported(position.weights, subject.quiver, position.cob, power=-1)
    network.load_state_dict({**network.state_dict(), **plain, **position.statistics})
    images = curvature_batches(subject.data.train, settings.images)
    scale = scales(subject.quiver, position.cob)
    return curvature(network, images, scale, probes=settings.probes, seed=settings.seed)


def sharpness(table: pd.DataFrame) -> pd.DataFrame:
    """The mean rise of the training loss within 0.1 of each end of each line."""
    train = table[table["split"] == "train"]
    rows = []
    for (line, number), points in train.groupby(["line", "teleportation"], sort=False):
        for end in (0.0, 1.0):
            distance = (points["alpha"] - end).abs()
            near = points.loc[distance <= NEAR_AN_END + 1e-9, "loss"]
            if len(near) == 0:
                continue
            loss = float(points["loss"].to_numpy()[int(distance.to_numpy().argmin())])
            origin = {"line": line, "teleportation": number, "end": end}
            rows.append({**origin, "loss": loss, "rise": float(near.mean()) - loss})
    return pd.DataFrame(rows)


class _Steps:
    """Counts steps of different kinds for one `Progress`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def one_more(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _epochs(settings: InterpolateSettings) -> int:
    return settings.epochs * ((settings.weights is None) + (settings.weights_b is None))


def _numbered_lines(settings: InterpolateSettings) -> Iterator[tuple[str, int]]:
    yield PLAIN, 0
    for line in (TELEPORTED, ITSELF):
        for number in range(settings.teleportations):
            yield line, number


def _networks(subject: Subject, settings: InterpolateSettings, steps: _Steps) -> tuple[Position, Position]:
    """Networks A and B, each trained or loaded, at a CoB of ones.

    Errors in the file or the optimizer of B are reported before A is trained, which may take hours.
    """
    network, second = subject.network, None
    if settings.weights_b is not None:
        before = copy.deepcopy(network.state_dict())
        load_into(network, read_checkpoint(settings.weights_b))
        second = _position(subject)
        network.load_state_dict(before)
    else:
        build_optimizer(settings.optimizer_b, network, subject.quiver)
    if settings.weights is None:
        _train(subject, settings.optimizer_a, settings.batch_size_a, settings.epochs, "A", steps)
    first = _position(subject)
    if second is None:
        seed = settings.seed if settings.same_start else settings.seed + 1
        network.load_state_dict(build_network(subject.model, subject.data.info, seed).state_dict())
        _train(subject, settings.optimizer_b, settings.batch_size_b, settings.epochs, "B", steps)
        second = _position(subject)
    return first, second


def _train(
    subject: Subject, optimizer: Component, batch_size: int, epochs: int, name: str, steps: _Steps
) -> None:
    training = Training(subject, optimizer, batch_size, f"interpolate {name}")
    for epoch in range(epochs):
        training.run_epoch(epoch)
        steps.one_more()


def _position(subject: Subject) -> Position:
    weights = {name: p.detach().clone() for name, p in subject.network.named_parameters()}
    buffers = {name: b for name, b in subject.network.named_buffers() if "running_" in name}
    ones = torch.ones(subject.quiver.cob_size, device=subject.device)
    return Position(weights, ones, copy.deepcopy(buffers))


def _draw_cobs(subject: Subject, settings: InterpolateSettings, number: int) -> tuple[Tensor, Tensor]:
    """The CoBs of A and B in one teleportation; that of A is the same in all lines."""
    generator = generator_for("study", settings.seed, f"interpolate {number}")
    first = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).float()
    second = draw_cob(subject, settings.cob_range, settings.cob_sampling, generator).float()
    return first, first if settings.cob == "same" else second


def _ends(
    line: str, first: Position, second: Position, cobs: tuple[Tensor, Tensor], quiver: Quiver
) -> tuple[Position, Position]:
    if line == PLAIN:
        return first, second
    if line == ITSELF:
        return first, first.teleported(quiver, cobs[0])
    return first.teleported(quiver, cobs[0]), second.teleported(quiver, cobs[1])


def _away_from_zero(cob: Tensor) -> Tensor:
    near = torch.where(cob < 0, -SMALLEST_ENTRY, SMALLEST_ENTRY).to(cob)
    return torch.where(cob.abs() < SMALLEST_ENTRY, near, cob)


def _rows(line: str, number: int, alpha: float, scores: Mapping[str, Scores]) -> Iterator[dict[str, object]]:
    origin = {"line": line, "teleportation": number, "alpha": alpha}
    for split, each in scores.items():
        yield {**origin, "split": split, "loss": each.loss, "accuracy": each.accuracy}
