"""Folders of results whose outcomes are given: for tests of comparing.

Hyper-parameters are written as `Job.hparams` has them, by hand, so that a run can have any arm and any name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from nteleport.jobs.paths import JobPaths

PLAIN, RANDOM, LAYER, SHUFFLED = "no_teleport", "random", "layer_rates", "shuffled_rates"
FINISHED = "finished"
EPOCHS = 10
TUNING_RUNS = (0, 1)

Values = Mapping[str, Sequence[float]]
"""The outcome of each run of an arm, by mode."""


def label_of(mode: str) -> str:
    """The arm of a mode, as `hparams.yml` has it."""
    return "no teleport" if mode == PLAIN else f"{mode}, once at 0, inter 0.9"


def hparams_of(
    mode: str, run: int, *, lr: float = 0.1, initializer: str = "none", dataset: str = "digits", seed: int = 0
) -> dict[str, object]:
    options = {"teleport.cob_range": 0.9, "teleport.cob_sampling": "inter_landscape"}
    return {
        "dataset": dataset,
        "run": run,
        "seed": seed or 1000 + run,
        "model": "mlp",
        "initializer": initializer,
        "optimizer": f"SGD lr={lr} momentum=0.9",
        "lr_scheduler": "none",
        "teleport": label_of(mode),
        "model.cls": "mlp",
        "initializer.type": initializer,
        "optimizer.cls": "SGD",
        "optimizer.lr": lr,
        "optimizer.momentum": 0.9,
        "teleport.mode": mode,
        **({} if mode == PLAIN else {**options, "training.optimizer_state": "reset"}),
        "training.epochs": EPOCHS,
        "training.validation": 0.1,
    }


def write_run(
    out: Path,
    hparams: Mapping[str, object],
    *,
    test_accuracy: float | None = None,
    curve: Sequence[float] = (),
    seconds: float | Sequence[float] = 1.0,
    analysis_seconds: float | None = None,
    state: str | None = FINISHED,
    name: str = "",
) -> Path:
    """Write one job.

    Args:
        out: the output folder.
        hparams: see `hparams_of`.
        test_accuracy: in [0, 1].
        curve: the validation accuracy of each epoch; by default it is flat.
        seconds: of each epoch.
        analysis_seconds: as in `provenance.json`.
        state: None leaves the job unfinished.
        name: of its folder.
    """
    number = len(list(out.iterdir())) if out.exists() else 0
    paths = JobPaths(out, name or f"job-run{hparams.get('run', 0)}-{number:08x}")
    paths.directory.mkdir(parents=True)
    paths.hparams.write_text(yaml.safe_dump(dict(hparams), sort_keys=False, allow_unicode=True))
    curve = list(curve) or [test_accuracy or 0.5] * EPOCHS
    spent = [seconds] * len(curve) if isinstance(seconds, float) else list(seconds)
    rows = [
        f"{epoch},{float(a)!r},{float(s)!r}" for epoch, (a, s) in enumerate(zip(curve, spent, strict=True))
    ]
    paths.metrics.write_text("\n".join(["epoch,val_accuracy,seconds", *rows]) + "\n")
    if analysis_seconds is not None:
        paths.provenance.write_text(json.dumps({"analysis_seconds": analysis_seconds}))
    if state is not None:
        test = {"accuracy": test_accuracy, "loss": 0.3} if state == FINISHED else None
        paths.result.write_text(json.dumps({"state": state, "epochs": len(curve), "test": test}))
    return paths.directory


def write_arms(out: Path, values: Values, *, first_run: int = 100, **hparams: object) -> None:
    """Finished runs with these test accuracies in percent, by mode."""
    for mode, accuracies in values.items():
        for number, accuracy in enumerate(accuracies):
            run = hparams_of(mode, first_run + number, **hparams)  # type: ignore[arg-type]
            write_run(out, run, test_accuracy=accuracy / 100)


def tuning_rows(
    modes: Iterable[str],
    *,
    chosen: float = 0.1,
    grid: Sequence[float] = (0.01, 0.1, 1.0),
    runs: Sequence[int] = TUNING_RUNS,
    scores: Mapping[float, Sequence[float]] | None = None,
    data: str = "held out",
    edge: bool = False,
    **hparams: object,
) -> list[dict[str, object]]:
    """Rows of `tuning.csv`: one for each mode and point of the grid."""
    rows = []
    for mode in modes:
        arm = hparams_of(mode, 0, **hparams)  # type: ignore[arg-type]
        for rate in grid:
            found = (scores or {}).get(rate, [0.8 if rate == chosen else 0.5] * len(runs))
            rows.append(
                {key: arm[key] for key in ("dataset", "model", "initializer")}
                | {"optimizer": "SGD momentum=0.9", "lr_scheduler": "none", "teleport": arm["teleport"]}
                | {"training": json.dumps({"epochs": EPOCHS, "validation": 0.1}), "optimizer.lr": rate}
                | {"round": 0, **{f"run {run}": score for run, score in zip(runs, found, strict=True)}}
                | {"score": float(np.mean(found)), "chosen": str(rate == chosen).lower()}
                | {"edge": str(edge and rate == chosen).lower(), "by": "val_accuracy", "data": data}
            )
    return rows


def write_tuning_csv(out: Path, rows: Sequence[Mapping[str, object]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "tuning.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
