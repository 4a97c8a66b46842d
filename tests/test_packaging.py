"""What an installed package brings along, and how the scripts set up an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
from support import ROOT

import nteleport

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_console_script_is_the_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="nteleport")
    assert script.load() is nteleport.cli.main


@pytest.mark.parametrize("resource", ["py.typed", "data/digits.npz", "data/digits.LICENSE.txt"])
def test_package_has_its_data(resource: str) -> None:
    assert files("nteleport").joinpath(resource).is_file()


def test_every_data_file_is_declared_for_the_wheel() -> None:
    """A file that no pattern of pyproject.toml matches would be in the checkout, but not in the wheel."""
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    matched = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    present = {
        path
        for path in (ROOT / "nteleport").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert matched == present


def test_every_package_has_an_init() -> None:
    """A folder without one is left out of the wheel."""
    folders = {path.parent for path in (ROOT / "nteleport").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def script(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(ROOT / "scripts" / name)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["test", "quickstart"])
def test_a_folder_that_is_no_environment_is_refused_and_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    result = script(name, NTELEPORT_VENV=str(tmp_path))
    assert result.returncode == 1
    assert f"error: {tmp_path} is not a working virtual environment" in result.stderr
    assert (tmp_path / "precious").read_text() == "kept"


def test_no_python_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("cat", "dirname", "ls"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "")
    result = script("test", NTELEPORT_VENV=str(tmp_path / "venv"), PATH=str(tmp_path / "bin"), PYTHON="")
    assert result.returncode == 1
    assert "needs Python 3.11 or later" in result.stderr
    assert not (tmp_path / "venv").exists()
