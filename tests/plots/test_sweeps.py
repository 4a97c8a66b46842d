"""Curves of tuning: what is read from the table, and what the picture shows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from matplotlib.axes import Axes
from support.compared_results import LAYER, PLAIN, RANDOM, tuning_rows, write_tuning_csv

from nteleport.cli.plot import plot
from nteleport.errors import ResultsError
from nteleport.jobs.tuning import read_tuning
from nteleport.plots.sweeps import draw_sweep, sweep_table

GRID = (0.01, 0.1, 1.0)
PLAIN_SCORES = {0.01: [0.80, 0.86], 0.1: [0.90, 0.92], 1.0: [0.10, 0.50]}
RANDOM_SCORES = {0.01: [0.70, 0.72], 0.1: [0.91, 0.93], 1.0: [0.94, 0.96]}


def write(out: Path, **more: object) -> pd.DataFrame:
    rows = tuning_rows([PLAIN], grid=GRID, scores=PLAIN_SCORES, **more)  # type: ignore[arg-type]
    rows += tuning_rows([RANDOM], grid=GRID, scores=RANDOM_SCORES, chosen=1.0, **more)  # type: ignore[arg-type]
    write_tuning_csv(out, rows)
    table = read_tuning(out)
    assert table is not None
    return table


def run(out: Path, *words: str) -> Result:
    return CliRunner().invoke(plot, [str(out), *words])


def test_a_point_is_the_mean_of_its_runs_between_the_lowest_and_the_highest(tmp_path: Path) -> None:
    table = sweep_table(write(tmp_path), "optimizer.lr")
    plain = table[table["arm"] == "no teleport"]
    assert plain["mean"].tolist() == pytest.approx([0.83, 0.91, 0.30])
    assert (plain["min"].tolist(), plain["max"].tolist()) == ([0.8, 0.9, 0.1], [0.86, 0.92, 0.5])
    assert plain["n"].tolist() == [2, 2, 2]
    assert table.loc[table["chosen"], ["arm", "optimizer.lr"]].to_numpy().tolist() == [
        ["no teleport", 0.1],
        ["teleported", 1.0],
    ]


def test_the_width_of_the_good_range_is_where_one_point_is_lost(tmp_path: Path) -> None:
    """Straight lines in the logarithm: 8 points in the decade below the best, 61 in that above."""
    table = sweep_table(write(tmp_path), "optimizer.lr").drop_duplicates("arm").set_index("arm")
    plain, moved = table.loc["no teleport"], table.loc["teleported"]
    assert plain["good_decades"] == pytest.approx(1 / 8 + 1 / 61)
    assert not plain["open_below"]
    assert not plain["open_above"]
    assert moved["good_decades"] == pytest.approx(1 / 3)
    assert moved["open_above"]


def test_other_keys_are_at_their_best_and_points_without_a_score_are_left_out(tmp_path: Path) -> None:
    table = write(tmp_path)
    worse = table.assign(**{"optimizer.weight_decay": 0.1, "chosen": False})
    worse[["run 0", "run 1", "score"]] -= 0.05
    both = pd.concat([table.assign(**{"optimizer.weight_decay": 0.0}), worse], ignore_index=True)
    both.loc[both.index[-1], ["run 1", "score"]] = np.nan
    order = [*table.columns[:8], "optimizer.weight_decay", *table.columns[8:]]
    found, alone = sweep_table(both[order], "optimizer.lr"), sweep_table(table, "optimizer.lr")
    assert found["mean"].tolist() == alone["mean"].tolist()
    assert set(found["optimizer.weight_decay"]) == {0.0}


def test_a_key_that_another_experiment_in_the_folder_does_not_tune_is_drawn(tmp_path: Path) -> None:
    table = write(tmp_path)
    other = table.assign(**{"optimizer": "AdamW", "optimizer.lr": np.nan})
    found = sweep_table(pd.concat([other, table], ignore_index=True), "optimizer.lr")
    assert set(found["optimizer"]) == {"SGD momentum=0.9"}


def lines(axes: Axes) -> list[list[float]]:
    return [np.asarray(line.get_ydata(), dtype=float).tolist() for line in axes.lines]


def test_the_picture_shows_the_curves_the_chosen_points_and_the_widths(tmp_path: Path) -> None:
    table = sweep_table(write(tmp_path), "optimizer.lr")
    curves, bars = draw_sweep(table, "optimizer.lr").axes
    assert curves.get_xscale() == "log"
    shown = lines(curves)
    for expected in ([0.83, 0.91, 0.30], [0.91], [0.71, 0.92, 0.95], [0.95]):  # a curve, its ring, …
        assert any(len(each) == len(expected) and np.allclose(each, expected) for each in shown)
    assert [text.get_text() for text in bars.texts] == ["0.1", "≥ 0.3"]


def test_each_cell_has_a_panel_named_after_what_differs(tmp_path: Path) -> None:
    rows = [
        row for name in ("none", "kaiming") for row in tuning_rows([PLAIN, RANDOM, LAYER], initializer=name)
    ]
    write_tuning_csv(tmp_path, rows)
    tuning = read_tuning(tmp_path)
    assert tuning is not None
    figure = draw_sweep(sweep_table(tuning, "optimizer.lr"), "optimizer.lr")
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        "PyTorch's init",
        "kaiming init",
    ]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:3] == ["no teleport", "teleported", "layer rates"]


def test_the_command_writes_the_picture_and_its_table(tmp_path: Path) -> None:
    table = write(tmp_path)
    outcome = run(tmp_path, "--curve", "optimizer.lr")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    picture, numbers = map(Path, outcome.stdout.split())
    assert picture == tmp_path / "plots" / "tuning-optimizer.lr.png"
    assert picture.stat().st_size > 10_000
    assert pd.read_csv(numbers)["mean"].tolist() == sweep_table(table, "optimizer.lr")["mean"].tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curve", "optimizer.rl"], "'optimizer.rl' is no tuned key with numbers above 0"),
        (["--curve", "optimizer.lr", "--metrics", "val_loss"], "expected only --out-dir and --format"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, words: list[str], message: str) -> None:
    write(tmp_path)
    outcome = run(tmp_path, *words)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_a_folder_without_tuning_and_a_damaged_table_are_refused(tmp_path: Path) -> None:
    assert (
        "expected the --out of `nteleport train` with a section tune"
        in run(tmp_path, "--curve", "optimizer.lr").stderr
    )
    table = write(tmp_path)
    with pytest.raises(ResultsError, match="expected training parameters as JSON"):
        draw_sweep(sweep_table(table.assign(training="[" * 10_000), "optimizer.lr"), "optimizer.lr")
    with pytest.raises(ResultsError, match="no point of the tuning has all its scores"):
        sweep_table(table.assign(score=np.nan), "optimizer.lr")
