"""What users have on disk stays theirs: names, seeds, results and quivers are those that were frozen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.frozen import FOLDER, NETWORKS, TRAININGS, job_table, quiver_digest, trained
from support.releases import torch_is

QUIVERS = json.loads((FOLDER / "quivers.json").read_text())


def test_every_shipped_experiment_has_the_same_jobs() -> None:
    assert job_table() == (FOLDER / "jobs.csv").read_text()


@pytest.mark.parametrize("mode", TRAININGS)
def test_every_mode_trains_as_before(mode: str, tmp_path: Path) -> None:
    header, *rows = (line.split(",") for line in (FOLDER / f"{mode}.csv").read_text().splitlines())
    (new_header, *new_rows), weights = trained(mode, tmp_path)
    assert new_header == header
    for new, old in zip(new_rows, rows, strict=True):
        assert [float(value) for value in new] == pytest.approx([float(value) for value in old], rel=1e-5)
    torch.testing.assert_close(weights, torch.load(FOLDER / f"{mode}.pt"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_zoo_has_the_same_quiver(name: str) -> None:
    if name == "inplace-positions_by_mask" and torch_is("2.15"):
        pytest.skip("torch 2.15 traces it as masked_fill, of which more is known than of index_put")
    assert quiver_digest(name) == QUIVERS[name]
