"""Write the frozen files anew."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import torch

from . import FOLDER, NETWORKS, TRAININGS, job_table, quiver_digest, trained

torch.set_num_threads(1)
(FOLDER / "jobs.csv").write_text(job_table())
for mode in TRAININGS:
    with tempfile.TemporaryDirectory() as out:
        rows, weights = trained(mode, Path(out))
    with (FOLDER / f"{mode}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    torch.save(weights, FOLDER / f"{mode}.pt")
quivers = {name: quiver_digest(name) for name in NETWORKS}
(FOLDER / "quivers.json").write_text(json.dumps(quivers, indent=0) + "\n")
