"""Folders of results for tests of reports: with everything, with hostile names, with jobs in every state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import yaml

from nteleport.jobs.job import Job
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.tuning import TuningRow, arm_of, write_tuning
from support.synthetic_results import BASELINE, TELEPORTED, learning_curve, make_job, matrix, sgd, write_job

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}&amp;\"'`|@me #1"
"""Text that would be markup, script, template or reference wherever it is not escaped."""

EPOCHS = 4


def with_test(paths: JobPaths, accuracy: float) -> None:
    """Add what a finished job says of the test split."""
    content = json.loads(paths.result.read_text())
    content["test"] = {"accuracy": accuracy, "loss": 0.5}
    content["best"] = {"epoch": 1, "val_accuracy": accuracy}
    paths.result.write_text(json.dumps(content))


def provenance(**changes: object) -> str:
    content = {
        "command": "nteleport train experiment.yml --out out",
        "start": "2026-01-01T10:00:00+00:00",
        "end": "2026-01-01T10:01:00+00:00",
        "host": "node7",
        "platform": "Linux",
        "device": "cpu",
        "device_name": "a processor",
        "threads": 1,
        "versions": {"python": "3.12.1", "torch": "2.6.0"},
        "earlier": [],
    }
    return json.dumps(content | changes)


def accuracy_of(job: Job) -> float:
    """Of the test split: ten points more when teleported, in steps of 0.01 over the runs."""
    return 0.7 + 0.01 * job.run + (0.1 + 0.001 * job.run if job.teleportation.mode == "random" else 0.0)


def write_everything(out: Path, runs: int = 6) -> list[Job]:
    """Finished pairs with test accuracies, provenance and certificates, and a table of tuning."""
    jobs = [
        replace(job, training=replace(job.training, validation=0.2))
        for lr, arm in ((0.1, BASELINE), (0.01, TELEPORTED))
        for job in matrix(optimizers=[sgd(lr)], teleportations=[arm], runs=runs, epochs=EPOCHS)
    ]
    for job in jobs:
        paths = write_job(out, job)
        with_test(paths, accuracy_of(job))
        paths.provenance.write_text(provenance())
        if job.teleportation.mode == "random":
            row = {"epoch": 0, "step": 0, "condition": 19.0, "entries": 64, "relative": 1e-7 * (job.run + 1)}
            paths.certificates.write_text(json.dumps([{**row, "rolled_back": job.run == 1}]))
    rows = []
    for teleportation, best in ((BASELINE, 0.1), (TELEPORTED, 0.01)):
        arm = arm_of(
            replace(
                jobs[0], optimizer=replace(sgd(), kwargs={"weight_decay": 0.01}), teleportation=teleportation
            )
        )
        for lr in (0.001, 0.01, 0.1):
            scores = {100: 0.9 if lr == best else 0.5, 101: 0.8 if lr == best else 0.4}
            rows.append(
                TuningRow(arm, {"optimizer.lr": lr}, 0, scores, "val_accuracy", lr == best, lr == 0.1 == best)
            )
    write_tuning(out, rows)
    return jobs


def write_states(out: Path) -> None:
    """A job in each state, and damaged ones."""
    jobs = matrix(runs=4, epochs=EPOCHS)
    write_job(out, jobs[0])
    write_job(out, jobs[1], epochs=2, state="diverged")
    failed = write_job(out, jobs[2], epochs=1, state="failed")
    failed.result.write_text(json.dumps({"state": "failed", "error": "out of memory"}))
    write_job(out, jobs[3], epochs=2, state=None)
    write_job(out, jobs[4], rows=[], state=None)
    damaged = write_job(out, jobs[5])
    for path in (damaged.result, damaged.provenance, damaged.certificates, damaged.config):
        path.write_bytes(b"\xff{[")
    damaged.metrics.write_text(damaged.metrics.read_text() + "1,2\n")
    unreadable = write_job(out, jobs[6])
    unreadable.hparams.write_text("[not a mapping]")
    odd = write_job(out, jobs[7])
    odd.provenance.write_text(
        json.dumps({"versions": [], "earlier": 3, "host": {}, "command": 7, "start": None})
    )
    odd.certificates.write_text(json.dumps([1, {"condition": "x", "relative": True}]))


def write_hostile(out: Path) -> None:
    """Names, errors, hosts and versions that are markup."""
    for run in range(2):
        for teleportation in (BASELINE, TELEPORTED):
            job = make_job(epochs=EPOCHS, run=run, teleportation=teleportation)
            paths = write_job(out / "<b>&'\"", job)
            hparams = yaml.safe_load(paths.hparams.read_text())
            hparams |= {"dataset": HOSTILE, "model": HOSTILE, "model.cls": HOSTILE, "training.note": HOSTILE}
            hparams["optimizer.cls"] = HOSTILE + str(run)
            if teleportation is TELEPORTED:
                hparams["teleport"] = hparams["teleport.mode"] = HOSTILE
            paths.hparams.write_text(yaml.safe_dump(hparams))
            rows = [{**row, "val_accuracy": 0.5} for row in learning_curve(job, EPOCHS)]
            text = (
                paths.metrics.read_text()
                .replace("weight_norm", "<svg onload=alert(3)>")
                .replace("grad_norm", "a.b[0]\\'")
            )
            assert rows
            paths.metrics.write_text(text)
            paths.provenance.write_text(
                provenance(host=HOSTILE, command=HOSTILE, versions={HOSTILE: HOSTILE}, platform=HOSTILE)
            )
    failed = write_job(out, make_job(run=9), epochs=1, state="failed")
    failed.result.write_text(json.dumps({"state": "failed", "error": HOSTILE}))
