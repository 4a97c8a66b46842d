"""What a picture does not show by itself: how many runs each group should have, what is missing or mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from nteleport.jobs.table import JobResult
from nteleport.plots.hyper_parameters import REPETITION, hyper_parameters, identity, of_teleportation
from nteleport.plots.panels import Group
from nteleport.plots.wording import number

__all__ = ["expected_runs", "warnings"]


def expected_runs(groups: Sequence[Sequence[JobResult]], grouped: Sequence[str]) -> list[int]:
    """For each group of jobs, how many runs it would have if none were missing.

    `grouped` are the hyper-parameters in which the groups were told apart.

    Every cell (all hyper-parameters but run and seed) should have as many runs as the fullest cell of the
    picture, and every run that any cell has. A group has as many cells as its jobs show.
    """
    if any(key in grouped for key in REPETITION):  # each run is a group of its own: none can be missing
        return [len(group) for group in groups]
    cells = [Counter(_cell(job) for job in group) for group in groups]
    fullest = max(count for counter in cells for count in counter.values())
    known = {job.hparams["run"] for group in groups for job in group if "run" in job.hparams}
    return [len(counter) * max(fullest, len(known)) for counter in cells]


def warnings(groups: Sequence[Group], jobs: Sequence[JobResult], grouped: Sequence[str]) -> list[str]:
    """Everything about the groups of one picture that its reader must know.

    `grouped` are the hyper-parameters in which the groups were told apart.
    """
    return [*_missing_runs(groups, jobs), *_missing_groups(groups), *_mixtures(groups, jobs, grouped)]


def _missing_runs(groups: Sequence[Group], jobs: Sequence[JobResult]) -> list[str]:
    """One line for each group with runs that are missing, unfinished, failed, diverged or damaged."""
    known = {jobs[position].hparams.get("run") for group in groups for position in group.jobs}
    found = []
    for group in groups:
        members = [jobs[position] for position in group.jobs]
        remarks = [remark for job in members if (remark := _remark(job))]
        absent = group.expected - len(members)
        if absent > 0:
            missing = sorted(known - {job.hparams.get("run") for job in members} - {None}, key=str)
            named = f" (run {', '.join(map(str, missing))})" if len(missing) == absent else ""
            remarks.append(f"{absent} missing{named}")
        if remarks:
            finished = f"{sum(job.state == 'finished' for job in members)} of {group.expected} runs finished"
            found.append(f"{group.label!r} has {finished}: {'; '.join(remarks)}")
    return found


def _remark(job: JobResult) -> str:
    """What is wrong with one job, "" if nothing is."""
    run = f"run {job.hparams['run']}" if "run" in job.hparams else job.name
    epochs = "1 epoch" if job.epochs == 1 else f"{job.epochs} epochs"
    state = "" if job.state == "finished" else f"{job.state} after {epochs}"
    details = ", ".join(part for part in (state, *job.problems) if part)
    return f"{run} {details}" if details else ""


def _missing_groups(groups: Sequence[Group]) -> list[str]:
    """Combinations of a setting and a kind for which there is nothing, if most there could be are there."""
    settings = dict.fromkeys(group.setting for group in groups)
    kinds = dict.fromkeys(group.kind for group in groups)
    present = {(group.setting, group.kind) for group in groups}
    absent = [(setting, kind) for setting in settings for kind in kinds if (setting, kind) not in present]
    if len(absent) >= len(present):
        return []
    return [f"no runs at all of {', '.join(pair)!r}" for pair in absent]


def _mixtures(groups: Sequence[Group], jobs: Sequence[JobResult], grouped: Sequence[str]) -> list[str]:
    """What differs within groups: they would be averaged over as if it were chance."""
    mixed: dict[str, None] = {}
    for key in hyper_parameters(jobs):
        if key in grouped or key in REPETITION:
            continue
        if any(len(_values(group, jobs, key)) > 1 for group in groups):
            mixed[key] = None
    if not mixed:
        return []
    everything = {value for group in groups for key in mixed for value in _values(group, jobs, key)}
    shown = ", ".join(mixed)
    if len(mixed) == 1 and len(everything) <= 6:
        values = sorted("unset" if value is None else number(value) for _, value in everything)
        shown += f" ({', '.join(values)})"
    return [f"groups mix runs that differ in {shown}: add what matters to --group-by"]


def _values(group: Group, jobs: Sequence[JobResult], key: str) -> set[tuple[bool, str | int | float | None]]:
    """The choices of a hyper-parameter within a group. A baseline has no use for those of a teleportation."""
    values = {identity(jobs[position].hparams.get(key)) for position in group.jobs}
    return values - {identity(None)} if of_teleportation(key) else values


def _cell(job: JobResult) -> Hashable:
    return frozenset((key, identity(value)) for key, value in job.hparams.items() if key not in REPETITION)
