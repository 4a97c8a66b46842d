"""The final output of `nteleport train`: the outcomes, why jobs failed, and which commands to run next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from nteleport.experiment.experiment import Experiment
    from nteleport.experiment.trials import Plan
    from nteleport.jobs.events import JobEnded
    from nteleport.runner.phases import Tuned

__all__ = ["chosen_line", "command_again", "counted", "summarize", "summarize_tuned"]

_LOGS_SHOWN = 3


def summarize(jobs: int, outcomes: Sequence[JobEnded], out: Path, again: str) -> None:
    """Print the outcome of a run.

    Args:
        jobs: the number of jobs of the run.
        outcomes: of the jobs that ended.
        out: the folder of the results.
        again: the command that runs the failed ones again.
    """
    states = Counter(outcome.state for outcome in outcomes)
    waiting = jobs - len(outcomes)
    if waiting:
        states["not begun"] = waiting
    skipped = sum(outcome.skipped for outcome in outcomes)
    elsewhere = f" ({skipped} of them not by this run)" if skipped else ""
    click.echo(f"{jobs} job{'s' if jobs != 1 else ''}: {counted(states)}{elsewhere}")
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        _show_failures(failed)
        click.echo(f"run the failed ones again: {again}")
    click.echo(f"results: {out}")
    if waiting or states["stopped"]:
        click.echo("repeat the command to continue with what is missing")
    if states["finished"] or states["diverged"]:
        accurate = any(outcome.val_accuracy is not None for outcome in outcomes)
        metrics = "val_accuracy,train_loss" if accurate else "val_loss,train_loss"
        options = f"--metrics {metrics} --group-by teleport,optimizer"
        click.echo(f"pictures: nteleport plot {shlex.quote(str(out))} {options}")


def summarize_tuned(experiment: Experiment, tuned: Tuned, out: Path) -> None:
    """Print the outcome of a run of a tuned experiment."""
    from nteleport.jobs.tuning import tuning_folder, tuning_table

    plan, folder = tuned.plan, tuning_folder(out)
    for what, jobs, outcomes in (
        ("tuning", len(plan.tuning), tuned.tuning), ("to report", len(tuned.jobs), tuned.reported),
    ):  # fmt: skip
        states = Counter(outcome.state for outcome in outcomes)
        states["not begun"] = jobs - len(outcomes)
        click.echo(f"{jobs} job{'s' if jobs != 1 else ''} {what}: {counted(states)}")
        _show_failures([outcome for outcome in outcomes if outcome.state == "failed"])
    click.echo(chosen_line(plan, experiment))
    for row in plan.rows:
        if row.chosen and row.edge:
            best = ", ".join(f"{key} {value}" for key, value in row.point.items())
            click.echo(f"warning: the best of {row.arm['teleport']} is on the edge of its grid: {best}")
    click.echo(f"results: {out}, chosen in {tuning_table(out)} from {folder}")
    if tuned.interrupted or not plan.is_complete:
        click.echo("repeat the command to continue with what is missing")
        return
    folder_name = shlex.quote(str(out))
    grids = [key.name for key in experiment.tune.keys if key.grid is not None] if experiment.tune else []
    if grids:
        click.echo(f"pictures: nteleport plot {folder_name} --curve {grids[0]}")
    click.echo(f"the arms compared: nteleport compare {folder_name}")


def chosen_line(plan: Plan, experiment: Experiment) -> str:
    """For how many arms the values are chosen."""
    text = f"chosen for {plan.chosen} of {plan.arms} arm{'s' if plan.arms != 1 else ''}"
    waiting = (plan.arms - plan.chosen) * len(experiment.runs)
    return f"{text}; {waiting} jobs to report wait for their tuning" if waiting else text


def counted(states: Mapping[str, int]) -> str:
    """`3 finished, 1 failed`."""
    return ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none"


def command_again(ctx: click.Context, *, without: Collection[str] = (), more: Sequence[str] = ()) -> str:
    """The command line that `ctx` was called with, for running it again.

    Args:
        ctx: the context of the command.
        without: names of parameters to omit.
        more: words to append.
    """
    words = ctx.command_path.split()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in without:
            words += _words(parameter, ctx.params[name])
    return shlex.join([*words, *more])


def _words(parameter: click.Parameter, value: Any) -> list[str]:
    if not isinstance(parameter, click.Option):
        return [str(value)]
    if parameter.is_flag:
        return [parameter.opts[0]]
    values = value if parameter.multiple else [value]
    return [word for each in values for word in (parameter.opts[0], str(each))]


def _show_failures(failed: Sequence[JobEnded]) -> None:
    """Print each distinct error once, the most frequent first, with some of the logs that have details."""
    groups: dict[str, list[JobEnded]] = {}
    for outcome in failed:
        kind = "out of memory" if outcome.error.startswith("out of memory") else outcome.error
        groups.setdefault(kind, []).append(outcome)
    for alike in sorted(groups.values(), key=len, reverse=True):
        click.echo(f"  {len(alike)} × {alike[0].error}")
        for outcome in alike[:_LOGS_SHOWN]:
            click.echo(f"      {outcome.paths.log}")
        if len(alike) > _LOGS_SHOWN:
            click.echo(f"      … and {len(alike) - _LOGS_SHOWN} more")
