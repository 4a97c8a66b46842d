"""Scores of one network at many points of its weight space.

``PointScorer`` evaluates several points in each pass over the data where memory allows: their weights
are stacked and the network runs on all of them at once (``torch.func.vmap`` over ``functional_call``). If the
network does not support this, or the device does not benefit from it (a CPU), the points are evaluated one
after another. The scores are the same.

A BatchNorm layer in evaluation mode normalizes by running statistics that were collected at other weights.
Far from the trained weights they are wrong, so they can be recomputed at each point (``calibration``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nteleport.core.preserving import keeping_modes
from nteleport.data.batching import EVALUATION_BATCH, batches
from nteleport.data.splits import Split
from nteleport.studies.study import Progress, no_progress
from nteleport.training.metrics import Scores, score_sums

Point = Mapping[str, Tensor]
"""Parameters of the plain network, and buffers if they differ from the network's own, by name."""

PointScores = Mapping[str, Scores]
"""The scores at a point, by the name of the split."""

_MOST_POINTS = 64
_CALIBRATION_BATCH = 256
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Points(Protocol):
    """A sequence of points, possibly computed on access. All have the same names."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Point: ...


@dataclass(frozen=True)
class Evaluation:
    """What is measured at a point.

    Attributes:
        splits: by name: "train", "validation".
        calibration: images on which running statistics are recomputed at each point; None keeps the
            network's.
        points_per_pass: maximum number; None finds what fits on the device.
        batch_size: images per batch.
    """

    splits: Mapping[str, Split]
    calibration: Split | None = None
    points_per_pass: int | None = None
    batch_size: int = EVALUATION_BATCH


class PointScorer:
    """Evaluates a network at many points; see the module docstring.

    Args:
        network: on the device of the data. Its own weights, buffers and modes are not changed.
        evaluation: what to measure.
    """

    def __init__(self, network: nn.Module, evaluation: Evaluation) -> None:
        self.network, self.evaluation = network, evaluation
        device = next(iter(evaluation.splits.values())).device
        self.points_per_pass = evaluation.points_per_pass or _points_that_fit(network, device)
        self._normalizations = [m for m in network.modules() if _has_statistics(m)]
        self._statistics = {n: b for n, b in network.named_buffers() if n.rpartition(".")[2] in _STATISTICS}

    def scores(self, points: Points, progress: Progress = no_progress) -> Iterator[tuple[int, PointScores]]:
        """The position and the scores of each point, in order.

        Args:
            points: indexed when needed, so a lazy sequence never holds more than the points of one pass.
            progress: called after each pass.
        """
        start = 0
        while start < len(points):
            stop = min(start + self.points_per_pass, len(points))
            chunk = [points[position] for position in range(start, stop)]
            found = self._scores_of_some(chunk)
            if found is None:  # try again, fewer at a time
                continue
            yield from enumerate(found, start)
            start = stop
            progress(start, len(points))

    def _scores_of_some(self, chunk: list[Point]) -> list[PointScores] | None:
        """The scores of a pass, or None if passes have to be smaller from now on."""
        if len(chunk) == 1:
            return self._scores(dict(chunk[0]), 1)
        try:
            return self._scores(
                {name: torch.stack([point[name] for point in chunk]) for name in chunk[0]}, len(chunk)
            )
        except torch.OutOfMemoryError:
            self.points_per_pass = max(1, len(chunk) // 2)
        except (RuntimeError, NotImplementedError):
            # An operator without a vmap rule. Any other error occurs again with a single point.
            self.points_per_pass = 1
        return None

    @torch.no_grad()
    def _scores(self, state: dict[str, Tensor], count: int) -> list[PointScores]:
        """The scores at one point, or at ``count`` points whose tensors are stacked."""
        with keeping_modes(self.network):
            self.network.eval()
            if self.evaluation.calibration is not None and self._normalizations:
                state = {**state, **self._fresh_statistics(state, count, self.evaluation.calibration)}
            return self._scores_at(state, count)

    def _scores_at(self, state: dict[str, Tensor], count: int) -> list[PointScores]:
        sums_of = self._sums if count == 1 else vmap(self._sums, (0, None, None))
        read = {}
        for name, split in self.evaluation.splits.items():
            passes = batches(split, batch_size=self.evaluation.batch_size)
            total = torch.stack([sums_of(state, images, labels) for images, labels in passes]).sum(0)
            read[name] = (total.view(count, 3) / len(split)).tolist()
        return [{name: Scores(*means[k]) for name, means in read.items()} for k in range(count)]

    def _sums(self, state: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(self.network, dict(state), (self._served(images),))
        return score_sums(logits if logits.dtype == torch.float64 else logits.float(), labels)

    def _fresh_statistics(self, state: dict[str, Tensor], count: int, split: Split) -> dict[str, Tensor]:
        """Running statistics at these weights: the mean over the calibration batches."""
        held = self._statistics
        collect = self._batch_statistics
        if count > 1:
            held = {name: buffer.expand(count, *buffer.shape) for name, buffer in held.items()}
            collect = vmap(self._batch_statistics, (0, 0, None))
        sums: dict[str, Tensor] = {}
        with _collecting(self._normalizations):
            for images, labels in batches(split, batch_size=_CALIBRATION_BATCH):
                share = len(labels) / len(split)
                for name, found in collect(state, held, images).items():
                    sums[name] = sums.get(name, 0) + share * found
        return sums

    def _batch_statistics(
        self, state: Mapping[str, Tensor], held: Mapping[str, Tensor], images: Tensor
    ) -> dict[str, Tensor]:
        buffers = {name: buffer.clone() for name, buffer in held.items()}
        functional_call(self.network, {**state, **buffers}, (self._served(images),))
        return {name: buffer for name, buffer in buffers.items() if buffer.is_floating_point()}

    def _served(self, images: Tensor) -> Tensor:
        """Images in the dtype of the network; tokens as they are."""
        dtype = next(self.network.parameters()).dtype
        return images.to(dtype) if images.is_floating_point() else images


def first_images(split: Split, most: int | None) -> Split:
    """The split, or its first images."""
    if most is None or most >= len(split):
        return split
    return split.select(torch.arange(most, device=split.device))


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


@contextmanager
def _collecting(normalizations: list[Any]) -> Iterator[None]:
    """Normalize by each batch, and store its statistics as the running statistics."""
    momenta = [module.momentum for module in normalizations]
    for module in normalizations:
        module.training, module.momentum = True, 1.0
    try:
        yield
    finally:
        for module, momentum in zip(normalizations, momenta, strict=True):
            module.training, module.momentum = False, momentum


def _points_that_fit(network: nn.Module, device: torch.device) -> int:
    """A first guess, halved when memory runs out.

    A CPU is fastest with one point after another: small matrices already use it fully, and weights that
    differ between points make convolutions slow there.
    """
    if device.type != "cuda":
        return 1
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(_MOST_POINTS, free // (4 * size)))
