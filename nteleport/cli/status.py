"""``nteleport status``: the state of the jobs of a folder."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nteleport.cli.options import Command, NamedPath, every_option

if TYPE_CHECKING:
    from nteleport.jobs.state import JobStatus

__all__ = ["status"]

_SHOWN = ("running", "stale", "unfinished", "failed", "diverged")
_LONGEST_LIST = 30


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=NamedPath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all jobs and their summary as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all jobs as CSV.")
@click.option("--watch", is_flag=True, help="Refresh the output until nothing runs or Ctrl-C.")
@every_option(2.0)
def status(directory: Path, as_json: bool, as_csv: bool, watch: bool, every: float) -> None:
    """Show the state of the jobs of a folder.

    States, progress, remaining time, what failed and why. DIR is the folder given as --out to
    `nteleport train` or `submit`, and may be in use. A job is stale when the process that trained it was
    killed: repeat the command that started it to continue.

    \b
    nteleport status results/quickstart --watch
    nteleport status results/quickstart --json | jq .summary
    """
    from nteleport.jobs.state import read_status

    if as_json and as_csv:
        raise click.UsageError("--json and --csv: expected one of them")
    if (as_json or as_csv) and watch:
        raise click.UsageError("--watch shows text: expected it without --json and --csv")
    jobs = read_status(directory)
    if as_json:
        _print_json(jobs)
    elif as_csv:
        _print_csv(jobs)
    else:
        _show(jobs)
    while watch and any(job.state == "running" for job in jobs):
        time.sleep(every)
        jobs = read_status(directory)
        if sys.stdout.isatty():
            click.clear()
        _show(jobs)


def _print_json(jobs: Sequence[JobStatus]) -> None:
    from nteleport.jobs.state import as_table, summarize

    content = {"summary": asdict(summarize(jobs)), "jobs": as_table(jobs)}
    click.echo(json.dumps(content, indent=1, allow_nan=False))


def _print_csv(jobs: Sequence[JobStatus]) -> None:
    from nteleport.jobs.state import as_table

    rows = as_table(jobs)
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _show(jobs: Sequence[JobStatus]) -> None:
    from nteleport.jobs.folders import TUNING
    from nteleport.jobs.state import duration, summarize

    summary = summarize(jobs)
    counts = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    eta = f"; all over in about {duration(summary.eta_seconds)}" if summary.eta_seconds is not None else ""
    click.echo(f"{len(jobs)} job{'s' if len(jobs) != 1 else ''}: {counts}{eta}")
    tuning = [job for job in jobs if TUNING in job.job.split("/")[:-1]]
    if tuning:
        counts = ", ".join(f"{count} {state}" for state, count in summarize(tuning).states.items())
        click.echo(f"  {len(tuning)} of them tuning: {counts}")
    attention = [job for job in jobs if job.state in _SHOWN]
    for job in attention[:_LONGEST_LIST]:
        click.echo(f"  {job.state:<10} {_progress(job):>9}  {_accuracy(job):>6}  {job.job}{_remark(job)}")
    if len(attention) > _LONGEST_LIST:
        more = Counter(job.state for job in attention[_LONGEST_LIST:])
        click.echo("  and " + ", ".join(f"{count} {state}" for state, count in more.items()) + " more")


def _progress(job: JobStatus) -> str:
    return f"{job.epochs}/{job.of_epochs or '?'}"


def _accuracy(job: JobStatus) -> str:
    return "" if job.val_accuracy is None else f"{100 * job.val_accuracy:.1f}%"


def _remark(job: JobStatus) -> str:
    from nteleport.jobs.state import duration

    if job.error:
        return f": {job.error}"
    if job.state == "stale":
        return f": {job.owner or 'its process'} is gone"
    if job.state == "running" and job.eta_seconds is not None:
        return f": {duration(job.eta_seconds)} left"
    return ""
