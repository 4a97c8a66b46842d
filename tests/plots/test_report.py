"""Pictures and the tables beside them as files: the same numbers, the same bytes, nothing on an error."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from support.drawn_results import PAIR, curves, lines_of, written
from support.synthetic_results import (
    TELEPORTED,
    make_job,
    write_job,
    write_jobs,
)

from nteleport.errors import ResultsError
from nteleport.plots.report import plot_results


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """One baseline and its teleported counterpart, five runs each."""
    write_jobs(tmp_path, PAIR)
    return tmp_path


def test_a_report_names_pictures_and_tables(pair: Path) -> None:
    report = plot_results(pair, metrics=["val_accuracy", "train_loss"], group_by=["teleport"], boxplot=True)
    assert [path.relative_to(pair).as_posix() for path in report.files] == [
        f"plots/digits-mlp-{metric}-{kind}.{suffix}"
        for metric in ("val_accuracy", "train_loss")
        for kind in ("curves", "boxes")
        for suffix in ("png", "csv")
    ]
    assert all(path.stat().st_size > 0 for path in report.files)
    assert sorted(path.name for path in (pair / "plots").iterdir()) == sorted(
        path.name for path in report.files
    )


def test_the_table_beside_curves_is_what_they_show(pair: Path) -> None:
    plot_results(pair, metrics=["val_accuracy"], group_by=["teleport", "optimizer"])
    table = pd.read_csv(pair / "plots" / "digits-mlp-val_accuracy-curves.csv")
    figure = curves(pair)
    assert list(table.columns) == [
        "dataset", "model", "teleport", "optimizer", "group", "metric", "epoch", "n", "mean", "std",
    ]  # fmt: skip
    for group, (label, rows) in enumerate(table.groupby("group", sort=False)):
        assert label == ["no teleport", "teleported"][group]
        epochs, means = lines_of(figure, group)
        assert rows["epoch"].tolist() == epochs.tolist()
        assert rows["mean"].tolist() == means.tolist()
    assert set(table["teleport"]) == {"no teleport", TELEPORTED.label}
    assert set(table["n"]) == {5}


def test_the_table_beside_curves_holds_what_the_band_shows(pair: Path) -> None:
    for band, columns in (("std", ["std"]), ("minmax", ["min", "max"]), ("none", [])):
        plot_results(pair, metrics=["val_accuracy"], group_by=["teleport"], band=band)
        table = pd.read_csv(pair / "plots" / "digits-mlp-val_accuracy-curves.csv")
        assert list(table.columns[table.columns.get_loc("mean") + 1 :]) == columns
        if band == "minmax":
            for mode, label in (("no_teleport", "no teleport"), ("random", "teleported")):
                rows, runs = table[table["group"] == label], written(PAIR, mode)
                assert rows["min"].tolist() == runs.min(axis=0).tolist()
                assert rows["max"].tolist() == runs.max(axis=0).tolist()


def test_the_table_beside_boxes_is_what_they_show(pair: Path) -> None:
    plot_results(pair, metrics=["val_accuracy"], group_by=["teleport"], boxplot=True, box_epochs=[3, 8])
    table = pd.read_csv(pair / "plots" / "digits-mlp-val_accuracy-boxes.csv")
    assert table["epoch"].tolist() == [3, 8, 3, 8]
    for row in table.to_dict("records"):
        values = written(PAIR, "no_teleport" if row["group"] == "no teleport" else "random")[:, row["epoch"]]
        assert sorted(map(float, row["points"].split())) == sorted(values)
        assert row["median"] == np.median(values)


@pytest.mark.parametrize(("fmt", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_same_results_give_the_same_files(pair: Path, fmt: str, begins: bytes) -> None:
    contents = []
    for folder in ("first", "second"):
        report = plot_results(
            pair,
            metrics=["val_accuracy"],
            group_by=["teleport"],
            boxplot=True,
            out_dir=pair / folder,
            fmt=fmt,
        )
        contents.append([path.read_bytes() for path in report.files])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(begins)
    assert not re.search(rb"CreationDate|ModDate|dc:date", contents[0][0])


def test_a_user_s_matplotlibrc_neither_matters_nor_changes(pair: Path) -> None:
    before = plot_results(pair, metrics=["val_accuracy"]).files[0].read_bytes()
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": True, "savefig.dpi": 20}):
        settings = dict(mpl.rcParams)
        after = plot_results(pair, metrics=["val_accuracy"]).files[0].read_bytes()
        assert dict(mpl.rcParams) == settings
    assert before == after


def test_drawing_warns_of_nothing(pair: Path) -> None:
    """No empty slices, no missing glyphs, no deprecated calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_results(pair, boxplot=True)


