"""A folder of results as a `Report`, and the report as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nteleport.errors import ResultsError
from nteleport.jobs.atomic import write_text_atomic
from nteleport.jobs.paths import printable
from nteleport.jobs.state import JobState
from nteleport.page import asked, certificates, curves, learning_rates, ran, reproducing, verdicts
from nteleport.page.folder import Folder, read_folder
from nteleport.page.html import as_html
from nteleport.page.markdown import as_markdown
from nteleport.page.numbers import counted
from nteleport.page.parts import Report

__all__ = ["read_report", "report"]

_MOST_NOTES = 30


def read_report(
    directory: str | Path, *, experiment: str | Path | None = None, **comparison: Any
) -> Report:
    """What there is to say about a folder of results, however far its jobs are.

    Args:
        directory: the output folder of `nteleport train --out`.
        experiment: the experiment file that these jobs come from; by default one is put together from theirs.
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
        curves.section(folder),
        learning_rates.section(folder, tuning),
        asked.section(folder),
        ran.section(folder),
        certificates.section(folder),
        again,
    ]
    notes = [*verdicts.notes(compared), *ran.version_notes(folder), *curves.incomplete(folder)]
    notes += [f"left out {reason}" for reason in folder.results.skipped]
    running = JobState.RUNNING in folder.states
    sections = tuple(each for each in found if each is not None)
    title = printable(folder.results.directory.resolve().name) or "results"
    return Report(title, _summary(folder), _shortened(notes), sections, running)


def report(
    directory: str | Path,
    file: str | Path | None = None,
    *,
    markdown: bool = False,
    experiment: str | Path | None = None,
    **comparison: Any,
) -> Path:
    """Write a report about a folder of results as one HTML page that needs nothing else, or as Markdown.

    Args:
        directory: the output folder of `nteleport train --out`.
        file: where to; by default `report.html` or `report.md` in the folder. It is replaced as a whole.
        markdown: write Markdown, for a pull request.
        experiment, comparison: as for `read_report`.

    Returns:
        The file.

    Raises:
        ResultsError: as for `read_report`, or the file cannot be written.
        MissingExtraError: a package of the extra `report` is missing.
    """
    path = Path(directory) / f"report.{'md' if markdown else 'html'}" if file is None else Path(file)
    found = read_report(directory, experiment=experiment, **comparison)
    text = as_markdown(found) if markdown else as_html(found)
    try:
        write_text_atomic(path, text)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _summary(folder: Folder) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in folder.states.items())
    return f"{counted(len(folder.results.jobs), 'job')}: {states}"


def _shortened(notes: Sequence[str]) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(notes))
    left = len(distinct) - _MOST_NOTES
    return tuple([*distinct[:_MOST_NOTES], *([f"and {counted(left, 'further note')}"] if left > 0 else [])])
