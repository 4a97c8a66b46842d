"""``nteleport submit``: the jobs of an experiment as tasks of a SLURM cluster."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nteleport.cli.options import AliasedOption, Command, NamedPath, list_option, plugin_option
from nteleport.cli.summary import chosen_line, counted
from nteleport.errors import SlurmError
from nteleport.jobs.options import RunOptions
from nteleport.runner.slurm_task import run_task

if TYPE_CHECKING:
    from nteleport.experiment.experiment import Experiment
    from nteleport.jobs.job import Job
    from nteleport.runner.slurm import Resources

__all__ = ["TrainTask", "submit"]


@dataclass(frozen=True)
class TrainTask:
    """What a task runs: `nteleport train` on the one job whose `config.yml` it is given.

    Attributes:
        options: of `train`, the same for every task.
    """

    options: tuple[str, ...]

    def __call__(self, config: str) -> None:
        run_task(config, self.options, _train)


def _train(arguments: Sequence[str]) -> int:
    from nteleport.cli.app import nteleport

    sys.argv = ["nteleport", *arguments]  # recorded in provenance.json
    nteleport.main(args=list(arguments))
    return 0


def _extra(
    ctx: click.Context, param: click.Parameter, given: Sequence[str]
) -> tuple[tuple[str, str | bool], ...]:
    """``KEY=VALUE`` or ``KEY``, for an option of sbatch without a value."""
    pairs = [text.removeprefix("--").partition("=") for text in given]
    return tuple((key, value if equals else True) for key, equals, value in pairs)


@click.command(cls=Command)
@click.argument("config", type=NamedPath(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", "-o", cls=AliasedOption, aliases=("--out-root-dir", "--output-dir"), required=True,
    type=NamedPath(path_type=Path), help="The folder for the results, visible to all nodes.",
)  # fmt: skip
@click.option(
    "--data-dir", cls=AliasedOption, aliases=("--data-root-dir",), default="data", show_default=True,
    type=NamedPath(path_type=Path), help="Where data sets are, or are downloaded to before submitting.",
)  # fmt: skip
@click.option("--partition", help="The partition to run in.")
@click.option("--account", help="The account to charge.")
@click.option("--time", help="Time limit of a task, after which it is queued again: 90, 12:00:00, 2-00.")
@click.option("--gres", help="Generic resources per task, such as gpu:a100:1.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs per task, of any kind.")
@click.option("--cpus", type=click.IntRange(1), help="CPUs per task.")
@click.option("--mem", help="Memory per task, such as 16G.")
@click.option("--email", help="Address that SLURM notifies at the end and on failure.")
@click.option("--array-parallelism", type=click.IntRange(1), help="Maximum number of tasks running at once.")
@click.option(
    "--setup", multiple=True, metavar="LINE",
    help="A shell line to run first, such as 'module load cuda'; may be repeated.",
)  # fmt: skip
@click.option(
    "--sbatch", "more", multiple=True, metavar="KEY=VALUE", callback=_extra,
    help="Any other option of sbatch, such as qos=long; may be repeated.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:1",
    help="The device of a task; auto is a GPU if it has one.",
)  # fmt: skip
@click.option("--save-weights", is_flag=True, help="Keep each trained network as weights.pt.")
@list_option(
    "--tracker", "trackers", metavar="NAME",
    help="Also send the metrics to tensorboard, wandb, comet or mlflow; may be repeated.",
)  # fmt: skip
@plugin_option
@click.option("--dry-run", is_flag=True, help="Print the batch scripts; submit and write nothing.")
@click.option(
    "--max-jobs", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
    help="Refuse a matrix with more jobs.",
)  # fmt: skip
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Replace a value of CONFIG, such as training_params.epochs=5; may be repeated.",
)  # fmt: skip
def submit(
    config: Path,
    out: Path,
    data_dir: Path,
    time: str | None,
    device: str,
    save_weights: bool,
    trackers: tuple[str, ...],
    plugins: tuple[Path, ...],
    dry_run: bool,
    overrides: tuple[str, ...],
    max_jobs: int,
    **asked: Any,
) -> None:
    """Submit every job of the experiment CONFIG to a SLURM cluster, as tasks of arrays.

    Jobs that are over, running or already in the queue are left out. A task that is preempted or reaches its
    time limit is queued again and continues from its checkpoint; in all other cases, repeat the command to
    submit what is missing. If CONFIG has a section `tune`, the command submits its tuning jobs, and repeated
    after them what follows: extensions of the grids, and the jobs to report.
    Needs the extra nteleport[slurm].
    """
    from nteleport.extras import import_extra
    from nteleport.jobs.paths import check_folder
    from nteleport.runner.preflight import load_checked
    from nteleport.runner.slurm import Resources, minutes

    import_extra("submitit", extra="slurm", purpose="nteleport submit")
    if asked["gres"] and asked["gpus"] is not None:
        raise click.UsageError("give --gres or --gpus, not both: each asks for GPUs")
    resources = Resources(time=None if time is None else minutes(time), **asked)
    experiment = load_checked(config, overrides=overrides)
    batches = _batches(experiment, out, max_jobs)
    check_folder(out)
    if dry_run:
        for jobs, folder in batches:
            _print_scripts(jobs, folder, resources)
        return
    options = ["--data-dir", str(data_dir.absolute()), "--device", device]
    options += ["--save-weights"] * save_weights
    options += [word for name in trackers for word in ("--tracker", name)]
    options += [word for plugin in plugins for word in ("--plugin", str(plugin))]
    run_options = RunOptions(data_dir=data_dir, device=device, trackers=trackers)
    for jobs, folder in batches:
        _submit(jobs, folder.absolute(), run_options, resources, TrainTask(tuple(options)))
    if experiment.tune is not None:
        _submitted_tuning(experiment, out, max_jobs)


def _batches(experiment: Experiment, out: Path, max_jobs: int) -> list[tuple[Sequence[Job], Path]]:
    """The jobs that are known, with the folder of their results; a tuned experiment has two kinds."""
    from nteleport.experiment.matrix import expand
    from nteleport.experiment.trials import recorded_plan
    from nteleport.jobs.tuning import tuning_folder

    if experiment.tune is None:
        return [(expand(experiment, max_jobs), out)]
    plan = recorded_plan(experiment, out, max_jobs)
    reported = [(plan.reported, out)] if plan.reported else []
    return [(plan.tuning, tuning_folder(out)), *reported]


def _submitted_tuning(experiment: Experiment, out: Path, max_jobs: int) -> None:
    """Write the table of tuning, and print what is still to be submitted."""
    from nteleport.experiment.trials import recorded_plan
    from nteleport.jobs.tuning import write_tuning

    plan = recorded_plan(experiment, out, max_jobs)
    write_tuning(out, plan.rows)
    click.echo(chosen_line(plan, experiment))
    if not plan.is_complete:
        click.echo(
            "repeat this command when the tuning jobs have ended, to choose and to submit what follows"
        )


def _print_scripts(jobs: Sequence[Job], out: Path, resources: Resources) -> None:
    from nteleport.runner.slurm import DEFAULT_ARRAY_LIMIT, array_limit, batch_scripts, split

    try:
        limit, no_cluster = array_limit(), None
    except SlurmError as error:
        limit, no_cluster = DEFAULT_ARRAY_LIMIT, error
    missing, states = _missing(jobs, out, ask_queue=no_cluster is None)
    groups = split(missing, limit)
    for number, (script, group) in enumerate(zip(batch_scripts(groups, out, resources), groups, strict=True)):
        click.echo(script)
        click.echo("\n".join(f"# task {task}: {job.name}" for task, job in enumerate(group)))
        if number + 1 < len(groups):
            click.echo()
    states["to submit"] = len(missing)
    click.echo(
        f"{_plural(len(jobs), 'job')}: {counted(states)}, in {_plural(len(groups), 'script')}", err=True
    )
    if no_cluster is not None:
        click.echo(f"arrays are split at SLURM's default of {limit} tasks, for {no_cluster}", err=True)


def _submit(
    jobs: Sequence[Job], out: Path, options: RunOptions, resources: Resources, task: TrainTask
) -> None:
    from nteleport.runner import slurm
    from nteleport.runner.preparation import prepare

    limit = slurm.array_limit()
    missing, states = _missing(jobs, out, ask_queue=True)
    prepare(missing, options, here=False)
    for number, group in slurm.submit(slurm.split(missing, limit), out, resources, task):
        click.echo(f"SLURM job {number}: {_plural(len(group), 'task')}")
    if missing:
        states["submitted"] = len(missing)
    click.echo(f"{_plural(len(jobs), 'job')}: {counted(states)}")
    click.echo(f"scripts and logs: {slurm.records_folder(out)}")
    click.echo(f"progress: nteleport status {shlex.quote(str(out))}")


def _missing(jobs: Sequence[Job], out: Path, *, ask_queue: bool) -> tuple[list[Job], Counter[str]]:
    """The jobs that are neither over, running nor queued, and the count of the others by state."""
    from nteleport.jobs.paths import JobPaths
    from nteleport.jobs.state import JobState, job_state
    from nteleport.runner.slurm import tasks_in_queue

    queued = tasks_in_queue(out) if ask_queue else {}
    missing: list[Job] = []
    states: Counter[str] = Counter()
    for job in jobs:
        state = job_state(JobPaths(out, job.name), job)
        if state.is_over or (state is JobState.RUNNING and job.name not in queued):
            states[state] += 1
        elif job.name in queued:
            states["in the queue"] += 1
        else:
            missing.append(job)
    return missing, states


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
