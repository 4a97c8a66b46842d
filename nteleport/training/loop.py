"""Training one job from its first epoch, or from where it stopped, to its result.

After each epoch the rows so far replace `metrics.csv` and a checkpoint is written, so that whatever happens
next, the job continues bit for bit as if nothing had happened. A stop is honored between two batches, and a
checkpoint is written there too, so a job whose epochs are longer than the time between interruptions still
makes progress.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

import torch

from nteleport.core.preserving import keeping_random_states, random_states, restore_random_states
from nteleport.data.splits import Split
from nteleport.jobs.atomic import replacing
from nteleport.jobs.events import EpochFinished, Report, Resumed, Warned, ignore
from nteleport.jobs.job import Job
from nteleport.jobs.options import RunOptions
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import (
    MetricRow,
    TrainingResult,
    log_line,
    write_certificates,
    write_metrics,
    write_result,
)
from nteleport.jobs.schedule import teleports_at, teleports_before
from nteleport.randomness import generator_for
from nteleport.training.assembly import Assembly, assemble
from nteleport.training.certificates import certified
from nteleport.training.checkpoint import (
    Checkpoint,
    check_optimizer_state,
    damaged,
    intact_checkpoints,
    is_damage,
    remove_checkpoints,
    save_checkpoint,
)
from nteleport.training.device import arithmetic, find_device
from nteleport.training.learner import Batch, EpochProgress, StopRequested, evaluate, train_epoch
from nteleport.training.metrics import Scores
from nteleport.training.modes import teleport, teleport_seed
from nteleport.training.provenance import begin_provenance, changes_since, end_provenance, versions


def _local_time() -> datetime:
    return datetime.now().astimezone()


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Clock:
    """Time, passed in: `seconds` measures how long things take, `now` says when they happened."""

    seconds: Callable[[], float] = time.perf_counter
    now: Callable[[], datetime] = _local_time


def train_job(
    job: Job,
    paths: JobPaths,
    options: RunOptions,
    report: Report = ignore,
    *,
    stop_requested: Callable[[], bool] = _never,
    clock: Clock | None = None,
) -> TrainingResult:
    """Train a job, continuing from its checkpoint if there is one, and leave its files in `paths.directory`.

    Args:
        job: what to train.
        paths: where its files go; the folder is created if missing.
        options: where data sets are, the device, whether to save weights, and the command line
            for the record.
        report: receives `Resumed`, `EpochFinished` and `Warned`.
        stop_requested: asked before each batch; once it returns True, the training stops.
        clock: source of all times.

    Returns:
        The result, `finished`, `diverged` or `stopped`. On `stopped` there is no `result.json`.

    Raises:
        NTeleportError: the job cannot be run as specified.
        OSError: its files cannot be written.
    """
    clock, device = clock or Clock(), find_device(options.device)
    paths.directory.mkdir(parents=True, exist_ok=True)
    with keeping_random_states(device), arithmetic(job.training.precision, device):

        def begin() -> _Training:
            torch.manual_seed(job.seed)
            return _Training(assemble(job, data_dir=options.data_dir, device=device), paths, report, clock)

        training = _resume(begin)
        begin_provenance(
            paths,
            start=clock.now(),
            device=device,
            first_epoch=len(training.rows),
            command=options.command,
            analysis_seconds=training.assembly.analysis_seconds,
        )
        try:
            training.run(stop_requested)
        except StopRequested:
            training.log(f"stopped after {training.whereabouts}")
            return TrainingResult("stopped", tuple(training.rows), {})
        else:
            return training.finish(options.save_weights)
        finally:
            end_provenance(paths, clock.now())


def _resume(begin: Callable[[], _Training]) -> _Training:
    """A training restored from the latest checkpoint that fits it, or a new one. Each checkpoint is restored
    into a training of its own: one that does not fit may leave it half restored.
    """
    training = begin()
    for name, checkpoint in intact_checkpoints(training.paths, training.job.digest, training.warn):
        try:
            training.restore(checkpoint)
        except Exception as error:  # whatever torch raises for missing keys and wrong shapes
            if not is_damage(error):
                raise
            training.warn(damaged(name, error))
            training = begin()
        else:
            training.resumed(checkpoint)
            return training
    training.started()
    return training


@dataclass
class _BegunEpoch:
    """An epoch in progress: the values of its row that are known at its start, the time it has taken in
    earlier processes, and the progress of its pass over the batches.
    """

    lr: float
    teleported: int
    seconds: float
    progress: EpochProgress


class _Training:
    """A training in progress: the assembly, the rows of the completed epochs, and the epoch begun, if any."""

    def __init__(self, assembly: Assembly, paths: JobPaths, report: Report, clock: Clock) -> None:
        self.assembly, self.paths, self.report, self.clock = assembly, paths, report, clock
        self.job = assembly.job
        self.rows: list[MetricRow] = []
        self.certificates: list[dict[str, Any]] = []
        self.begun: _BegunEpoch | None = None

    def log(self, text: str) -> None:
        log_line(self.paths, self.clock.now(), text)

    def warn(self, text: str) -> None:
        self.log(f"warning: {text}")
        self.report(Warned(text))

    @property
    def whereabouts(self) -> str:
        """Its progress, in words."""
        steps = self.begun.progress.steps if self.begun else 0
        return f"{len(self.rows)} epochs" + (f" and {steps} batches" if steps else "")

    @property
    def diverged(self) -> bool:
        return bool(self.rows) and not math.isfinite(self.rows[-1].train_loss)

    def run(self, stop_requested: Callable[[], bool]) -> None:
        """Train the remaining epochs."""
        epochs = self.job.training.epochs
        while len(self.rows) < epochs and not self.diverged:
            if stop_requested():
                raise StopRequested
            row = self._epoch(len(self.rows), stop_requested)
            self.rows.append(row)
            write_metrics(self.paths, self.rows)
            write_certificates(self.paths, self.certificates)
            if len(self.rows) < epochs and not self.diverged:
                save_checkpoint(self.paths, self._checkpoint())
            self.report(EpochFinished(self.job, row))

    def finish(self, save_weights: bool) -> TrainingResult:
        """Evaluate on the test split, write the result and remove what only an unfinished job needs."""
        state = "diverged" if self.diverged else "finished"
        result = TrainingResult(state, tuple(self.rows), {} if self.diverged else self._test_scores())
        if save_weights:
            learner = self.assembly.learner
            with replacing(self.paths.weights, durable=True) as temporary, temporary.open("wb") as file:
                torch.save({"weights": learner.network.state_dict(), "cob": learner.optimizer.cob}, file)
        write_result(self.paths, result, self.job.digest)
        remove_checkpoints(self.paths)
        self.log(f"{state} after {len(self.rows)} epochs")
        return result

    def started(self) -> None:
        """Note that there is no checkpoint to continue from."""
        self.log(f"started on {self.assembly.device}, seed {self.job.seed}")
        for note in self.assembly.learning_rate.notes:
            self.log(note)
        self.paths.metrics.unlink(missing_ok=True)
        write_certificates(self.paths, [])

    def resumed(self, checkpoint: Checkpoint) -> None:
        """Note that a checkpoint was restored, and truncate the files with rows to match it."""
        write_metrics(self.paths, self.rows)
        write_certificates(self.paths, self.certificates)
        self.log(f"resumed on {self.assembly.device} after {self.whereabouts}")
        self.report(Resumed(self.job, len(self.rows)))
        for change in changes_since(checkpoint.versions):
            self.warn(f"{self.job.name} was begun with {change}")

    def _epoch(self, epoch: int, stop_requested: Callable[[], bool]) -> MetricRow:
        begun = self.begun = self.begun or self._begin(epoch)
        started, behind = self.clock.seconds() - begun.seconds, begun.progress.steps
        try:
            train_epoch(
                self.assembly.learner,
                self.assembly.training_batches(self.job.seed, epoch),
                step_starts=partial(self._step_starts, begun, epoch),
                step_finished=self.assembly.learning_rate.step_finished,
                stop_requested=stop_requested,
                progress=begun.progress,
            )
        except StopRequested:
            begun.seconds = self.clock.seconds() - started
            if begun.progress.steps > behind:
                save_checkpoint(self.paths, self._checkpoint())
            raise
        train, val = begun.progress.sums.read(), self._scores(self.assembly.validation)
        grad_norm, weight_norm = begun.progress.norms.tolist()
        rate = self.assembly.learning_rate
        rate.epoch_finished(val.accuracy if rate.watches == "accuracy" else val.loss)
        self.begun = None
        return MetricRow(
            epoch=epoch,
            lr=begun.lr,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            train_accuracy_top5=train.accuracy_top5,
            val_loss=val.loss,
            val_accuracy=val.accuracy,
            val_accuracy_top5=val.accuracy_top5,
            teleported=begun.teleported,
            grad_norm=grad_norm,
            weight_norm=weight_norm,
            seconds=self.clock.seconds() - started,
        )

    def _begin(self, epoch: int) -> _BegunEpoch:
        started, rate = self.clock.seconds(), self.assembly.learning_rate.current
        due = teleports_at(epoch, self.job.teleportation, self.job.training.epochs, self.rows)
        moved = due and self._teleport(epoch, epoch * self.assembly.steps_per_epoch, by_step=False)
        return _BegunEpoch(rate, int(moved), self.clock.seconds() - started, self._progress())

    def _progress(self) -> EpochProgress:
        return EpochProgress(self.assembly.learner.criterion)

    def _step_starts(self, begun: _BegunEpoch, epoch: int, step: int) -> None:
        step += epoch * self.assembly.steps_per_epoch
        if teleports_before(step, self.job.teleportation):
            begun.teleported += self._teleport(epoch, step, by_step=True)

    def _teleport(self, epoch: int, step: int, *, by_step: bool) -> bool:
        """Let the mode act before `step`, counted through all epochs; returns whether the weights moved."""
        job, learner = self.job, self.assembly.learner
        seed = teleport_seed(job.seed, job.teleportation.mode, "step" if by_step else "epoch")
        number = step if by_step else epoch
        if job.teleportation.mode == "same_distr":
            self.log(f"redraws weights from a histogram per {job.teleportation.histogram}")

        def batches(count: int) -> Iterator[Batch]:
            return self.assembly.training_batches(seed, number, count)

        def act() -> bool:
            generator = generator_for(seed, number)
            return teleport(learner, job.teleportation, job.training.optimizer_state, generator, batches)

        if not job.training.certificates:
            return act()
        moved, found = certified(learner, act, lambda: next(batches(1))[0])
        if found is not None:
            self.certificates.append(found.row(epoch, step))
            if found.rolled_back:
                self.warn(
                    f"{job.name}: the teleportation before step {step} was rolled back: outputs changed by "
                    f"{found.certificate.largest_relative:.2g}, expected at most {found.tolerance:.2g}"
                )
        return moved

    def _test_scores(self) -> dict[str, float]:
        """Loss and accuracies on the test split. A job that validates on it already has them."""
        if self.assembly.validation is self.assembly.test:
            last = self.rows[-1]
            return {
                "loss": last.val_loss,
                "accuracy": last.val_accuracy,
                "accuracy_top5": last.val_accuracy_top5,
            }
        return asdict(self._scores(self.assembly.test))

    def _scores(self, split: Split) -> Scores:
        return evaluate(self.assembly.learner, self.assembly.evaluation_batches(split)).read()

    def _checkpoint(self) -> Checkpoint:
        learner, begun = self.assembly.learner, self.begun
        return Checkpoint(
            job=self.job.digest,
            network=learner.network.state_dict(),
            optimizer=learner.optimizer.state_dict(),
            learning_rate=self.assembly.learning_rate.state_dict(),
            random=random_states(self.assembly.device),
            rows=[asdict(row) for row in self.rows],
            versions=versions(),
            begun={**vars(begun), "progress": begun.progress.state_dict()} if begun else None,
            certificates=self.certificates,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            Exception: whatever its parts raise if it does not fit; then this training is unusable.
        """
        learner = self.assembly.learner
        learner.network.load_state_dict(checkpoint.network)
        learner.optimizer.load_state_dict(checkpoint.optimizer)
        check_optimizer_state(learner.optimizer.optimizer)
        self.assembly.learning_rate.load_state_dict(checkpoint.learning_rate)
        restore_random_states(checkpoint.random, self.assembly.device)
        self.rows = [MetricRow(**row) for row in checkpoint.rows]
        if [row.epoch for row in self.rows] != list(range(len(self.rows))):
            raise ValueError("its rows are not those of the first epochs")
        self.certificates = [dict(row) for row in checkpoint.certificates]
        if checkpoint.begun is not None:
            progress = self._progress()
            progress.load_state_dict(checkpoint.begun["progress"], self.assembly.device)
            self.begun = _BegunEpoch(**{**checkpoint.begun, "progress": progress})
