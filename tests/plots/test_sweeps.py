"""Scores against a tuned key: the table, what the picture shows of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.training_jobs import small_job

from nteleport.cli.plot import plot
from nteleport.errors import ResultsError
from nteleport.jobs.job import Component, Job
from nteleport.jobs.tuning import TuningRow, arm_of, read_tuning, write_tuning
from nteleport.plots.report import plot_sweep
from nteleport.plots.style import paper_style
from nteleport.plots.sweeps import draw_sweep, sweep_table

RATES = (0.001, 0.01, 0.1, 1.0)
SCORES = {  # of each weight decay, over the rates; the runs are one point apart on both sides
    "no_teleport": {0: (0.3, 0.5, 0.8, 0.1), 0.01: (0.2, 0.6, 0.7, 0.1)},
    "random": {0: (0.4, 0.9, 0.895, 0.1), 0.01: (0.4, 0.8, 0.5, 0.3)},
}


def arm(mode: str, batch_size: int = 32) -> Job:
    job = small_job(mode, validation=0.2, batch_size=batch_size)
    return replace(job, optimizer=Component("SGD"))


def rows(job: Job) -> list[TuningRow]:
    scores = SCORES[job.teleportation.mode]
    best = max(
        (score, -decay, rate) for decay in scores for rate, score in zip(RATES, scores[decay], strict=True)
    )
    return [
        TuningRow(
            arm_of(job),
            {"optimizer.lr": rate, "optimizer.weight_decay": decay},
            0,
            {0: score - 0.01, 1: score + 0.01},
            "val_accuracy",
            chosen=(score, -decay, rate) == best,
        )
        for decay in scores
        for rate, score in zip(RATES, scores[decay], strict=True)
    ]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_tuning(tmp_path, [*rows(arm("no_teleport")), *rows(arm("random"))])
    return tmp_path


def table_of(out: Path, key: str = "optimizer.lr") -> pd.DataFrame:
    tuning = read_tuning(out)
    assert tuning is not None
    return sweep_table(tuning, key)


def test_the_table_has_the_best_of_the_other_keys(out: Path) -> None:
    table = table_of(out)
    assert table["arm"].tolist() == ["no teleport"] * 4 + ["teleported"] * 4
    assert table["optimizer.lr"].tolist() == [*RATES, *RATES]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.6, 0.8, 0.1, 0.4, 0.9, 0.895, 0.3])
    assert table["optimizer.weight_decay"].tolist() == [0, 0.01, 0, 0, 0, 0, 0, 0.01]
    assert (table["mean"] - table["min"]).tolist() == pytest.approx([0.01] * 8)
    assert (table["max"] - table["mean"]).tolist() == pytest.approx([0.01] * 8)
    assert table.loc[table["chosen"], "optimizer.lr"].tolist() == [0.1, 0.01]


def test_the_good_range_is_by_hand(out: Path) -> None:
    """Down to 0.89: a fiftieth of a decade below 0.01, and 0.005 of 0.595 of a decade above 0.1."""
    found = table_of(out).iloc[-1]
    assert found["good_decades"] == pytest.approx(0.01 / 0.5 + 1 + 0.005 / 0.595)
    assert not found["open_below"] | found["open_above"]


def panels(figure: Figure) -> list[str]:
    return [
        axes.get_title() for axes in figure.axes if axes.get_ylim()[0] < axes.get_ylim()[1] and axes.axison
    ]


def test_the_picture_shows_the_table(out: Path) -> None:
    table = table_of(out)
    figure = draw_sweep(table, "optimizer.lr")
    upper, lower = figure.axes
    lines = [line for line in upper.lines if len(line.get_xdata()) == 4]
    for line, (_, points) in zip(lines, table.groupby("arm", sort=False), strict=True):
        assert list(line.get_xdata()) == points["optimizer.lr"].tolist()
        assert list(line.get_ydata()) == points["mean"].tolist()
    rings = [list(line.get_xdata()) for line in upper.lines if line.get_markersize() > 7]
    assert rings == [[0.1], [0.01]]
    assert upper.get_xscale() == "log"
    assert lower.texts[1].get_text() == "1.0"
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()][:3] == [
        "no teleport",
        "teleported",
        "chosen learning rate",
    ]


def test_each_cell_has_a_panel(tmp_path: Path) -> None:
    sizes = (16, 32, 64, 128, 256)
    jobs = [arm(mode, size) for size in sizes for mode in ("no_teleport", "random")]
    write_tuning(tmp_path, [row for job in jobs for row in rows(job)])
    figure = draw_sweep(table_of(tmp_path), "optimizer.lr")
    assert panels(figure) == [f"batch size {size}" for size in sizes]


def test_the_legend_covers_no_panel(out: Path) -> None:
    figure = draw_sweep(table_of(out), "optimizer.lr")
    with paper_style():
        FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_tightbbox())


def test_the_command_writes_picture_and_table(out: Path) -> None:
    result = CliRunner().invoke(plot, [str(out), "--curve", "optimizer.lr"])
    assert result.exit_code == 0, result.output
    assert result.output.split() == [
        str(out / "plots" / f"tuning-optimizer.lr.{kind}") for kind in ("png", "csv")
    ]
    written = pd.read_csv(out / "plots" / "tuning-optimizer.lr.csv")
    assert written["mean"].tolist() == table_of(out)["mean"].tolist()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optimizer.l", "expected one of optimizer.lr, did you mean 'optimizer.lr'"),
        ("optimizer.weight_decay", "no tuned key with numbers above 0"),
    ],
)
def test_a_key_that_has_no_such_axis_is_refused(out: Path, key: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        table_of(out, key)


def test_without_a_table_or_a_score_nothing_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no .*tuning\.csv: expected the --out of"):
        plot_sweep(tmp_path, "optimizer.lr")
    unknown = [replace(row, scores={0: None}) for row in rows(arm("random"))]
    write_tuning(tmp_path, unknown)
    with pytest.raises(ResultsError, match="no point of the tuning has all its scores yet"):
        plot_sweep(tmp_path, "optimizer.lr")
    write_tuning(
        tmp_path, [*rows(arm("random")), *[replace(r, scores={0: None}) for r in rows(arm("no_teleport"))]]
    )
    assert plot_sweep(tmp_path, "optimizer.lr").warnings == (
        "8 of 16 points have no score yet, and are left out",
    )
