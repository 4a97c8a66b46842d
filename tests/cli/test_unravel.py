"""``nteleport unravel``: the files it writes describe the same jobs as the matrix they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from nteleport.cli.app import nteleport
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand

OPTIMIZERS = [{"cls": "SGD", "lr": 0.01}, {"cls": "SGD", "lr": 0.01, "momentum": 0.9}]
MATRIX = {
    "runs_per_config": 3,
    "datasets": ["digits"],
    "models": ["MLPCOB"],
    "optimizers": OPTIMIZERS,
    "training_params": {"epochs": 2},
    "teleportations": {
        "no_teleport": None,
        "teleport": {
            "mode": {"random": None},
            "every_n_epochs": [0],
            "teleport_only_once": [True],
            "cob_range": [0.5, 0.9],
        },
    },
}
CELLS = 2 * (1 + 2)
JOBS = CELLS * 3


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(MATRIX | changes, sort_keys=False))
    return path


def unravel(config: Path, out: Path, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(nteleport, ["unravel", str(config), "--out", str(out), *options])
    return result.exit_code, result.stdout, result.stderr


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def job_names(config: Path) -> list[str]:
    return [job.name for job in expand(load_experiment(config))]


@pytest.mark.parametrize(("options", "files"), [((), CELLS), (("--per-run",), JOBS)])
def test_one_file_a_cell_or_a_run(tmp_path: Path, options: tuple[str, ...], files: int) -> None:
    code, out, _ = unravel(write(tmp_path / "matrix.yml"), tmp_path / "out", *options)
    assert code == 0
    assert out.startswith(f"{files} ")
    assert len(names(tmp_path / "out")) == files


@pytest.mark.parametrize("options", [(), ("--per-run",)])
def test_the_files_together_are_the_jobs_of_the_matrix(tmp_path: Path, options: tuple[str, ...]) -> None:
    config = write(tmp_path / "matrix.yml")
    unravel(config, tmp_path / "out", *options)
    alone = [name for file in (tmp_path / "out").iterdir() for name in job_names(file)]
    assert sorted(alone) == sorted(job_names(config))


def test_names_stay_when_the_matrix_is_reordered_and_extended(tmp_path: Path) -> None:
    unravel(write(tmp_path / "matrix.yml"), tmp_path / "before")
    extended = [{"cls": "Adam", "lr": 0.001}, *reversed(OPTIMIZERS)]
    unravel(write(tmp_path / "matrix.yml", optimizers=extended), tmp_path / "after")
    assert names(tmp_path / "before") < names(tmp_path / "after")


def test_set_replaces_a_value(tmp_path: Path) -> None:
    unravel(write(tmp_path / "matrix.yml"), tmp_path / "out", "--set", "training_params.epochs=7")
    epochs = {
        job.training.epochs
        for file in (tmp_path / "out").iterdir()
        for job in expand(load_experiment(file))
    }  # fmt: skip
    assert epochs == {7}


def test_the_published_spelling_of_the_options_is_accepted(tmp_path: Path) -> None:
    config, out = write(tmp_path / "matrix.yml"), tmp_path / "out"
    result = CliRunner().invoke(nteleport, ["unravel", str(config), "--output_dir", str(out), "--per_run"])
    assert result.exit_code == 0
    assert len(names(out)) == JOBS


def test_a_wrong_experiment_is_named_with_its_place_and_nothing_is_written(tmp_path: Path) -> None:
    config = write(tmp_path / "matrix.yml", datasets=["digit"], model_zoo=["mlp"])
    code, out, err = unravel(config, tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"{config}:3:3: " in err  # the data set's own line and column
    assert "digits" in err
    assert "model_zoo" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = unravel(write(tmp_path / "matrix.yml"), tmp_path / "file" / "out")
    assert code == 2
    assert str(tmp_path / "file" / "out") in err
    assert "Traceback" not in err


def test_no_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom nteleport.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as ending:\n    assert ending.code == 0\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    arguments = ["unravel", str(write(tmp_path / "matrix.yml")), "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
