"""``nteleport train``: the jobs of an experiment, in turn or in parallel."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nteleport.cli.options import AliasedOption, Command, NamedPath, list_option, plugin_option
from nteleport.cli.summary import chosen_line, command_again, counted, summarize, summarize_tuned
from nteleport.errors import JobError
from nteleport.jobs.options import RunOptions

if TYPE_CHECKING:
    from nteleport.experiment.experiment import Experiment
    from nteleport.jobs.job import Job
    from nteleport.runner.phases import Select

__all__ = ["train"]

SOME_JOB_FAILED = 1


@click.command(cls=Command)
@click.argument("config", type=NamedPath(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", "-o", cls=AliasedOption, aliases=("--out-root-dir", "--output-dir"), required=True,
    type=NamedPath(path_type=Path), help="The folder for the results, with one folder per job.",
)  # fmt: skip
@click.option(
    "--data-dir", cls=AliasedOption, aliases=("--data-root-dir",), default="data", show_default=True,
    type=NamedPath(path_type=Path), help="Where data sets are, or are downloaded to.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:1|mps",
    help="The device to train on; auto is a GPU if there is one.",
)  # fmt: skip
@click.option(
    "--jobs", "-j", "slots", type=click.IntRange(1), metavar="N",
    help="Train N jobs at a time, each in its own process.  [default: 1, or as many as --devices]",
)  # fmt: skip
@list_option(
    "--devices", item_type=click.IntRange(0), metavar="N,N",
    help="Train on these GPUs in parallel: 0,1,2; positions in CUDA_VISIBLE_DEVICES if that is set.",
)  # fmt: skip
@click.option(
    "--jobs-per-device", type=click.IntRange(1), default=1, metavar="K",
    help="Jobs at a time on each of --devices.",
)  # fmt: skip
@list_option(
    "--only", metavar="failed|pending|GLOB",
    help="Only jobs that failed, are pending (neither over nor failed) or match a name; may be repeated.",
)  # fmt: skip
@click.option(
    "--force", "redo", is_flag=True,
    help="Train from the start, even jobs that are over; old results are kept until there are new ones.",
)  # fmt: skip
@click.option("--fail-fast", is_flag=True, help="Stop all jobs when one fails.")
@click.option("--save-weights", is_flag=True, help="Keep each trained network as weights.pt.")
@list_option(
    "--tracker", "trackers", metavar="NAME",
    help="Also send the metrics to tensorboard, wandb, comet or mlflow; may be repeated.",
)  # fmt: skip
@plugin_option
@click.option("--enable-comet", is_flag=True, hidden=True, help="The same as --tracker comet.")
@click.option("--dry-run", is_flag=True, help="List the jobs and their states; train and write nothing.")
@click.option(
    "--max-jobs", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
    help="Refuse a matrix with more jobs.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Replace a value of CONFIG, such as training_params.epochs=5; may be repeated.",
)  # fmt: skip
@click.pass_context
def train(
    ctx: click.Context,
    /,
    config: Path,
    out: Path,
    only: tuple[str, ...],
    dry_run: bool,
    overrides: tuple[str, ...],
    max_jobs: int,
    trackers: tuple[str, ...],
    enable_comet: bool,
    **options: Any,
) -> int:
    """Train every job of the experiment CONFIG.

    Jobs that are over are skipped: after an interruption, repeat the command to continue where it stopped,
    even in the middle of a job. Several commands may work on one folder at the same time, on one machine or
    many; they share the jobs. A failed job does not stop the others.

    If CONFIG has a section `tune`, its tuning jobs come first, in OUT/tuning; then the jobs to report, at the
    values chosen in OUT/tuning.csv.

    Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2 stops at the next batch and keeps a checkpoint; a second Ctrl-C ends
    at once.

    Exit code: 0 on success, 1 if a job failed, 2 for invalid input (nothing is written then), and 128 plus
    the signal number if a signal stopped it.
    """
    from nteleport.experiment.matrix import expand
    from nteleport.jobs.paths import check_folder
    from nteleport.jobs.state import matching

    if dry_run:
        from nteleport.experiment.experiment import load_experiment as load
    else:
        from nteleport.runner.preflight import load_checked as load

    experiment = load(config, overrides=overrides)
    jobs = expand(experiment, max_jobs) if experiment.tune is None else []
    check_folder(out, writable=not dry_run)
    if enable_comet:
        trackers = tuple(dict.fromkeys([*trackers, "comet"]))
    chosen = RunOptions(command=tuple(sys.argv), trackers=trackers, **options)
    if experiment.tune is not None:
        if dry_run:
            _list_tuned(experiment, out, only, max_jobs)
            return 0
        return _run_tuned(experiment, out, chosen, only, max_jobs)
    if only:
        jobs = _chosen(jobs, matching(jobs, out, only), only)
    if dry_run:
        _list_jobs(jobs, out)
        return 0
    again = command_again(ctx, without=("only", "redo", "fail_fast"), more=("--only", "failed"))
    return _run(jobs, out, chosen, again) if jobs else 0


def _chosen(jobs: Sequence[Job], chosen: list[Job], only: Sequence[str]) -> list[Job]:
    """The jobs that `--only` chose; prints a message if there are none.

    Raises:
        JobError: no job can ever match the patterns.
    """
    from nteleport.jobs.state import JobState

    if chosen:
        return chosen
    patterns = [word for word in only if word not in tuple(JobState)]
    if patterns:
        raise JobError(
            f"--only {','.join(only)}: none of {len(jobs)} jobs; expected a state ({', '.join(JobState)}) or "
            f"a pattern for a name such as {jobs[0].name}"
        )
    click.echo(f"none of {len(jobs)} jobs is {' or '.join(only)}")
    return []


def _list_jobs(jobs: Sequence[Job], out: Path, prefix: str = "") -> None:
    from nteleport.jobs.paths import JobPaths
    from nteleport.jobs.state import job_state

    states: Counter[str] = Counter()
    for job in jobs:
        state = job_state(JobPaths(out, job.name), job)
        states[state] += 1
        click.echo(f"{state:<10}  {prefix}{job.name}")
    click.echo(f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}: {counted(states)}")


def _selection(experiment: Experiment, out: Path, only: Sequence[str], max_jobs: int) -> Select:
    """Which jobs of a tuned experiment `--only` chooses.

    Raises:
        JobError: none of those known as yet, and no job can ever match the patterns.
    """
    from nteleport.experiment.trials import recorded_plan
    from nteleport.jobs.state import matching
    from nteleport.jobs.tuning import tuning_folder

    def select(jobs: Sequence[Job], folder: Path) -> Sequence[Job]:
        return matching(jobs, folder, only) if only else jobs

    if only:
        plan = recorded_plan(experiment, out, max_jobs)
        found = [*select(plan.tuning, tuning_folder(out)), *select(plan.reported, out)]
        if plan.is_complete or found:
            _chosen([*plan.tuning, *plan.reported], found, only)
    return select


def _list_tuned(experiment: Experiment, out: Path, only: Sequence[str], max_jobs: int) -> None:
    from nteleport.experiment.trials import recorded_plan
    from nteleport.jobs.folders import TUNING
    from nteleport.jobs.tuning import tuning_folder

    select = _selection(experiment, out, only, max_jobs)
    plan = recorded_plan(experiment, out, max_jobs)
    _list_jobs(select(plan.tuning, tuning_folder(out)), tuning_folder(out), prefix=f"{TUNING}/")
    if plan.reported:
        _list_jobs(select(plan.reported, out), out)
    click.echo(chosen_line(plan, experiment))


def _run_tuned(
    experiment: Experiment, out: Path, options: RunOptions, only: Sequence[str], max_jobs: int
) -> int:
    """Train the jobs of a tuned experiment and print the outcome; returns the exit code."""
    from nteleport.cli.progress import progress_on
    from nteleport.runner.phases import run_tuned
    from nteleport.runner.signals import stopping_on_signals

    select = _selection(experiment, out, only, max_jobs)
    with stopping_on_signals() as flag, progress_on(sys.stderr) as report:
        tuned = run_tuned(
            experiment, out, options, report, select=select, most_jobs=max_jobs, stop_requested=flag
        )
    summarize_tuned(experiment, tuned, out)
    if flag():
        return int(flag.exit_code)
    return SOME_JOB_FAILED if any(each.state == "failed" for each in (*tuned.tuning, *tuned.reported)) else 0


def _run(jobs: Sequence[Job], out: Path, options: RunOptions, again: str) -> int:
    """Train the jobs and print the outcome; returns the exit code."""
    from nteleport.cli.progress import progress_on
    from nteleport.runner.run import run
    from nteleport.runner.signals import stopping_on_signals

    with stopping_on_signals() as flag, progress_on(sys.stderr) as report:
        outcomes = run(jobs, out, options, report, stop_requested=flag)
    summarize(len(jobs), outcomes, out, again)
    if flag():
        return int(flag.exit_code)
    return SOME_JOB_FAILED if any(outcome.state == "failed" for outcome in outcomes) else 0
