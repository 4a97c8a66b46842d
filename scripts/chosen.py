#!/usr/bin/env python3
"""Write docs/chosen.md: what ``choose_cob`` reaches, and in what time, against plain searches.

    python scripts/chosen.py                # writes the page, in two minutes
    python scripts/chosen.py --only balance # prints rows

Everything runs on the CPU, in one thread if OMP_NUM_THREADS=1. The searches that it is compared with evaluate
the same function of ``log|τ|``, as fast as ``choose_cob`` does, and their seconds count what it measures too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nteleport import analyze, choose_cob
from nteleport.core.objectives import OBJECTIVES, Search
from nteleport.core.task import Batch, Task
from nteleport.data.splits import load_dataset
from nteleport.randomness import seed_of

PAGE = Path(__file__).parents[1] / "docs" / "chosen.md"
IMAGES = 256
PATIENCE = 15.0
"""Seconds after which coordinate sweeps that have not converged are stopped."""

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("grad_norm", {}),
    ("weighted_grad_norm", {}),
    ("lookahead", {"optimizer": partial(torch.optim.SGD, lr=0.1)}),
    ("balance", {"p": 1}),
    ("balance", {"p": 2}),
    ("path_conditioning", {}),
    ("activation_range", {}),
    ("sharpness", {"goal": "minimum"}),
    ("sharpness", {"goal": "maximum"}),
)

COLUMNS = (
    "network", "objective", "better is", "at τ = 1", "`choose_cob`", "s", "sweeps, same time",
    "sweeps, to the end", "s", "random, same time",
)  # fmt: skip

TEXT = """# Chosen changes of basis

`nteleport.choose_cob` chooses a change of basis for an objective instead of drawing it. This page compares
what it reaches with two searches that anybody would write: *coordinate sweeps* (one entry of `log|τ|` after
the other is moved up or down, by a step that doubles on success and halves on failure) and *random search*
(the best of uniform draws of `log|τ|` in [−1, 1]). Both evaluate the same function, which after the
measurement needs no pass through the network (except for `lookahead`), and their seconds include the
measurement. `python scripts/chosen.py` writes this page.

`log|τ|` is bounded by 1, except where the objective has a minimum without a bound (`balance`,
`path_conditioning`, `activation_range`). Networks: {networks}; initial weights of PyTorch, float32, {images}
digits. Seconds of the wall clock, {machine}; other work ran on the same cores.

{rows}

Numbers are the gradient norm; ‖g/(s²θ)‖; the loss after one step of SGD at learning rate 0.1; Σ|θ|ᵖ; the
ratio of the arithmetic to the geometric mean of `G / s²` (1 is perfect); the largest over the geometric mean
of the activation ranges of a layer (1 is perfect); and the trace of the Hessian, as the search estimates it:
selected on the same probes, the value at the end is optimistic. *To the end* is until no step above 0.001
helps, or {patience:.0f} s (marked +).

{conclusion}
"""


class Row(NamedTuple):
    """One comparison: values of the objective, and seconds."""

    network: str
    objective: str
    better: str
    start: float
    ours: float
    seconds: float
    sweeps_same: float
    sweeps: float
    sweeps_seconds: float
    random: float

    @property
    def sign(self) -> int:
        """+1 where small values are better."""
        return 1 if self.better == "small" else -1


class Clock:
    """Seconds since a start that lies in the past by what was needed before."""

    def __init__(self, spent: float) -> None:
        self._began = time.perf_counter() - spent

    def __call__(self) -> float:
        return time.perf_counter() - self._began


def mlp() -> nn.Module:
    """A multilayer perceptron with 192 hidden neurons."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def conv() -> nn.Module:
    """A convolutional network with 8 + 16 + 32 neurons."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "conv": conv}
DESCRIPTIONS = "`mlp`, 1024–128–64–10 with ReLU, and `conv`, two convolutions and two linear layers with ReLU"


def compare(name: str, objective: str, options: dict[str, Any], batch: Batch) -> Row:
    """What the three searches reach on one network."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    quiver = analyze(network, batch[0], activations="kept")
    choose = partial(choose_cob, quiver, network, objective, batches=[batch], **options)  # type: ignore[arg-type]
    choose()  # the first call loads what torch loads late
    chosen = choose()
    task = Task(quiver, network, [batch], seed_of("choose"), objective)  # the probes of choose_cob
    with task.preserved():
        began = time.perf_counter()
        search = OBJECTIVES[objective](task, **options)  # type: ignore[index]
        measuring = time.perf_counter() - began
        bound = search.bound
        sweeps = list(_coordinate_sweeps(search, task, bound, Clock(measuring)))
        random = _random_search(search, task, chosen.seconds, Clock(measuring))
    reached = [value for seconds, value in sweeps if seconds <= chosen.seconds]
    shown = [search.reported(value) for value in (reached[-1], sweeps[-1][1], random)]
    better = "large" if "grad_norm" in objective or options.get("goal") == "maximum" else "small"
    label = ", ".join([objective, *(f"{k} = {v}" for k, v in options.items() if k != "optimizer")])
    return Row(
        name, label, better, chosen.history[0], chosen.history[-1], chosen.seconds, shown[0], shown[1],
        sweeps[-1][0], shown[2],
    )  # fmt: skip


