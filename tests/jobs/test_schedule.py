"""When a job teleports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nteleport.jobs.job import Teleportation, teleports_at

CASES = {
    "every epoch": (Teleportation("random", every_n_epochs=1), 5, [1, 2, 3, 4]),
    "every second epoch": (Teleportation("random", every_n_epochs=2), 7, [2, 4, 6]),
    "every third of nine": (Teleportation("optim", every_n_epochs=3), 9, [3, 6]),
    "zero means epoch 0 alone": (Teleportation("random", every_n_epochs=0), 5, [0]),
    "once at the start": (Teleportation("pseudo", every_n_epochs=0, teleport_only_once=True), 5, [0]),
    "once in the middle": (Teleportation("same_distr", every_n_epochs=3, teleport_only_once=True), 9, [3]),
    "once, past the end": (Teleportation("random", every_n_epochs=5, teleport_only_once=True), 5, []),
    "later than the last epoch": (Teleportation("random", every_n_epochs=6), 5, []),
    "no teleportation": (Teleportation("no_teleport", every_n_epochs=1), 5, []),
}


@pytest.mark.parametrize("case", CASES)
def test_teleports_at_the_epochs_of_the_published_schedule(case: str) -> None:
    teleportation, epochs, expected = CASES[case]

    teleporting = [epoch for epoch in range(-1, epochs + 3) if teleports_at(epoch, teleportation, epochs)]

    assert teleporting == expected


def test_a_plan_needs_no_torch() -> None:
    program = "import sys, nteleport.jobs.job; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
