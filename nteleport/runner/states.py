"""What the files of a job say about it, and choosing jobs by that. No torch is imported.

==============  ======================================================================================
state           what it means
==============  ======================================================================================
`pending`       never begun
`running`       a live process holds its claim
`unfinished`    begun and interrupted; it goes on from its checkpoint when it is run again
`finished`      trained to the end
`diverged`      its loss stopped being a number; over too, the rows until then are kept
`failed`        an error ended it; it is tried again when it is run again
==============  ======================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nteleport.jobs.job import Job
from nteleport.jobs.lease import read_claim
from nteleport.jobs.paths import JobPaths

STATES = ("pending", "running", "unfinished", "finished", "diverged", "failed")

OVER = ("finished", "diverged")
"""The states in which there is nothing left to do for a job."""


def recorded_result(paths: JobPaths) -> dict[str, Any]:
    """The content of a job's `result.json`; empty when there is none that can be read."""
    try:
        content = json.loads(paths.result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def job_state(paths: JobPaths) -> str:
    """One of `STATES`."""
    state = recorded_result(paths).get("state")
    if state in OVER:
        return str(state)
    claim = read_claim(paths)
    if claim is not None and claim.is_alive():
        return "running"
    if state == "failed":
        return "failed"
    return "unfinished" if paths.log.exists() else "pending"


def matching(jobs: Iterable[Job], out: Path, wanted: Sequence[str]) -> list[Job]:
    """The jobs that one of `wanted` names, in their order.

    Args:
        jobs: to choose from.
        out: the folder of their results.
        wanted: a state, where `pending` means all that is neither over nor failed; or else a pattern for the
            name of a job, as in a shell: `*` is any text, `?` any character, `[ab]` one of these.
    """
    return [job for job in jobs if any(_is(word, job, out) for word in wanted)]


def _is(word: str, job: Job, out: Path) -> bool:
    if word not in STATES:
        return fnmatchcase(job.name, word)
    state = job_state(JobPaths(out, job.name))
    return state not in (*OVER, "failed") if word == "pending" else state == word
