"""A task of a SLURM cluster: it trains one job, and makes sure that it continues when it is cut short.

SLURM ends a task in several ways, and only in some cases starts it again. In every case, training stops at
the next batch and its checkpoint is kept. What follows depends on the state that SLURM then reports:

================================  ==================================  ==============================
event                             what the task sees                  what it does
================================  ==================================  ==============================
time limit approaching            SIGUSR2 (`sbatch --signal`)         asks to be queued again, if it
                                                                      has trained anything at all
preemption                        SIGTERM or SIGUSR2, `PreemptTime`   asks to be queued again
`scontrol requeue`, a lost node   SIGTERM, no longer `RUNNING`        exits: SLURM queues it again
`scancel`                         SIGTERM, no longer `RUNNING`        exits
================================  ==================================  ==============================

A task that is queued again keeps its index in the array, and finds its checkpoint where it left it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from nteleport.jobs.paths import JobPaths

__all__ = ["Scontrol", "reason_to_requeue", "run_task"]

Train = Callable[[Sequence[str]], int]
"""Runs `nteleport train` with these arguments and returns its exit code."""

_TIME_IS_UP = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
_ENDINGS = (signal.SIGTERM, *_TIME_IS_UP)
_BY_SIGNAL = 128
_FAILED = 1
_TRIES, _BETWEEN_TRIES = 3, 5.0


class Scontrol:
    """Asks SLURM for the state of a task, and to queue the task again."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id

    def describe(self) -> dict[str, str]:
        """The fields of `scontrol show job`: `JobState`, `PreemptTime`, … Empty without an answer."""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_BETWEEN_TRIES)  # a busy controller
            done = self._ask("show", "job", "--oneliner", self.job_id)
            if done is not None and done.returncode == 0:
                return dict(re.findall(r"(\S+?)=(\S*)", done.stdout))
        return {}

    def requeue(self) -> bool:
        """Ask SLURM to queue the task again; returns whether it agreed."""
        done = self._ask("requeue", self.job_id)
        if done is not None and done.returncode != 0:
            _say(done.stderr.strip())
        return done is not None and done.returncode == 0

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str] | None:
        try:
            return subprocess.run(
                ["scontrol", *arguments], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            _say(f"scontrol: {error}")
            return None


def reason_to_requeue(signal_number: int, described: Mapping[str, str]) -> str | None:
    """Why a task stopped by a signal has to ask to be queued again; None if it must not.

    Args:
        signal_number: the number of the signal.
        described: the fields that SLURM reports for the task, see `Scontrol.describe`.
    """
    if described.get("JobState") != "RUNNING":
        return None
    if described.get("PreemptTime", "None") not in ("None", "N/A"):
        return "preempted"
    return "time limit" if signal_number in _TIME_IS_UP else None


def run_task(config: str, options: Sequence[str], train: Train, scontrol: Scontrol | None = None) -> None:
    """Train the job of `config`, the `config.yml` in its folder, as a task of SLURM.

    Args:
        config: its path; the job's folder is in the output folder.
        options: further arguments of `nteleport train`.
        train: runs the command.
        scontrol: asks SLURM about this task; None asks about the task this process runs in.

    Raises:
        SystemExit: the job is not over: it failed or stopped. With the exit code of `train`.
    """
    for number in _ENDINGS:
        signal.signal(number, _leave)  # until the training sets its own handlers: nothing is lost yet
    folder = Path(config).parent
    paths = JobPaths(folder.parent, folder.name)
    before = _progress(paths)
    try:
        code = train(["train", config, "--out", str(paths.out), *options])
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else _FAILED
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # already exiting
    if code > _BY_SIGNAL:
        scontrol = scontrol or Scontrol(os.environ.get("SLURM_JOB_ID", ""))
        code = _continue_later(code, scontrol, progressed=_progress(paths) != before)
    if code:
        sys.exit(code)


def _continue_later(code: int, scontrol: Scontrol, *, progressed: bool) -> int:
    """Have SLURM queue the task again if it does not do so by itself; returns the exit code."""
    reason = reason_to_requeue(code - _BY_SIGNAL, scontrol.describe())
    if reason is None:
        _say("stopped; repeat `nteleport submit` to continue from the checkpoint")
        return code
    if reason == "time limit" and not progressed:
        _say("nothing was trained within the time limit; not queued again: submit with a longer --time")
        return _FAILED
    if scontrol.requeue():
        _say(f"{reason}: queued again, to continue from the checkpoint")
        return code
    _say(f"{reason}, and SLURM did not queue the task again; repeat `nteleport submit` to do so")
    return _FAILED


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_BY_SIGNAL + number)


def _progress(paths: JobPaths) -> int | None:
    """A value that changes whenever training progress is saved."""
    try:
        return paths.checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _say(text: str) -> None:
    sys.stderr.write(f"nteleport: {text}\n")
