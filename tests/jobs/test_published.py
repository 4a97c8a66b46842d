"""Results of the published implementation, made up in its layout, are read and drawn."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from support.synthetic_results import make_job, write_job

from nteleport.cli.collect import collect as collect_command
from nteleport.cli.plot import plot
from nteleport.cli.status import status
from nteleport.jobs.table import read_results

HEADER = "step,train_loss,loss,val_loss,val_accuracy,validate_accuracy_top5,test_loss,test_accuracy"
EPOCHS = 4


def accuracy(run: int, mode: str, epoch: int) -> float:
    return 0.5 + 0.01 * run + 0.1 * epoch + (0.05 if mode == "random" else 0)


def metrics(run: int, mode: str, *, tested: bool = True) -> str:
    """Training, then validation of each step, in rows of their own; the test has a last row of its own."""
    lines = [HEADER]
    for epoch in range(EPOCHS):
        lines.append(f"{epoch},{'1.5' if epoch == 0 else ''},{'' if epoch == 0 else 1.5 - epoch / 10},,,,,")
        lines.append(f"{epoch},,,0.25,{accuracy(run, mode, epoch)!r},0.75,,")
    if tested:
        lines.append(f"{EPOCHS},,,,,,0.5,0.625")
    return "\n".join(lines) + "\n"


def write(out: Path, run: int, mode: str, **options: bool) -> Path:
    folder = out / mode / f"experiment_{run}"
    folder.mkdir(parents=True)
    hparams = {
        "dataset": "cifar10",
        "model": "resnet18",
        "optimizer": {"cls": "SGD", "lr": 0.01},
        "teleport": None if mode == "no_teleport" else {"mode": mode, "cob_range": 0.9},
    }
    (folder / "hparams.yml").write_text(yaml.safe_dump(hparams))
    (folder / "metrics.csv").write_text(metrics(run, mode, **options))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for mode in ("no_teleport", "random"):
        for run in range(3):
            write(tmp_path, run, mode)
    return tmp_path


def test_rows_of_a_step_are_one_epoch_with_our_columns(out: Path) -> None:
    results = read_results(out)
    assert results.jobs[0].name == "no_teleport/experiment_0"
    rows = results.epochs[results.epochs["job"] == 0]
    assert rows["epoch"].tolist() == [0, 1, 2, 3]
    assert rows["train_loss"].tolist() == pytest.approx([1.5, 1.4, 1.3, 1.2])
    assert rows["val_accuracy"].tolist() == [accuracy(0, "no_teleport", epoch) for epoch in range(EPOCHS)]
    assert rows["val_loss"].tolist() == [0.25] * 4
    assert rows["val_accuracy_top5"].tolist() == [0.75] * 4
    assert rows["test_accuracy"].isna().tolist() == [True, True, True, False]
    assert rows["test_accuracy"].tolist()[-1] == 0.625
    assert {"loss", "step", "validate_accuracy_top5"}.isdisjoint(results.metrics)


def test_a_tested_job_is_finished_and_another_is_not(out: Path) -> None:
    write(out, 7, "random", tested=False)
    states = {job.name: str(job.state) for job in read_results(out).jobs}
    assert states.pop("random/experiment_7") == "unfinished"
    assert set(states.values()) == {"finished"}


def test_nested_hyper_parameters_have_dotted_keys(out: Path) -> None:
    first, last = read_results(out).jobs[0], read_results(out).jobs[-1]
    assert (first.hparams["optimizer.lr"], first.hparams["model.cls"]) == (0.01, "resnet18")
    assert first.hparams["teleport.mode"] == "no_teleport"
    assert (last.hparams["teleport.mode"], last.hparams["teleport.cob_range"]) == ("random", 0.9)


def test_the_published_command_draws_them_under_the_published_names(out: Path) -> None:
    result = CliRunner().invoke(
        plot,
        [
            "--experiment_dir", str(out), "--group_by", "teleport", "optimizer", "--boxplot",
            "--box_epochs", "1", "3", "--metrics", "validate_accuracy", "val_loss",
        ],
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    table = pd.read_csv(out / "plots" / "cifar10-resnet18-val_accuracy-curves.csv")
    for label, mode in (("no teleport", "no_teleport"), ("teleported", "random")):
        rows = table[table["group"] == label]
        assert rows["n"].tolist() == [3] * EPOCHS
        expected = [sum(accuracy(run, mode, epoch) for run in range(3)) / 3 for epoch in range(EPOCHS)]
        assert rows["mean"].tolist() == pytest.approx(expected)


def test_collect_has_one_row_an_epoch(out: Path) -> None:
    result = CliRunner().invoke(collect_command, [str(out)])
    assert (result.exit_code, result.stderr) == (0, "")
    table = pd.read_csv(io.StringIO(result.stdout))
    assert len(table) == 6 * EPOCHS
    assert set(table["state"]) == {"finished"}


def test_published_results_beside_ours_are_read_together(out: Path) -> None:
    ours = make_job(epochs=3)
    write_job(out, ours)
    results = read_results(out)
    assert {job.name: job.epochs for job in results.jobs}[ours.name] == 3
    assert len(results.epochs) == 6 * EPOCHS + 3


def test_metrics_without_hyper_parameters_are_named_for_what_they_are(out: Path) -> None:
    (out / "random" / "experiment_1" / "hparams.yml").unlink()
    (reason,) = read_results(out).skipped
    assert reason == (
        "random/experiment_1: no hparams.yml (yet); its metrics.csv is of the published implementation, "
        "which writes hparams.yml beside it"
    )


def test_a_part_that_published_results_do_not_have_is_refused(out: Path) -> None:
    result = CliRunner().invoke(plot, [str(out), "--group_by", "initializer"])
    assert result.exit_code == 2
    assert "unknown hyper-parameter 'initializer'" in result.stderr
    assert "these exist: teleport, optimizer, model, dataset;" in result.stderr


def test_status_says_that_they_have_no_state(out: Path) -> None:
    result = CliRunner().invoke(status, [str(out)])
    assert result.exit_code == 2
    assert "no_teleport/experiment_0 has metrics.csv but no config.yml" in result.stderr


def test_python_objects_are_read_as_plain_data_and_none_is_made(out: Path) -> None:
    folder = write(out, 8, "random")
    text = (
        "model: resnet18\ninput_shape: !!python/tuple [3, 32]\n"
        "loss: !!python/name:torch.nn.functional.mse ''\n"
        f"evil: !!python/object/apply:os.mkdir ['{out / 'evil'}']\n"
    )
    (folder / "hparams.yml").write_text(text)
    hparams = {job.name: job.hparams for job in read_results(out).jobs}["random/experiment_8"]
    assert hparams["input_shape"] == "[3, 32]"
    assert hparams["loss"] == "torch.nn.functional.mse"
    assert not (out / "evil").exists()
