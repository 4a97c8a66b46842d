"""The Python of the tutorial and of the page on extending runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import ROOT

import nteleport.studies
import nteleport.studies.study
from nteleport.core.rules import RULES
from nteleport.data.catalog import DATASETS
from nteleport.studies.study import find_study, run_study
from nteleport.training.modes import MODE_ACTIONS
from nteleport.vocabulary import MODES

_BLOCK = re.compile(r"^```python(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """Title and text of each block of Python."""
    return _BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


@pytest.fixture
def _tables_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples enter into tables is taken out again."""
    for table in (RULES, MODES, MODE_ACTIONS, DATASETS):
        for name in ("soft_clip", "flip", "kmnist"):
            monkeypatch.setitem(table, name, None)  # type: ignore[arg-type]
            del table[name]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_tables_restored")
@pytest.mark.parametrize("page", ["tutorial.md", "extending.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for title, text in blocks(page):
        if not title:
            exec(text, names)  # noqa: S102 - the project's own text


def test_the_study_of_the_page_on_extending_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for title, text in blocks("extending.md"):
        if title:
            (tmp_path / title).parent.mkdir(exist_ok=True)
            (tmp_path / title).write_text(text, encoding="utf-8")
    monkeypatch.setattr(nteleport.studies, "__path__", [*nteleport.studies.__path__, str(tmp_path)])
    monkeypatch.setattr(nteleport.studies.study, "STUDIES", (*nteleport.studies.study.STUDIES, "sizes"))
    study = find_study("sizes")
    written = run_study(study, study.settings(teleportations=2, device="cpu"), tmp_path / "out")
    assert {path.name for path in written} == {"sizes.csv", "sizes.png", "sizes.pdf", "study.yml"}
    assert (tmp_path / "out" / "sizes.csv").read_text().startswith("model,teleportation,ratio\n")
