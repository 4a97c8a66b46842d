"""What an arm costs, from a training to the comparison: search, its measurements and analysis count."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.training_jobs import Events, run_options, small_job

from nteleport.comparison import compare
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.table import read_results
from nteleport.runner.run import run
from nteleport.training.loop import Clock
from nteleport.training.modes import MODE_ACTIONS


@dataclass
class Watch:
    """A clock that stands still unless something is said to take time."""

    time: float = 0.0

    def clock(self) -> Clock:
        return Clock(seconds=lambda: self.time, now=lambda: datetime(2030, 1, 1, tzinfo=UTC))


def test_seconds_of_an_arm_are_those_of_search_and_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, act = Watch(), MODE_ACTIONS["random"]

    def slow(*arguments: Any, **options: Any) -> Any:
        watch.time += 40
        return act(*arguments, **options)

    monkeypatch.setitem(MODE_ACTIONS, "random", slow)  # type: ignore[arg-type]
    jobs = [small_job(), small_job("random")]
    run(jobs, tmp_path, run_options(tmp_path), Events(), clock=watch.clock())
    analysis = [
        json.loads(JobPaths(tmp_path, job.name).provenance.read_text())["analysis_seconds"] for job in jobs
    ]
    teleportations = watch.time / 40
    assert teleportations > 0
    found = compare(read_results(tmp_path), outcomes=["seconds"]).rows
    assert found["baseline"].item() == pytest.approx(analysis[0])
    assert found["value"].item() == pytest.approx(watch.time + analysis[1])