def test_warnings_of_a_panel_come_once_however_many_metrics(tmp_path: Path) -> None:
    write_jobs(tmp_path, [job for job in PAIR if (job.run, job.teleportation.mode) != (0, "random")])
    report = plot_results(tmp_path, metrics=["val_accuracy", "train_loss"])
    assert len(report.warnings) == 1


def test_skipped_jobs_are_named(pair: Path) -> None:
    (pair / PAIR[0].name / "hparams.yml").unlink()
    assert any(PAIR[0].name in warning for warning in plot_results(pair).warnings)


def test_copies_of_a_job_in_several_subfolders_are_named(tmp_path: Path) -> None:
    write_jobs(tmp_path / "a", PAIR)
    write_jobs(tmp_path / "b", PAIR[:1])
    name = PAIR[0].name
    assert plot_results(tmp_path).warnings[0] == (
        "1 of the jobs are in several subfolders and each copy counts as a run, "
        f"such as a/{name} and b/{name}"
    )


def test_a_metric_without_values_is_a_warning_and_no_picture(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "val_accuracy": 0.5}]
    write_job(tmp_path, make_job(epochs=1), rows)
    report = plot_results(tmp_path, metrics=["val_accuracy", "grad_norm"])
    assert report.warnings == ("MLP on digits: no values of grad_norm, nothing drawn",)
    assert [path.name for path in report.files] == [
        "digits-mlp-val_accuracy-curves.png",
        "digits-mlp-val_accuracy-curves.csv",
    ]


def test_an_epoch_that_one_picture_lacks_is_a_warning(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(epochs=3))
    write_job(tmp_path, make_job(epochs=9, model="vgg16_bn"))
    report = plot_results(tmp_path, metrics=["val_accuracy"], boxplot=True, box_epochs=[1, 8])
    assert report.warnings == ("MLP on digits: no values of val_accuracy at epoch 8",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["val_acuracy"]}, "unknown metric 'val_acuracy', did you mean 'val_accuracy'"),
        ({"group_by": ["optimiser"]}, "unknown hyper-parameter 'optimiser', did you mean 'optimizer'"),
        ({"boxplot": True, "box_epochs": [10]}, "no epoch 10 .* epochs 0 to 9"),
        ({"boxplot": True, "box_epochs": [-1]}, "no epoch -1"),
        ({"fmt": "gif"}, "unknown format 'gif'"),
        ({"band": "minmaxx"}, "unknown band 'minmaxx', did you mean 'minmax'"),
        ({"legend_pos": "lower rigth"}, "unknown place .* 'lower rigth', did you mean 'lower right'.*best"),
    ],
    ids=["metric", "group", "epoch", "negative", "format", "band", "legend"],
)
def test_a_wrong_name_is_an_error_and_nothing_is_written(
    pair: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ResultsError, match=message):
        plot_results(pair, **options)  # type: ignore[arg-type]
    assert not (pair / "plots").exists()


def test_results_without_an_epoch_are_an_error(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(), [], state=None)
    with pytest.raises(ResultsError, match="none of its 1 jobs has a whole epoch yet"):
        plot_results(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(pair: Path) -> None:
    (pair / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        plot_results(pair, out_dir=pair / "file")
