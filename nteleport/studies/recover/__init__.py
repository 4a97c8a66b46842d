"""The study `recover`: its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nteleport.schema.fields import number, one_of, option, optional, redefault
from nteleport.studies.settings import StudySettings, path
from nteleport.studies.study import Study
from nteleport.vocabulary import RECOVERY_METHODS, RecoveryMethod, Sampling


@dataclass(frozen=True, kw_only=True)
class RecoverSettings(StudySettings):
    """Find the change of basis between two sets of weights: a known one with noise, or that of two files."""

    cob_sampling: Sampling = redefault(StudySettings, "cob_sampling", "inter_landscape")
    target: Path | None = option(
        None, optional(path), "Target weights; by default the model's own, teleported at random.",
        metavar="FILE",
    )  # fmt: skip
    noise: tuple[float, ...] = option(
        (0.0, 0.1, 0.3, 1.0, 3.0), number("of at least 0", lambda n: n >= 0),
        "Noise on the target, relative to the size of its weights; may be repeated.", several=True,
    )  # fmt: skip
    method: RecoveryMethod = option(
        "least_squares", one_of(*RECOVERY_METHODS), "least_squares or gradient.", metavar="NAME"
    )

    def problem(self) -> str | None:
        """Why these settings cannot run, or None."""
        if len(self.models) > 1 or len(self.datasets) > 1:
            return "recover takes one model and one data set"
        return super().problem()


STUDY = Study(
    "recover", "Find the change of basis between two sets of weights.", RecoverSettings, "recover_cob"
)
