"""Finding the folders of jobs below an output folder, at any depth up to `DEEPEST`. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nteleport.errors import ResultsError
from nteleport.jobs.paths import JOB_NAME, JobPaths

DEEPEST = 8
"""How many folders below the output folder a job may be."""

_FILES = frozenset({"hparams.yml", "config.yml", "metrics.csv", "result.json"})
"""A folder with one of these is the folder of a job."""

_LEASE = JobPaths(Path(), "").lease.name


TUNING = "tuning"
"""The name of the folder of tuning jobs in an output folder; beside it is `tuning.csv`."""


def job_names(out: Path, *, tuning: bool = False) -> list[str]:
    """The jobs in `out` and its subfolders: their paths relative to `out`, with `/`, sorted.

    Tuning jobs are not among them without `tuning`, unless `out` is their own folder.

    Nothing is searched inside a job, unless all it has is a `config.yml`, which may be the file of an
    experiment whose jobs are below. Hidden folders are passed over. A link is followed after all folders were
    searched, and only to a folder that was not searched already: a loop ends, and no job counts twice.

    Raises:
        ResultsError: `out` is not a readable folder.
    """
    expected = "expected the output folder of `nteleport train`"
    try:
        with os.scandir(out):
            pass
    except FileNotFoundError:
        raise ResultsError(f"no folder {out}: {expected}") from None
    except NotADirectoryError:
        raise ResultsError(f"{out} is a file: {expected}") from None
    except OSError as error:
        raise ResultsError(f"cannot read {out}: {error.strerror}; {expected}") from error
    found = set(_found(out, seen=set(map(str, Path(os.path.realpath(out)).parents)), tuning=tuning))
    above = {
        "/".join(parts[:end]) for parts in (name.split("/") for name in found) for end in range(len(parts))
    }
    return sorted(found - above)


def _found(out: Path, seen: set[str], *, tuning: bool) -> Iterator[str]:
    """The names of jobs below `out`; `seen` are the real paths that are not to be searched again."""
    waiting = [("", os.path.realpath(out), 0)]
    links: list[tuple[str, str, int]] = []
    while waiting or links:
        name, real, depth = (waiting or links).pop()
        if real in seen:
            continue
        seen.add(real)
        try:
            files, folders = _content(real)
        except OSError:
            if JOB_NAME.fullmatch(os.path.basename(name)):  # to be reported rather than passed over
                yield name
            continue
        own = _FILES.intersection(files)
        if depth and own:
            yield name
        in_use = any(each == _LEASE for each, _ in folders)
        if depth < DEEPEST and not in_use and (not depth or own <= {"config.yml"}):
            tuned = not depth or f"{TUNING}.csv" in files
            for each, is_link in folders:
                if each == TUNING and tuned and not tuning:
                    continue
                below = f"{name}/{each}" if name else each
                path = os.path.join(real, each)
                if is_link:
                    links.append((below, os.path.realpath(path), depth + 1))
                else:
                    waiting.append((below, path, depth + 1))


def _content(folder: str) -> tuple[list[str], list[tuple[str, bool]]]:
    """The names of files, and of folders and whether each is a link.

    Raises:
        OSError: it cannot be read.
    """
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that leads nowhere
                is_folder = False
            if not is_folder:
                files.append(entry.name)
            elif not entry.name.startswith("."):
                folders.append((entry.name, entry.is_symlink()))
    return files, folders
