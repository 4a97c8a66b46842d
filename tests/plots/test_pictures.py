"""What a reader sees: units, colors that stay apart, a legend that says how many runs, nothing covered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox
from support.drawn_results import PAIR, boxes, curves, legend_texts, lines_of
from support.synthetic_results import (
    BASELINE,
    PSEUDO,
    TELEPORTED,
    make_job,
    matrix,
    sgd,
    write_job,
    write_jobs,
)

from nteleport.plots.style import COLUMN, DARK, LIGHT, PAGE, paper_style


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """One baseline and its teleported counterpart, five runs each."""
    write_jobs(tmp_path, PAIR)
    return tmp_path


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
    """CIE L*a*b* of a color after a simulation of color blindness in linear RGB."""
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


def test_the_legend_shows_which_groups_lack_runs(tmp_path: Path) -> None:
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


def _corner(box: Bbox, axes: Bbox) -> tuple[str, str]:
    """Where the middle of a box is in its axes, in words."""
    x, y = ((box.x0 + box.x1) / 2 - axes.x0) / axes.width, ((box.y0 + box.y1) / 2 - axes.y0) / axes.height
    return ("lower" if y < 0.4 else "upper" if y > 0.6 else "center"), ("left" if x < 0.5 else "right")


@pytest.mark.parametrize("settings", [1, 2, 20])
@pytest.mark.parametrize("place", ["lower right", "upper left", "best"])
@pytest.mark.parametrize("kind", ["curves", "boxes"])
def test_a_placed_legend_is_whole_and_inside_the_axes(
    tmp_path: Path, settings: int, place: str, kind: str
) -> None:
    optimizers = [sgd(lr=(each + 1) / 1000, momentum=0.9 + each / 1000) for each in range(settings)]
    write_jobs(tmp_path, matrix(optimizers=optimizers, runs=1, epochs=3))
    figure = curves(tmp_path, legend=place) if kind == "curves" else boxes(tmp_path, [0, 1], legend=place)
    below = curves(tmp_path) if kind == "curves" else boxes(tmp_path, [0, 1])
    with paper_style():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        axes = figure.axes[0].get_window_extent(renderer)
        legend = figure.axes[0].get_legend()
        box = legend.get_window_extent(renderer)
    assert not figure.legends
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == legend_texts(below)
    assert axes.x0 <= box.x0 < box.x1 <= axes.x1
    assert axes.y0 <= box.y0 < box.y1 <= axes.y1
    if settings == 1 and place != "best":
        assert " ".join(_corner(box, axes)) == place


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
