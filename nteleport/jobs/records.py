"""What a training leaves for people and for plots: its rows of metrics, its result, its log. No torch.

Every file is replaced whole, so a crash never leaves half a row. `metrics.csv` has one row for each finished
epoch; `result.json` appears last and means that the job is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nteleport.jobs.atomic import write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from nteleport.jobs.paths import JobPaths


@dataclass(frozen=True)
class MetricRow:
    """One row of `metrics.csv`, an epoch.

    `lr` is the rate of the epoch's first step; losses are in nats, accuracies shares in [0, 1]; `teleported`
    is 1 when the weights were moved at the start of the epoch; the norms are those of
    `nteleport.training.metrics`; `seconds` is the time the epoch took with its validation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    train_accuracy_top5: float
    val_loss: float
    val_accuracy: float
    val_accuracy_top5: float
    teleported: int
    grad_norm: float
    weight_norm: float
    seconds: float


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(MetricRow))
"""The header of `metrics.csv`."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        state: `finished`; `diverged`, when the training loss stopped being a number; or `stopped`, when asked
            to: then there is no `result.json`, and the same call continues from the checkpoint.
        rows: one for each epoch, those of earlier calls included.
        test: loss, accuracy and accuracy_top5 on the test split; empty unless finished.
    """

    state: str
    rows: tuple[MetricRow, ...]
    test: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The content of `result.json`; a number that is not finite becomes null, as JSON has none."""
        best = max(self.rows, key=_accuracy, default=None)
        return {
            "state": self.state,
            "epochs": len(self.rows),
            "final": _finite(asdict(self.rows[-1])) if self.rows else None,
            "best": {"epoch": best.epoch, "val_accuracy": best.val_accuracy} if best else None,
            "test": _finite(self.test) or None,
            "seconds": sum(row.seconds for row in self.rows),
        }


def metrics_csv(rows: Sequence[MetricRow]) -> str:
    """The content of `metrics.csv`: numbers with all their digits, so that they read back exactly."""
    lines = [",".join(COLUMNS)]
    lines += [",".join(repr(getattr(row, column)) for column in COLUMNS) for row in rows]
    return "\n".join(lines) + "\n"


def write_metrics(paths: JobPaths, rows: Sequence[MetricRow]) -> None:
    """Replace `metrics.csv`."""
    write_text_atomic(paths.metrics, metrics_csv(rows))


def write_result(paths: JobPaths, result: TrainingResult) -> None:
    """Write `result.json`: from here on the job is over."""
    write_json_atomic(paths.result, result.as_json(), durable=True)


def log_line(paths: JobPaths, now: datetime, text: str) -> None:
    """Add a line to `log.txt`."""
    with paths.log.open("a", encoding="utf-8") as log:
        log.write(f"{now.isoformat(sep=' ', timespec='seconds')}  {text}\n")


def _accuracy(row: MetricRow) -> tuple[float, int]:
    """Orders epochs by validation accuracy; among equals the earlier is better, and no number is worst."""
    return (-1.0 if math.isnan(row.val_accuracy) else row.val_accuracy, -row.epoch)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
