"""The files of a comparison: tables that agree with it, pictures that show it, and the command."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from support.compared_results import (
    LAYER,
    PLAIN,
    RANDOM,
    hparams_of,
    tuning_rows,
    write_arms,
    write_run,
    write_tuning_csv,
)

from nteleport.cli.app import nteleport
from nteleport.comparison import Comparison, compare
from nteleport.comparison.pictures import draw_forest, draw_pairs, write_pictures
from nteleport.comparison.tables import as_csv, as_json, as_markdown
from nteleport.jobs.table import read_results
from nteleport.jobs.tuning import read_tuning

PLAINS = [90.0, 91.5, 89.0, 90.5, 92.0, 88.5, 91.0, 90.0]
VALUES = {
    PLAIN: PLAINS,
    RANDOM: [each + 2 for each in PLAINS],
    LAYER: [*(each - 1 for each in PLAINS[:7]), 91.5],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_arms(tmp_path / "out", VALUES)
    write_tuning_csv(tmp_path / "out", tuning_rows(VALUES))
    return tmp_path / "out"


@pytest.fixture
def comparison(folder: Path) -> Comparison:
    return compare(
        read_results(folder), outcomes=["test_accuracy", "epochs_to:0.9"], tuning=read_tuning(folder)
    )


def test_csv_and_json_have_every_digit(comparison: Comparison) -> None:
    table = pd.read_csv(io.StringIO(as_csv(comparison)))
    assert table["difference"].tolist() == comparison.rows["difference"].tolist()
    assert table["verdict"].dropna().tolist() == comparison.verdicts["verdict"].tolist()
    content = json.loads(as_json(comparison), parse_constant=pytest.fail)
    assert [row["p_holm"] for row in content["rows"]] == [
        None if math.isnan(p) else p for p in comparison.rows["p_holm"]
    ]
    assert [pair["value"] for pair in content["pairs"]] == comparison.pairs["value"].tolist()
    assert content["notes"] == list(comparison.notes)
    assert content["outcomes"][1]["name"] == "epochs_to:0.9"


def test_markdown_begins_with_what_a_reader_must_know(comparison: Comparison) -> None:
    lines = as_markdown(comparison).splitlines()
    assert lines[0] == f"- {comparison.notes[0]}"
    row = next(line for line in lines if line.startswith("| random") and "test_accuracy" in line)
    assert "| 8 | 90.31 % | 92.31 % | +2 [2, 2] | 0.0078 | 0.016 | 1 (± 0.5) | better |" in row
    assert "**no arms to tell**" in "\n".join(lines) or "**inconclusive**" in "\n".join(lines)


def test_names_from_files_are_text_in_markdown_and_in_pictures(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS})
    for run in range(8):
        evil = hparams_of(RANDOM, 100 + run) | {"teleport": "<script>|[a](b)\n# x $\\frac{ *y* _z_ `c` $"}
        write_run(tmp_path, evil, test_accuracy=0.9)
    found = compare(read_results(tmp_path))
    text = as_markdown(found)
    assert "<script>" not in text
    assert "&lt;script&gt;\\|\\[a\\](b) # x $\\\\frac{ \\*y\\* \\_z\\_ \\`c\\` $" in text
    assert all(line.count(" | ") == 9 for line in text.splitlines() if line.startswith("| &lt;"))
    assert len(write_pictures(found, tmp_path / "pictures")) == 2


def drawn_points(figure: Figure) -> list[tuple[float, float]]:
    lines = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() not in ("None", "", None)
    ]
    return [tuple(map(float, point)) for line in lines for point in np.asarray(line.get_xydata())]


def test_the_forest_shows_every_difference_and_the_scatter_every_pair(comparison: Comparison) -> None:
    outcome = comparison.outcomes[0]
    rows = comparison.rows[comparison.rows["outcome"] == outcome.name]
    forest = draw_forest(comparison, outcome)
    assert [x for x, _ in drawn_points(forest)] == rows["difference"].tolist()
    labels = [label.get_text() for label in forest.axes[0].get_yticklabels()]
    assert labels[1:] == [f"{arm}  (n = 8)" for arm in rows["arm"]]
    pairs = comparison.pairs[comparison.pairs["outcome"] == outcome.name]
    expected = pairs[["baseline", "value"]].itertuples(index=False)
    assert sorted(drawn_points(draw_pairs(comparison, outcome))) == sorted(tuple(pair) for pair in expected)


def test_pictures_of_nothing_are_empty(folder: Path) -> None:
    found = compare(read_results(folder), outcomes=["train_loss", "test_loss"], tuning=read_tuning(folder))
    assert found.rows.loc[found.rows["outcome"] == "train_loss", "n"].tolist() == [0, 0]
    assert len(write_pictures(found, folder / "pictures")) == 4


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(nteleport, ["compare", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_table_and_writes_pictures(folder: Path) -> None:
    code, out, err = run(folder, "--outcome", "test_accuracy,epochs_to:0.9", "--by", "dataset", "model")
    assert code == 0
    assert out.startswith("- ")
    assert "## digits, mlp\n" in out
    names = ["test-accuracy-forest", "test-accuracy-pairs", "epochs-to-0.9-forest", "epochs-to-0.9-pairs"]
    assert err.split() == [str(folder / "plots" / f"compare-{name}.png") for name in names]
    assert all((folder / "plots" / f"compare-{name}.png").stat().st_size > 5000 for name in names)


@pytest.mark.parametrize("ending", ["md", "csv", "json"])
def test_the_command_writes_the_format_of_the_file(ending: str, folder: Path, tmp_path: Path) -> None:
    code, out, err = run(folder, "-o", tmp_path / f"table.{ending}", "--no-plots")
    assert (code, out) == (0, "")
    assert err.startswith("warning: ")
    printed = run(folder, "--format", ending, "--no-plots")[1]
    assert (tmp_path / f"table.{ending}").read_text() == printed
    assert not (folder / "plots").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outcome", "tset_accuracy"], "did you mean 'test_accuracy'?"),
        (["--baseline", "randm"], "did you mean 'random'?"),
        (["--by", "optimiser"], "did you mean 'optimizer'?"),
        (["--equivalent", "test_accuracy"], "expected OUTCOME=BAND"),
        (["--equivalent", "test_accuracy=-1"], "expected a number above 0"),
        (["-o", "table.txt"], "expected a file that ends in .md, .csv or .json"),
        (["-o", "table.csv", "--format", "md"], "expected one format"),
        (["-o", "/proc/none/table.csv"], "cannot write /proc/none/table.csv"),
        (["--out-dir", "/proc/none"], "cannot write /proc/none"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(words: list[str], message: str, folder: Path) -> None:
    code, _, err = run(folder, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_damaged_table_of_tuning_is_one_message(folder: Path) -> None:
    (folder / "tuning.csv").write_text("dataset,model\n1,2\n")
    code, _, err = run(folder)
    assert code == 2
    assert "tuning.csv is not a table of tuning" in err
