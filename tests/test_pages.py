"""The Python of the tutorial and of the page on extending runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support import ROOT

import nteleport.studies
import nteleport.studies.study
from nteleport.cli.app import nteleport as nteleport_command
from nteleport.core.rules import RULES
from nteleport.data.catalog import DATASETS
from nteleport.plugins import admit
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


def test_the_page_on_extending_goes_from_an_empty_folder_to_a_box_plot_in_thirty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("\n## ")[1]
    files = re.findall(r"^```\w+ title=\"([^\"]+)\"\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert (
        sum(bool(line.strip()) for text in (commands, *dict(files).values()) for line in text.split("\n"))
        <= 30
    )
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for command in commands.splitlines():
        result = CliRunner().invoke(nteleport_command, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    admit(())
    table = nteleport.collect("results")
    assert set(table.groupby("job").size()) == {10}
    means = table[table["epoch"] == 9].groupby("teleport")["val_accuracy"].mean()
    assert len(means) == 2
    assert means.min() > 0.75  # a line between the moons: well above chance
    assert [path.suffix for path in sorted(tmp_path.rglob("*boxes*"))] != []
