#!/usr/bin/env python3
"""What the runner costs beside the training itself, and how fast the commands for many jobs are.

(a) jobs of one epoch on the digits, each in a fresh process (a `nteleport train` for each), against reused
    slots (one `nteleport train --jobs 1` for all);
(b) two slots against one;
(c) `status`, `collect`, `plot` and `unravel` on thousands of made-up finished jobs of 100 epochs.

    python scripts/bench_runner.py                      # about six minutes on two cores
    python scripts/bench_runner.py --jobs 10 --finished 200 --cells 1000 --json runner.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.synthetic_results import matrix, sgd, write_jobs  # noqa: E402

FRESH_SHARE = 5
"""A fresh process is begun for every fifth job only: they are all alike, and slow."""

PLOTTED_JOBS, PLOTTED_GROUPS = 500, 20


def main() -> None:
    """Run what the command line asks for and show it."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "machine": describe(torch.device("cpu")),
            "jobs": bench_jobs(Path(folder), arguments.jobs),
            "commands": bench_commands(Path(folder), arguments.finished, arguments.cells),
        }
    print(f"\nload now {os.getloadavg()[0]:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def bench_jobs(folder: Path, count: int) -> dict[str, Any]:
    """Jobs a minute in fresh processes, in one reused slot, in two."""
    experiment = folder / "experiment.yml"
    experiment.write_text(yaml.safe_dump(_experiment(count)), encoding="utf-8")
    _run("unravel", experiment, "--out", folder / "cells", "--per-run")
    cells = sorted((folder / "cells").glob("*.yml"))
    found: dict[str, Any] = {}
    few = list(islice(cells, max(1, count // FRESH_SHARE)))
    seconds = sum(_run("train", cell, "--out", folder / "fresh", "--device", "cpu") for cell in few)
    found["a fresh process for each"] = _pace(folder / "fresh", len(few), seconds)
    for slots in (1, 2):
        out = folder / f"slots{slots}"
        seconds = _run("train", experiment, "--out", out, "--device", "cpu", "--jobs", slots)
        found[f"reused slots: {slots}"] = _pace(out, count, seconds)
    fresh, one, two = (each["jobs a minute"] for each in found.values())
    found["one slot over fresh processes"] = one / fresh
    found["two slots over one"] = two / one
    print(f"one slot over fresh processes: {one / fresh:.2f} (target: at least 3)")
    print(f"two slots over one: {two / one:.2f}")
    return found


def _experiment(jobs: int) -> dict[str, Any]:
    return {
        "runs_per_config": jobs // 2,
        "datasets": ["digits"],
        "models": ["mlp"],
        "optimizers": [{"cls": "SGD", "lr": 0.01}],
        "training_params": {"epochs": 1, "batch_size": 64, "shuffle_batches": True},
        "teleportations": {
            "no_teleport": None,
            "teleport": {
                "mode": "random",
                "every_n_epochs": 0,
                "teleport_only_once": True,
                "cob_sampling": "inter_landscape",
                "cob_range": 0.9,
            },
        },
    }


def _pace(out: Path, jobs: int, seconds: float) -> dict[str, float]:
    """Jobs a minute, and what a job costs beyond the seconds that its epochs say they took."""
    trained = [_epoch_seconds(path) for path in out.glob("*/metrics.csv")]
    if len(trained) != jobs:
        raise SystemExit(f"{len(trained)} of {jobs} jobs in {out} were trained")
    pace = {
        "jobs": jobs,
        "seconds": seconds,
        "jobs a minute": 60 * jobs / seconds,
        "training, seconds a job": statistics.mean(trained),
        "wall clock, seconds a job": seconds / jobs,
    }
    print(f"{out.name}: " + ", ".join(f"{key} {value:.3g}" for key, value in pace.items()), flush=True)
    return pace


def _epoch_seconds(path: Path) -> float:
    with path.open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def bench_commands(folder: Path, finished: int, cells: int) -> dict[str, Any]:
    """Seconds of each command, its start included: the median of three."""
    many, some = folder / "many", folder / "some"
    write_jobs(many, _jobs(finished))
    write_jobs(some, _jobs(PLOTTED_JOBS))
    large = folder / "large.yml"
    large.write_text(yaml.safe_dump(_large_experiment(cells)), encoding="utf-8")
    commands: dict[str, tuple[float, Sequence[object]]] = {
        f"status of {finished} jobs": (1.0, ["status", many]),
        f"collect of {finished} jobs": (0.0, ["collect", many, "--out", folder / "all.csv"]),
        f"plot of {PLOTTED_JOBS} jobs": (5.0, _plot(some, folder)),
        f"plot of {finished} jobs": (0.0, _plot(many, folder)),
        f"unravel of {cells} cells": (5.0, ["unravel", large, "--out", None]),
    }
    found: dict[str, Any] = {}
    for name, (target, command) in commands.items():
        times = []
        for repeat in range(3):
            fresh = folder / f"unravelled{repeat}"
            times.append(_run(*(fresh if argument is None else argument for argument in command)))
        found[name] = {"seconds": statistics.median(times), "all": times, "target": target or None}
        aim = f" (target: {target:g} s)" if target else ""
        print(f"{name}, 100 epochs each: {statistics.median(times):.2f} s{aim}", flush=True)
    return found


def _plot(results: Path, folder: Path) -> list[object]:
    wanted = ["--metrics", "val_accuracy", "--group-by", "teleport,optimizer"]
    return ["plot", results, *wanted, "--out-dir", folder / "pictures"]


def _jobs(count: int) -> list[Any]:
    """So many jobs: two teleportations, ten learning rates, and runs."""
    rates = [0.001 * (step + 1) for step in range(PLOTTED_GROUPS // 2)]
    return matrix(optimizers=[sgd(lr) for lr in rates], runs=count // PLOTTED_GROUPS)


def _large_experiment(cells: int) -> dict[str, Any]:
    rates = [round(1e-4 * (step + 1), 7) for step in range(cells // 10)]
    teleport = _experiment(2)["teleportations"]["teleport"]
    return {
        **_experiment(2),
        "optimizers": [{"cls": "SGD", "lr": rate} for rate in rates],
        "teleportations": {"teleport": {**teleport, "cob_range": [step / 10 for step in range(1, 11)]}},
    }


def _run(*arguments: object) -> float:
    """Seconds that `nteleport` with these arguments takes."""
    command = [sys.executable, "-m", "nteleport", *map(str, arguments)]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return time.perf_counter() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100, help="one-epoch jobs (default 100)")
    parser.add_argument("--finished", type=int, default=2000, help="made-up finished jobs (default 2000)")
    parser.add_argument("--cells", type=int, default=10_000, help="cells to unravel (default 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
