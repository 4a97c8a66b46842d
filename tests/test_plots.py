"""Pictures show the numbers of the jobs, and the tables beside them the numbers of the pictures."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import boxplot_stats
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from synthetic_results import (
    BASELINE,
    PSEUDO,
    TELEPORTED,
    learning_curve,
    make_job,
    matrix,
    sgd,
    write_job,
    write_jobs,
)

from nteleport.errors import ResultsError
from nteleport.plots import plot_results, tables
from nteleport.plots.boxes import draw_boxes
from nteleport.plots.curves import draw_curves
from nteleport.plots.grouping import Panel, arrange
from nteleport.plots.style import COLUMN, DARK, LIGHT, PAGE, paper_style
from nteleport.results import Results, read_results
from nteleport.training.job import Job

EPOCHS = 10
PAIR = matrix(runs=5, epochs=EPOCHS)


def read_panel(out: Path, group_by: str = "teleport,optimizer") -> tuple[Results, Panel]:
    results = read_results(out)
    (panel,) = arrange(results, group_by.split(","))
    return results, panel


def curves(out: Path, metric: str = "val_accuracy", group_by: str = "teleport,optimizer") -> Figure:
    results, panel = read_panel(out, group_by)
    return draw_curves(tables.curve_table(tables.panel_values(results, panel, metric)), panel, metric)


def boxes(out: Path, epochs: Sequence[int], metric: str = "val_accuracy") -> Figure:
    results, panel = read_panel(out)
    table = tables.box_table(tables.panel_values(results, panel, metric), epochs)
    return draw_boxes(table, panel, metric, epochs)


def written(jobs: Sequence[Job], mode: str, metric: str = "val_accuracy") -> np.ndarray:
    """What was written for the jobs of one mode: runs × epochs."""
    chosen = [job for job in jobs if job.teleportation.mode == mode]
    return np.array([[row[metric] for row in learning_curve(job, job.training.epochs)] for job in chosen])


def lines_of(figure: Figure, group: int) -> np.ndarray:
    """The thick line of a group: epochs and means."""
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == str(group)]
    return np.array([line.get_xdata(), line.get_ydata()], dtype=float)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """One baseline and its teleported counterpart, five runs each."""
    write_jobs(tmp_path, PAIR)
    return tmp_path


# --- the numbers


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


# --- what a reader sees


def test_fractions_are_shown_in_per_cent(pair: Path) -> None:
    axes = curves(pair).axes[0]
    assert axes.get_ylabel() == "validation accuracy (%)"
    formatted = axes.yaxis.get_major_formatter().format_ticks([0.5, 0.925])
    assert formatted == ["50", "92.5"]


def test_a_loss_that_spans_decades_is_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for name, last in (("wide", 1e-4), ("narrow", 0.5)):
        rows = [{"epoch": 0, "train_loss": 2.3}, {"epoch": 1, "train_loss": last}]
        write_job(tmp_path / name, make_job(epochs=2), rows)
    assert curves(tmp_path / "wide", "train_loss").axes[0].get_yscale() == "log"
    assert curves(tmp_path / "narrow", "train_loss").axes[0].get_yscale() == "linear"


def test_the_title_is_model_and_data_set(pair: Path) -> None:
    assert curves(pair).texts[0].get_text() == "MLP on digits"
    assert curves(pair).axes[0].get_title() == ""


def test_a_pair_is_one_hue_light_and_dark(tmp_path: Path) -> None:
    write_jobs(tmp_path, matrix(optimizers=[sgd(), sgd(momentum=0.9)], runs=1, epochs=2))
    figure = curves(tmp_path)
    colors = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert [colors[str(group)] for group in range(4)] == [LIGHT[0], DARK[0], LIGHT[1], DARK[1]]


def test_several_teleportations_of_one_setting_have_hues_of_their_own(tmp_path: Path) -> None:
    write_jobs(tmp_path, matrix(teleportations=[BASELINE, TELEPORTED, PSEUDO], runs=1, epochs=2))
    colors = {line.get_label(): line.get_color() for line in curves(tmp_path).axes[0].lines}
    assert [colors[str(group)] for group in range(3)] == [LIGHT[-1], DARK[0], DARK[1]]


def test_several_teleportations_of_several_settings_differ_in_dashes(tmp_path: Path) -> None:
    jobs = matrix(
        optimizers=[sgd(), sgd(momentum=0.9)], teleportations=[BASELINE, TELEPORTED, PSEUDO], runs=1, epochs=2
    )
    write_jobs(tmp_path, jobs)
    lines = [line for line in curves(tmp_path).axes[0].lines if line.get_label().isdigit()]
    assert len({(line.get_color(), str(line.get_linestyle())) for line in lines}) == 6
    assert lines[1].get_color() == lines[2].get_color() == DARK[0]


def _seen_by(color: str, matrix: Sequence[Sequence[float]]) -> np.ndarray:
    """CIE L*a*b* of a colour after a simulation of colour blindness in linear RGB."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ np.clip(np.array(matrix) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(
    "vision",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ],
    ids=["full", "deuteranopia", "protanopia", "tritanopia"],
)
def test_colours_stay_apart_under_colour_blindness(vision: list[list[float]]) -> None:
    """Simulated after Machado, Oliveira and Fernandes (2009). A difference of 2.3 is just visible."""
    seen = [_seen_by(color, vision) for color in (*DARK, *LIGHT)]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 13
    assert min(light[0] - dark[0] for dark, light in zip(seen[:6], seen[6:], strict=True)) > 20


