"""``nteleport train``: every job of an experiment, one after the other."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nteleport.cli.options import AliasedOption, Command, list_option
from nteleport.errors import JobError

if TYPE_CHECKING:
    from nteleport.runner.local import JobOutcome
    from nteleport.training.job import Job

__all__ = ["train"]

SOME_JOB_FAILED = 1


@click.command(cls=Command)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", "-o", cls=AliasedOption, aliases=("--out-root-dir", "--output-dir"), required=True,
    type=click.Path(path_type=Path), help="The folder for the results: one folder a job inside it.",
)  # fmt: skip
@click.option(
    "--data-dir", cls=AliasedOption, aliases=("--data-root-dir",), default="data", show_default=True,
    type=click.Path(path_type=Path), help="Where data sets are, or are downloaded to.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:1|mps",
    help="What to train on; auto is a GPU if there is one.",
)  # fmt: skip
@click.option("--save-weights", is_flag=True, help="Keep each trained network as weights.pt.")
@list_option(
    "--tracker", "trackers", metavar="NAME",
    help="Send the metrics to tensorboard, wandb, comet or mlflow as well; may be repeated.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List the jobs and their states; train and write nothing.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Replace a value of CONFIG, such as training_params.epochs=5; may be repeated.",
)  # fmt: skip
def train(
    config: Path,
    out: Path,
    data_dir: Path,
    device: str,
    save_weights: bool,
    trackers: tuple[str, ...],
    dry_run: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train every job of the experiment CONFIG.

    Jobs that are over are skipped: after an interruption the same command goes on where it stopped, in the
    middle of a job too. A job that fails does not stop the others.

    Exit code: 0 when all is well, 1 when a job failed, 2 for bad input (nothing is written then), and 128
        plus
    the number of the signal that stopped it.
    """
    from nteleport.runner.experiment import load_experiment
    from nteleport.runner.matrix import expand

    jobs = expand(load_experiment(config, overrides=overrides, signatures=True))
    check_folder(out)
    if dry_run:
        _list_jobs(jobs, out)
        return 0
    return _run(jobs, out, data_dir, device, save_weights, trackers)


def check_folder(folder: Path) -> None:
    """Check that `folder` is one, or can be made, and can be written to. Nothing is written.

    Raises:
        JobError: it is or lies below a file, or writing is forbidden.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise JobError(f"--out {folder}: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise JobError(f"--out {folder}: {existing} cannot be written to, expected a writable folder")


def _list_jobs(jobs: Sequence[Job], out: Path) -> None:
    from nteleport.runner.paths import JobPaths
    from nteleport.runner.states import recorded_result

    states: Counter[str] = Counter()
    for job in jobs:
        paths = JobPaths(out, job.name)
        begun = "unfinished" if paths.metrics.exists() else "pending"
        state = str(recorded_result(paths).get("state", begun))
        states[state] += 1
        click.echo(f"{state:<10}  {job.name}")
    click.echo(f"{len(jobs)} jobs: {_counted(states)}")


def _run(
    jobs: Sequence[Job],
    out: Path,
    data_dir: Path,
    device: str,
    save_weights: bool,
    trackers: Sequence[str],
) -> int:
    """Check what only torch can tell, train, and say what became of it; returns the exit code."""
    from nteleport.cli.progress import progress_on
    from nteleport.data import availability
    from nteleport.runner.local import check_trainable, run_jobs
    from nteleport.runner.signals import stopping_on_signals
    from nteleport.trackers.reporting import TrackingReporter
    from nteleport.trackers.tracker import load_trackers
    from nteleport.training.device import find_device

    tracking = load_trackers(trackers)
    place = find_device(device)
    check_trainable(jobs)
    for dataset in dict.fromkeys(job.dataset for job in jobs):
        availability(dataset, data_dir)
    with stopping_on_signals() as flag, progress_on(sys.stderr) as progress:
        outcomes = run_jobs(
            jobs,
            out,
            data_dir=data_dir,
            device=place,
            report=TrackingReporter(progress, tracking, out) if tracking else progress,
            save_weights=save_weights,
            stop_requested=flag,
            command=sys.argv,
        )
    _summarize(jobs, outcomes, out)
    if flag():
        return flag.exit_code
    return SOME_JOB_FAILED if any(outcome.state == "failed" for outcome in outcomes) else 0


def _summarize(jobs: Sequence[Job], outcomes: Sequence[JobOutcome], out: Path) -> None:
    states = Counter(outcome.state for outcome in outcomes)
    waiting = len(jobs) - len(outcomes)
    if waiting:
        states["not begun"] = waiting
    before = sum(outcome.skipped for outcome in outcomes)
    earlier = f" ({before} of them before this run)" if before else ""
    click.echo(f"{len(jobs)} jobs: {_counted(states)}{earlier}")
    for outcome in outcomes:
        if outcome.state == "failed":
            click.echo(f"  failed: {outcome.error}\n    {outcome.paths.log}")
    click.echo(f"results: {out}")
    if waiting or states["stopped"] or states["failed"]:
        click.echo("the same command again goes on with what is missing")
    if states["finished"] or states["diverged"]:
        options = "--metrics val_accuracy,train_loss --group-by teleport,optimizer"
        click.echo(f"pictures: nteleport plot {shlex.quote(str(out))} {options}")


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
