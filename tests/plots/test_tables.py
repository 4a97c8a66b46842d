"""The numbers of a picture are those of the jobs: means, deviations, quartiles, whiskers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import boxplot_stats
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from support.drawn_results import EPOCHS, PAIR, boxes, curves, lines_of, read_panel, written
from support.synthetic_results import (
    make_job,
    write_job,
    write_jobs,
)

from nteleport.plots import tables
from nteleport.plots.style import DARK, LIGHT


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """One baseline and its teleported counterpart, five runs each."""
    write_jobs(tmp_path, PAIR)
    return tmp_path


@pytest.mark.parametrize("metric", ["val_accuracy", "train_loss", "weight_norm"])
def test_curves_are_means_over_runs(pair: Path, metric: str) -> None:
    figure = curves(pair, metric)
    for group, mode in enumerate(["no_teleport", "random"]):
        epochs, means = lines_of(figure, group)
        np.testing.assert_array_equal(epochs, range(EPOCHS))
        np.testing.assert_allclose(means, written(PAIR, mode, metric).mean(axis=0), rtol=1e-13)


def test_bands_are_one_sample_standard_deviation_wide(pair: Path) -> None:
    figure = curves(pair)
    bands = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    for band, mode in zip(bands, ["no_teleport", "random"], strict=True):
        values = written(PAIR, mode)
        corners = band.get_paths()[0].vertices
        for epoch in range(EPOCHS):
            mean = sum(values[:, epoch]) / 5
            std = math.sqrt(sum((value - mean) ** 2 for value in values[:, epoch]) / 4)
            at_epoch = corners[corners[:, 0] == epoch, 1]
            assert at_epoch.min() == pytest.approx(mean - std, rel=1e-12)
            assert at_epoch.max() == pytest.approx(mean + std, rel=1e-12)


def test_bands_of_the_extremes_span_the_runs(pair: Path) -> None:
    figure = curves(pair, band="minmax")
    bands = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    for band, mode in zip(bands, ["no_teleport", "random"], strict=True):
        corners = band.get_paths()[0].vertices
        for epoch in range(EPOCHS):
            runs = sorted(written(PAIR, mode)[:, epoch])
            at_epoch = corners[corners[:, 0] == epoch, 1]
            assert (at_epoch.min(), at_epoch.max()) == (runs[0], runs[-1])
    assert "band: min to max" in figure.texts[1].get_text()


def test_curves_without_a_band_have_none(pair: Path) -> None:
    figure = curves(pair, band="none")
    assert not [path for each in figure.axes[0].collections for path in each.get_paths() if len(path)]
    assert figure.texts[1].get_text() == "mean"
    np.testing.assert_allclose(lines_of(figure, 0)[1], written(PAIR, "no_teleport").mean(axis=0), rtol=1e-13)


def test_one_run_has_no_band(tmp_path: Path) -> None:
    write_job(tmp_path, make_job(epochs=3))
    for band in tables.BANDS:
        assert curves(tmp_path, band=band).texts[1].get_text() == "mean"


def test_boxes_are_quartiles_with_tukey_s_whiskers(pair: Path) -> None:
    results, panel = read_panel(pair)
    table = tables.box_table(tables.panel_values(results, panel, "val_accuracy"), [0, 4, 9])
    for group, mode in enumerate(["no_teleport", "random"]):
        for epoch in (0, 4, 9):
            values = written(PAIR, mode)[:, epoch]
            (row,) = table[(table["group"] == group) & (table["epoch"] == epoch)].to_dict("records")
            assert row["n"] == 5
            np.testing.assert_allclose(
                [row["q1"], row["median"], row["q3"]], np.quantile(values, [0.25, 0.5, 0.75]), rtol=1e-13
            )
            (expected,) = boxplot_stats(values)
            assert (row["whisker_low"], row["whisker_high"]) == (expected["whislo"], expected["whishi"])
            assert sorted(row["points"]) == sorted(values)


def test_whiskers_agree_with_matplotlib_on_awkward_samples() -> None:
    """Matplotlib's own statistics are the oracle: samples with outliers, ties, whiskers inside boxes."""
    draw = np.random.default_rng(0)
    samples = [draw.standard_cauchy(size).round(draw.integers(0, 3)) for size in range(1, 30)]
    samples += [np.array([-100.0, 1.0, 1.0, 1.0]), np.array([-1.0, -1.0, -1.0, 100.0])]
    for values in samples:
        size = len(values)
        frame = pd.DataFrame({"group": 0, "job": range(size), "epoch": 0, "value": values})
        (row,) = tables.box_table(frame, [0]).to_dict("records")
        (expected,) = boxplot_stats(values)
        for name, key in zip(tables.QUANTITIES, ["whislo", "q1", "med", "q3", "whishi"], strict=True):
            assert row[name] == pytest.approx(expected[key], rel=1e-13), (values, name)
        if size > tables.FEW:
            assert sorted(row["points"]) == sorted(expected["fliers"])


def test_the_box_picture_shows_the_table(pair: Path) -> None:
    figure = boxes(pair, [2, 7])
    drawn = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    edges = {
        (to_hex(each.get_facecolor()[0]), path.vertices[:, 1].min(), path.vertices[:, 1].max())
        for each in drawn
        if len(each.get_facecolor())
        for path in each.get_paths()
    }
    expected = set()
    for color, mode in ((LIGHT[0], "no_teleport"), (DARK[0], "random")):
        for epoch in (2, 7):
            low, high = np.quantile(written(PAIR, mode)[:, epoch], [0.25, 0.75])
            expected.add((color.lower(), low, high))
    assert len(edges) == len(expected)
    for got, want in zip(sorted(edges), sorted(expected), strict=True):
        assert got[0] == want[0]
        assert got[1:] == pytest.approx(want[1:], rel=1e-12)


def test_boxes_of_one_epoch_stand_together_over_its_label(pair: Path) -> None:
    figure = boxes(pair, [2, 7])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "7"]
    first, second = axes.get_xticks()
    points = [np.unique(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    places = sorted(place for group in points for place in group)
    assert (places[0] + places[1]) / 2 == pytest.approx(first)
    assert (places[2] + places[3]) / 2 == pytest.approx(second)
    assert places[1] - places[0] < places[2] - places[1]


def test_points_of_boxes_are_the_runs(pair: Path) -> None:
    figure = boxes(pair, [4])
    drawn = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    for values, mode in zip(drawn, ["no_teleport", "random"], strict=True):
        assert sorted(values) == sorted(written(PAIR, mode)[:, 4])


@pytest.mark.parametrize(
    ("epochs", "expected"), [(100, (30, 60, 99)), (10, (3, 6, 9)), (3, (0, 1, 2)), (2, (0, 1)), (1, (0,))]
)
def test_boxes_stand_at_an_early_a_middle_and_the_last_epoch(epochs: int, expected: tuple[int, ...]) -> None:
    assert tables.early_middle_last(pd.DataFrame({"epoch": range(epochs)})) == expected


def test_values_that_are_not_finite_count_as_missing(tmp_path: Path) -> None:
    for run, values in enumerate([[0.5, 0.5], [float("nan"), 0.7], [float("inf"), 0.9]]):
        rows = [{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values)]
        write_job(tmp_path, make_job(run=run, epochs=2), rows)
    results, panel = read_panel(tmp_path)
    table = tables.curve_table(tables.panel_values(results, panel, "val_loss"))
    assert table["n"].tolist() == [1, 3]
    assert table["mean"].tolist() == pytest.approx([0.5, 0.7])
    assert table["std"].isna().tolist() == [True, False]
