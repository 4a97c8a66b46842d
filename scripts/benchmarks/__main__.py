"""The command ``scripts/bench``: run every comparison and show what comes of it.

Prints a Markdown table; writes the same and the machine to a JSON file, and the cost against size as a
picture. Takes about ten minutes on two cores, and means something only while nothing else runs on them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nteleport.errors import JobError
from nteleport.training.device import find_device

from .arithmetic import arithmetic_limit
from .epochs import whole_epoch
from .growth import draw_growth, measure_growth, summarize
from .machine import describe, keep_freed_memory
from .memory import peak_memory
from .moves import analyzing, choosing, choosing_by_gradient, in_place, teleporting
from .steps import steps_with_adam, steps_with_sgd
from .studying import studying
from .table import header, row
from .timing import Figure, Setting

COMPARISONS: dict[str, Callable[[Setting], Iterator[Figure]]] = {
    "step": steps_with_sgd,
    "adam": steps_with_adam,
    "epoch": whole_epoch,
    "teleport": teleporting,
    "in_place": in_place,
    "analysis": analyzing,
    "optim": choosing,
    "choose": choosing_by_gradient,
    "gradients": studying,
    "memory": peak_memory,
    "limit": arithmetic_limit,
}
GROWTH = "growth"


def main() -> None:
    """Run the comparisons that the command line asks for."""
    arguments = _arguments()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    setting = Setting(arguments.device, arguments.effort, clock)
    began = time.perf_counter()
    result: dict[str, Any] = {"machine": describe(setting.device), "figures": []}
    result["machine"]["seconds"] = "of CPU time" if arguments.cpu_time else "of the wall clock"
    for key, value in result["machine"].items():
        print(f"{key}: {value}")
    print("", header(), sep="\n")
    for name in arguments.only:
        if name != GROWTH:
            for figure in COMPARISONS[name](setting):
                print(row(figure), flush=True)
                result["figures"].append({**asdict(figure), "reached": figure.reached})
            _write(arguments.json, result)
    if GROWTH in arguments.only:
        result[GROWTH] = _grow(setting, arguments.json.with_name("cost_against_size.png"))
    result["seconds"] = time.perf_counter() - began
    _write(arguments.json, result)
    print(f"\n{result['seconds']:.0f} s; load now {os.getloadavg()[0]:.2f}; written to {arguments.json}")


def _grow(setting: Setting, picture: Path) -> dict[str, Any]:
    print("\ncost against size:")
    found = []
    for size in measure_growth(setting):
        found.append(size)
        print(
            f"  {size.network:<10}{size.operators:>5} operators, {size.parameters / 1e6:>6.2f} M parameters: "
            f"step × {size.step_ratio:.3f}, memory × {size.memory_ratio:.3f}, "
            f"analysis {size.analysis:.2f} s of which {size.own_analysis:.3f} s beyond torch.export",
            flush=True,
        )
    draw_growth(found, picture)
    summary = summarize(found)
    for key, value in summary.items():
        if isinstance(value, float):
            print(f"  {key}: {value:.3f}")
    print(f"  picture: {picture}")
    return summary


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    names = [*COMPARISONS, GROWTH]
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME",
        help=f"only this comparison, may be repeated: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), metavar="FILE", help="default: bench.json"
    )
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="measure CPU time, not the wall clock: for a machine that is busy; needs --threads 1",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="where networks run (default: cpu)")
    parser.add_argument(
        "--effort", type=float, default=1.0, metavar="FACTOR",
        help="0.1 takes a tenth of the time, for a first impression (default: 1)",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        arguments.device = find_device(arguments.device)
    except JobError as error:
        parser.error(f"--device: {error}")
    if arguments.cpu_time and (arguments.threads != 1 or arguments.device.type != "cpu"):
        parser.error("--cpu-time: expected --threads 1 and --device cpu")
    if arguments.effort <= 0 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("expected --effort above 0 and --threads of at least 1")
    arguments.only = [name for name in names if not arguments.only or name in arguments.only]
    return arguments


if __name__ == "__main__":
    main()