def _movable(search: Search, task: Task) -> Tensor:
    return torch.ones_like(task.scalable) if search.movable is None else search.movable


def _coordinate_sweeps(
    search: Search, task: Task, bound: float | None, clock: Clock
) -> Iterator[tuple[float, float]]:
    """Seconds and values, after every improvement."""
    point = task.start()
    best = float(search.evaluate(point)[0])
    step = torch.full_like(point, 0.5)
    yield 0.0, best
    entries = _movable(search, task).nonzero().flatten().tolist()
    while float(step[entries].max()) > 1e-3:
        for entry in entries:
            for sign in (1, -1):
                moved = point.clone()
                moved[entry] += sign * step[entry]
                moved = moved if bound is None else moved.clamp(-bound, bound)
                value = float(search.evaluate(moved)[0])
                if value < best:
                    point, best = moved, value
                    step[entry] *= 2
                    break
            else:
                step[entry] /= 2
            yield clock(), best
            if clock() > PATIENCE:
                return


def _random_search(search: Search, task: Task, seconds: float, clock: Clock) -> float:
    generator = torch.Generator().manual_seed(1)
    best = float(search.evaluate(task.start())[0])
    movable = _movable(search, task)
    while clock() < seconds:
        drawn = 2 * torch.rand(len(movable), generator=generator, dtype=torch.double) - 1
        best = min(best, float(search.evaluate(torch.where(movable, drawn, 0))[0]))
    return best


def as_line(row: Row) -> str:
    """The row in Markdown."""
    stopped = "+" if row.sweeps_seconds > PATIENCE else ""
    numbers = [f"{row.start:.4g}", f"**{row.ours:.4g}**", f"{row.seconds:.3f}", f"{row.sweeps_same:.4g}"]
    numbers += [f"{row.sweeps:.4g}", f"{row.sweeps_seconds:.2f}{stopped}", f"{row.random:.4g}"]
    return f"| {row.network} | {row.objective} | {row.better} | " + " | ".join(numbers) + " |"


def conclusion(rows: list[Row]) -> str:
    """What the rows show, counted."""
    counts = []
    for what, field in (("coordinate sweeps", "sweeps_same"), ("random search", "random")):
        wins = sum(row.sign * row.ours <= row.sign * getattr(row, field) for row in rows)
        counts.append(f"{what} in {wins} of {len(rows)} rows")
    text = f"In the same time, `choose_cob` reaches a value at least as good as {' and '.join(counts)}. "
    better = [row for row in rows if row.sign * (row.ours - row.sweeps) > 1e-3 * abs(row.sweeps)]
    if not better:
        return f"{text}Sweeps that run to the end are nowhere better by more than 0.1 %."
    named = ", ".join(f"{row.objective} ({row.network})" for row in better)
    return f"{text}Sweeps that run to the end are better by more than 0.1 % in {named}."


def table(rows: list[Row]) -> str:
    """All rows in Markdown."""
    rule = ["---"] * 3 + ["---:"] * (len(COLUMNS) - 3)
    return "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(rule)}|", *map(as_line, rows)])


def main() -> None:
    """Compare, print the rows and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="only this objective; the page is not written")
    only = parser.parse_args().only
    data = load_dataset("digits", ".")
    batch = data.train.normalized(data.train.images[:IMAGES]), data.train.labels[:IMAGES]
    rows = []
    for name in NETWORKS:
        for objective, options in CASES:
            if only in (None, objective):
                rows.append(compare(name, objective, options, batch))
                print(as_line(rows[-1]), flush=True)
    if only is None:
        machine = f"{torch.get_num_threads()} thread(s), torch {torch.__version__.partition('+')[0]}"
        PAGE.write_text(
            TEXT.format(
                networks=DESCRIPTIONS, images=IMAGES, machine=machine, rows=table(rows),
                patience=PATIENCE, conclusion=conclusion(rows),
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
