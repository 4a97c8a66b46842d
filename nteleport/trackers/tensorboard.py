"""TensorBoard: event files in `<out>/tensorboard/<job>`.

View them with `tensorboard --logdir <out>/tensorboard`. A job that is resumed or trained again writes a
second file. It begins with a restart marker at step 0, which makes TensorBoard discard the content of the
first file, and with all earlier rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from nteleport.jobs.job import Job
from nteleport.trackers.tracker import Row


class TensorBoardTracker:
    """Scalars by epoch, and the hyper-parameters for the HPARAMS tab."""

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._writer: Any = None

    def start(self, job: Job, out: Path, earlier: Sequence[Row]) -> None:
        self._writer = EventFileWriter(str(out / "tensorboard" / job.name))
        self._add(0, session_log=SessionLog(status=SessionLog.START))
        known = {key: value for key, value in job.hparams().items() if value is not None}
        self._add(0, summary=hparams_pb(known, trial_id=job.name))
        for row in earlier:
            self.log(row)

    def log(self, row: Row) -> None:
        values = [Summary.Value(tag=key, simple_value=row[key]) for key in row if key != "epoch"]
        self._add(int(row["epoch"]), summary=Summary(value=values))
        self._writer.flush()

    def finish(self, state: str, summary: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=f"summary/{key}", simple_value=summary[key]) for key in summary]
        self._add(0, summary=Summary(value=values))
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(Event(wall_time=self._seconds(), step=step, **content))
