"""A folder of results as a `Report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nteleport.jobs.folders import TUNING
from nteleport.jobs.paths import printable
from nteleport.jobs.state import JobState
from nteleport.page import asked, certificates, curves, learning_rates, ran, reproducing, verdicts
from nteleport.page.anonymous import without_names
from nteleport.page.folder import Folder, read_folder
from nteleport.page.numbers import counted
from nteleport.page.parts import Report

__all__ = ["read_report"]

_MOST_NOTES = 30
_ONLY_TUNING = "only jobs for tuning so far: the runs to report are trained once a value is chosen"


def read_report(
    directory: str | Path, *, experiment: str | Path | None = None, anonymous: bool = False, **comparison: Any
) -> Report:
    """What there is to say about a folder of results, however far its jobs are.

    Args:
        directory: the output folder of `nteleport train --out`.
        experiment: the experiment file that these jobs come from; by default one is put together from theirs.
        anonymous: leave out names of hosts and people, and folders of absolute paths.
        comparison: options of `nteleport.comparison.compare`: `baseline`, `outcomes`, `by`, `equivalent`.

    Raises:
        ResultsError: it is not a folder of results, `tuning.csv` is damaged, or the comparison is impossible
            with options that were given.
        ExperimentError: the experiment file cannot be read.
    """
    folder = read_folder(Path(directory))
    tuning = learning_rates.tuning_of(folder)
    compared = verdicts.compared(folder, tuning, comparison)
    again = reproducing.section(folder, None if experiment is None else Path(experiment))
    found = [
        verdicts.section(folder, compared),
        None if folder.only_tuning else curves.section(folder),  # one for each point of a grid
        learning_rates.section(folder, tuning),
        asked.section(folder),
        ran.section(folder),
        certificates.section(folder),
        again,
    ]
    state = [_ONLY_TUNING] if folder.only_tuning else curves.incomplete(folder)
    notes = [*verdicts.notes(compared), *ran.version_notes(folder), *state]
    notes += [f"left out {reason}" for reason in folder.results.skipped]
    running = any(status.state is JobState.RUNNING for status in folder.statuses.values())
    sections = tuple(each for each in found if each is not None)
    title = printable(folder.directory.resolve().name) or "results"
    report = Report(title, _summary(folder), _shortened(notes), sections, running)
    if anonymous:
        files = [] if experiment is None else [Path(experiment)]
        return without_names(report, ran.hosts(folder), [folder.directory, *files])
    return report


def _summary(folder: Folder) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in folder.states.items())
    if folder.only_tuning:
        return f"{counted(len(folder.results.jobs), 'job')} for tuning: {states}"
    tuning = sum(TUNING in name.split("/")[:-1] for name in folder.statuses)
    tuned = f"; and {counted(tuning, 'job')} for tuning" if tuning else ""
    return f"{counted(len(folder.results.jobs), 'job')}: {states}{tuned}"


def _shortened(notes: Sequence[str]) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(notes))
    left = len(distinct) - _MOST_NOTES
    more = [f"and {counted(left, 'further note')}"] if left > 0 else []
    return (*distinct[:_MOST_NOTES], *more)