def test_the_legend_says_how_many_runs(pair: Path) -> None:
    assert legend_texts(curves(pair)) == ["no teleport (n = 5)", "teleported (n = 5)"]


def test_the_legend_of_a_matrix_has_a_line_a_setting(tmp_path: Path) -> None:
    write_jobs(tmp_path, matrix(optimizers=[sgd(lr) for lr in (0.1, 0.01, 0.001)], runs=2, epochs=2))
    assert legend_texts(curves(tmp_path)) == [
        "no teleport (n = 2)",
        "teleported (n = 2)",
        "lr 0.001",
        "lr 0.01",
        "lr 0.1",
    ]


def test_the_legend_tells_which_groups_lack_runs(tmp_path: Path) -> None:
    for job in matrix(optimizers=[sgd(), sgd(momentum=0.9)], runs=3, epochs=4):
        teleported = job.teleportation.mode == "random"
        if "momentum" in job.optimizer.kwargs and teleported and job.run == 0:
            continue
        if "momentum" not in job.optimizer.kwargs and teleported and job.run == 1:
            write_job(tmp_path, job, state=None, epochs=2)
        else:
            write_job(tmp_path, job)
    assert legend_texts(curves(tmp_path)) == [
        "no teleport",
        "teleported",
        "no momentum (n = 3; n = 2–3)",
        "momentum 0.9 (n = 3; n = 2 of 3)",
    ]


def test_a_group_without_values_stays_in_the_legend(tmp_path: Path) -> None:
    for job in matrix(runs=2, epochs=3):
        if job.teleportation.mode == "random":
            write_job(tmp_path, job, [], state="failed")
        else:
            write_job(tmp_path, job)
    assert legend_texts(curves(tmp_path)) == ["no teleport (n = 2)", "teleported (n = 0 of 2)"]


def test_a_curve_is_thin_where_runs_are_missing(tmp_path: Path) -> None:
    """A mean over the survivors of divergence must not look like a mean over all."""
    for run in range(3):
        rows = [{"epoch": epoch, "val_accuracy": 0.1 * (run + 1)} for epoch in range(5 if run else 2)]
        write_job(tmp_path, make_job(run=run, epochs=5), rows, state="finished" if run else "diverged")
    figure = curves(tmp_path)
    _, thick = lines_of(figure, 0)
    assert thick[:2].tolist() == pytest.approx([0.2, 0.2])
    assert np.isnan(thick[2:]).all()
    (thin,) = [line for line in figure.axes[0].lines if line.get_label() != "0"]
    assert np.asarray(thin.get_ydata()).tolist() == pytest.approx([0.2, 0.2, 0.25, 0.25, 0.25])
    assert thin.get_linewidth() < 1
    assert "fewer runs" in figure.texts[1].get_text()


@pytest.mark.parametrize("settings", [1, 2, 7, 20])
@pytest.mark.parametrize("draw", [curves, lambda out: boxes(out, [0, 1, 2])], ids=["curves", "boxes"])
def test_everything_is_inside_the_picture_and_off_the_data(
    tmp_path: Path, settings: int, draw: object
) -> None:
    optimizers = [sgd(lr=(each + 1) / 1000, momentum=0.9 + each / 1000) for each in range(settings)]
    write_jobs(tmp_path, matrix(optimizers=optimizers, runs=1, epochs=3))
    figure = draw(tmp_path)  # type: ignore[operator]
    with paper_style():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        axes = figure.axes[0].get_tightbbox(renderer)
        extents = [legend.get_window_extent(renderer) for legend in figure.legends]
    assert figure.get_size_inches()[0] in (COLUMN, PAGE)
    everything = [axes, *extents, *(text.get_window_extent(renderer) for text in figure.texts)]
    for box in everything:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1
    for first, second in itertools.combinations([axes, *extents], 2):
        assert not first.overlaps(second)


def test_letters_are_legible_in_a_column(pair: Path) -> None:
    figure = curves(pair)
    axes = figure.axes[0]
    texts = [
        *axes.get_xticklabels(),
        *axes.get_yticklabels(),
        axes.xaxis.label,
        axes.yaxis.label,
        *figure.texts,
    ]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    assert figure.get_size_inches()[0] == COLUMN
    assert min(text.get_fontsize() for text in texts) >= 7  # points, at the printed size


# --- files


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
    ],
    ids=["metric", "group", "epoch", "negative", "format"],
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
