"""When a job teleports."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from nteleport.jobs.job import Plateau, Teleportation
from nteleport.jobs.records import COLUMNS, MetricRow
from nteleport.jobs.schedule import teleports_at, teleports_before
from nteleport.vocabulary import MONITORS

CASES = {
    "every epoch": (Teleportation("random", every_n_epochs=1), 5, [1, 2, 3, 4]),
    "every second epoch": (Teleportation("random", every_n_epochs=2), 7, [2, 4, 6]),
    "every third of nine": (Teleportation("optim", every_n_epochs=3), 9, [3, 6]),
    "zero means epoch 0 alone": (Teleportation("random", every_n_epochs=0), 5, [0]),
    "once at the start": (Teleportation("pseudo", every_n_epochs=0, teleport_only_once=True), 5, [0]),
    "once in the middle": (Teleportation("same_distr", every_n_epochs=3, teleport_only_once=True), 9, [3]),
    "once, past the end": (Teleportation("random", every_n_epochs=5, teleport_only_once=True), 5, []),
    "later than the last epoch": (Teleportation("random", every_n_epochs=6), 5, []),
    "listed epochs": (Teleportation("random", epochs=(0, 4, 9)), 9, [0, 4]),
    "steps are no epochs": (Teleportation("random", every_n_steps=1), 5, []),
    "no teleportation": (Teleportation("no_teleport", every_n_epochs=1), 5, []),
}


@pytest.mark.parametrize("case", CASES)
def test_teleports_at_the_epochs_of_the_published_schedule(case: str) -> None:
    teleportation, epochs, expected = CASES[case]

    teleporting = [epoch for epoch in range(-1, epochs + 3) if teleports_at(epoch, teleportation, epochs)]

    assert teleporting == expected


STEPS = {
    "every third": (Teleportation("random", every_n_steps=3), [3, 6, 9]),
    "every one": (Teleportation("random", every_n_steps=1), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    "once": (Teleportation("optim", every_n_steps=4, teleport_only_once=True), [4]),
    "past the end": (Teleportation("random", every_n_steps=11), []),
    "a schedule of epochs": (Teleportation("random", every_n_epochs=1), []),
    "no teleportation": (Teleportation("no_teleport", every_n_steps=1), []),
}


@pytest.mark.parametrize("case", STEPS)
def test_teleports_before_the_steps_of_the_schedule(case: str) -> None:
    teleportation, expected = STEPS[case]

    assert [step for step in range(11) if teleports_before(step, teleportation)] == expected


def rows(monitor: str, values: list[float]) -> list[MetricRow]:
    others = dict.fromkeys(COLUMNS, 0)
    return [MetricRow(**{**others, "epoch": epoch, monitor: value}) for epoch, value in enumerate(values)]  # type: ignore[arg-type]


PLATEAUS = {
    "no patience": ("val_loss", 0, [3.0, 2.0, 2.0, 2.5, 1.0, 1.0], [3, 4, 6]),
    "a patience of 1": ("val_loss", 1, [3.0, 2.0, 2.0, 2.5, 2.0, 2.0, 2.0, 1.0], [4, 6]),
    "an accuracy grows": ("val_accuracy", 1, [0.1, 0.3, 0.2, 0.3, 0.4, 0.4, 0.4], [4, 7]),
    "not a number is no improvement": ("val_loss", 1, [3.0, math.nan, math.nan, 2.0], [3]),
    "always better": ("train_loss", 0, [5.0, 4.0, 3.0], []),
}


@pytest.mark.parametrize("case", PLATEAUS)
def test_teleports_after_the_plateaus_that_the_rows_show(case: str) -> None:
    monitor, patience, values, expected = PLATEAUS[case]
    every = Teleportation("random", on_plateau=Plateau(patience, monitor))  # type: ignore[arg-type]
    first = replace(every, teleport_only_once=True)
    found = rows(monitor, values)

    assert [e for e in range(9) if teleports_at(e, every, 9, found[:e])] == expected
    assert [e for e in range(9) if teleports_at(e, first, 9, found[:e])] == expected[:1]


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_plateau_is_where_torch_reduces_the_learning_rate(monitor: str) -> None:
    torch = pytest.importorskip("torch")
    values = torch.randint(4, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    found = rows(monitor, values)
    for patience in range(4):
        optimizer = torch.optim.SGD([torch.ones(1)], lr=1.0)
        rate = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode="min" if "loss" in monitor else "max",
            factor=0.5,
            patience=patience,
            threshold=0,
            eps=0,
        )
        expected, last = [], 1.0
        for epoch, value in enumerate(values):
            rate.step(value)
            if rate.get_last_lr()[0] < last:
                expected.append(epoch + 1)
            last = rate.get_last_lr()[0]

        schedule = Teleportation("random", on_plateau=Plateau(patience, monitor))  # type: ignore[arg-type]

        assert [e for e in range(41) if teleports_at(e, schedule, 41, found[:e])] == expected
        assert expected


def test_a_plan_needs_no_torch() -> None:
    program = "import sys, nteleport.jobs.schedule; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
