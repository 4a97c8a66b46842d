"""The study of gradients against the backward passes that it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from unittest import mock

from nteleport.jobs.job import Component
from nteleport.studies.angles import loss_gradients
from nteleport.studies.gradients import GradientsSettings
from nteleport.studies.gradients import compute as gradients
from nteleport.studies.subject import Subject, subjects

from .networks import BATCH_SIZES
from .timing import Figure, Setting, compare, take_turns


def studying(setting: Setting) -> Iterator[Figure]:
    """15 ranges × 10 teleportations × 10 batches of 32 for each network, on random data; the network is made
    and analyzed beforehand.
    """
    for name in BATCH_SIZES:
        settings = GradientsSettings(
            models=(Component(name),), datasets=("random",), device=str(setting.device),
            ranges=15, teleportations=10, batches=10, batch_size=32,
        )  # fmt: skip
        (subject,) = subjects(settings)
        with mock.patch.object(gradients, "subjects", lambda _, found=subject: [found]):
            actions = [
                partial(gradients.gradient_changes, settings),
                partial(_backward_passes, subject, settings),
            ]
            ours, theirs = take_turns(actions, setting, 4.0, at_least=2, warm_up=0)
        what = f"study gradients, 150 teleportations × 10 batches: {name}"
        yield compare("gradients", what, "10 backward passes", ours, theirs, target=3.0)


def _backward_passes(subject: Subject, settings: GradientsSettings) -> None:
    stream = subject.batches(settings.batch_size, "gradients")
    for _, batch in zip(range(settings.batches), stream, strict=False):
        loss_gradients(subject.network, batch)
