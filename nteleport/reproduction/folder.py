"""The folder of a reproduction: where its results are, and which exist. No torch.

<out>/jobs/<job>/                        trained jobs, shared by all claims, as `nteleport train` writes them
<out>/studies/<claim>-seed<k>/           studies, as `nteleport study` writes them
<out>/pictures/                          curves and boxes of the trainings
<out>/reproduction.md, reproduction.json the answers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nteleport.errors import StudyError
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Job
from nteleport.reproduction.claims import StudyClaim, TrainingClaim
from nteleport.schema.fields import read_options
from nteleport.schema.yaml_source import Mark, Node, Problems, parse_yaml, to_yaml
from nteleport.studies.settings import StudySettings
from nteleport.studies.study import SETTINGS_FILE, Study, find_study, settings_yaml


@dataclass(frozen=True)
class Layout:
    """The folders of a reproduction.

    Attributes:
        out: the output folder.
        experiments: the folder with the experiment files of the tier.
        data_dir: where data sets are.
        device: for studies, as in a `study.yml`.
    """

    out: Path
    experiments: Path
    data_dir: Path
    device: str = "auto"

    @property
    def jobs(self) -> Path:
        return self.out / "jobs"

    @property
    def pictures(self) -> Path:
        return self.out / "pictures"

    @property
    def markdown(self) -> Path:
        return self.out / "reproduction.md"

    @property
    def json(self) -> Path:
        return self.out / "reproduction.json"

    def study(self, claim: StudyClaim, seed: int) -> StudyRun:
        """One run of the study of a claim."""
        study = find_study(claim.study)
        settings = self._settings(study, {**claim.settings, "seed": seed})
        return StudyRun(study, settings, self.out / "studies" / f"{claim.name}-seed{seed}")

    def expand(self, claim: TrainingClaim) -> list[Job]:
        """The jobs of a claim.

        Raises:
            ExperimentError: its experiment file is missing or wrong.
        """
        files = (self.experiments / name for name in claim.experiments)
        jobs = [job for file in files for job in expand(load_experiment(file, overrides=claim.overrides))]
        return list(dict.fromkeys(jobs))

    def _settings(self, study: Study, entries: Mapping[str, object]) -> StudySettings:
        """Settings from plain data, by the checks of a `study.yml`."""
        problems = Problems()
        machine = {"data_dir": str(self.data_dir), "device": self.device}
        root = parse_yaml(to_yaml({**entries, **machine}), Mark(study.name), problems) or Node(
            {}, Mark(study.name)
        )
        values = read_options(study.settings, root, problems, study.name)
        if problems:
            raise StudyError("\n".join(map(str, problems)))
        return study.settings(**values)


@dataclass(frozen=True)
class StudyRun:
    """A study with its settings and its folder."""

    study: Study
    settings: StudySettings
    folder: Path

    def tables(self) -> dict[str, pd.DataFrame] | None:
        """The tables of the study, or None if it has not run completely with these settings.

        Tables are written before pictures, each by rename, so the picture means that all tables exist.
        """
        described = self.folder / SETTINGS_FILE
        drawn = self.folder / f"{self.study.name}.png"
        if not drawn.exists() or described.read_text("utf-8") != settings_yaml(self.study, self.settings):
            return None
        return {path.stem: pd.read_csv(path) for path in sorted(self.folder.glob("*.csv"))}

    def clear(self) -> None:
        """Remove the files of an earlier run with other settings."""
        for path in self.folder.glob(f"{self.study.name}*"):
            path.unlink()
