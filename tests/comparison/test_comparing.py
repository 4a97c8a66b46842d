"""What is compared with what, and what is said of it: cells, pairs, outcomes, tuning, notes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import CensoredData, ecdf
from support.compared_results import (
    EPOCHS,
    LAYER,
    PLAIN,
    RANDOM,
    SHUFFLED,
    hparams_of,
    label_of,
    tuning_rows,
    write_arms,
    write_run,
    write_tuning_csv,
)

from nteleport.comparison import Comparison, compare
from nteleport.errors import ResultsError
from nteleport.jobs.table import read_results
from nteleport.jobs.tuning import read_tuning

PLAINS = [90.0, 91.5, 89.0, 90.5, 92.0, 88.5, 91.0, 90.0]
GAINS = [1.0, 1.5, 0.5, 2.0, 1.0, 1.5, 0.5, 1.0]
TELEPORTED = [a + b for a, b in zip(PLAINS, GAINS, strict=True)]


def compared(out: Path, *outcomes: str, **options: object) -> Comparison:
    return compare(
        read_results(out),
        outcomes=outcomes or ("test_accuracy",),
        tuning=read_tuning(out),
        **options,  # type: ignore[arg-type]
    )


def only_row(comparison: Comparison, mode: str = RANDOM) -> pd.Series:
    rows = comparison.rows[comparison.rows["mode"] == mode]
    assert len(rows) == 1
    return rows.iloc[0]


def tuned(out: Path, *modes: str, **options: object) -> None:
    write_tuning_csv(out, tuning_rows(modes, **options))  # type: ignore[arg-type]


def test_accuracies_are_compared_in_points_over_pairs_of_runs(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    tuned(tmp_path, PLAIN, RANDOM)
    found = compared(tmp_path)
    row = only_row(found)
    assert (row["n"], row["missing"], row["unit"]) == (8, 0, "%")
    assert row["baseline"] == pytest.approx(sum(PLAINS) / 8)
    assert row["value"] == pytest.approx(sum(TELEPORTED) / 8)
    assert row["difference"] == pytest.approx(sum(GAINS) / 8)
    spread = math.sqrt(sum((each - 1.125) ** 2 for each in GAINS) / 7)
    assert row["high"] - row["difference"] == pytest.approx(2.364624 * spread / math.sqrt(8), rel=1e-6)
    assert row["p"] == row["p_holm"] == 2 / 2**8
    assert row["point"] == row["baseline_point"] == "lr 0.1"
    assert found.pairs["difference"].tolist() == pytest.approx(GAINS)
    assert found.pairs["run"].tolist() == [str(100 + each) for each in range(8)]
    assert found.baseline == "no teleport"


def test_only_runs_with_everything_else_in_common_are_pairs(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS[:3], RANDOM: TELEPORTED[:3]})
    other_batches = {**hparams_of(RANDOM, 103), "training.batch_size": 7}
    write_run(tmp_path, other_batches, test_accuracy=0.1)
    other_seed = hparams_of(RANDOM, 103, seed=5)
    write_run(tmp_path, other_seed, test_accuracy=0.1)
    write_run(tmp_path, hparams_of(PLAIN, 103), test_accuracy=0.9)
    unfinished = hparams_of(RANDOM, 103)
    write_run(tmp_path, unfinished, test_accuracy=0.1, state=None)
    found = compared(tmp_path)
    assert only_row(found)["n"] == 3
    assert found.pairs["run"].tolist() == ["100", "101", "102"]
    assert any(note.startswith("test_accuracy: pairs are missing: 2 of 5") for note in found.notes)


def test_settings_within_a_cell_are_averaged_run_by_run(tmp_path: Path) -> None:
    for lr, gain in ((0.1, 1.0), (0.2, 3.0)):
        write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: [each + gain for each in PLAINS]}, lr=lr)
    row = only_row(compared(tmp_path, by=["dataset", "model"]))
    assert row["n"] == 8  # a run counts once, however many settings share its seed
    assert row["difference"] == pytest.approx(2.0)
    apart = compared(tmp_path, by=["optimizer"])
    assert apart.rows["difference"].tolist() == pytest.approx([1.0, 3.0])


def test_a_diverged_run_has_the_accuracy_of_chance(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS[:2], RANDOM: TELEPORTED[:2]})
    write_run(tmp_path, hparams_of(PLAIN, 102), test_accuracy=0.9)
    write_run(tmp_path, hparams_of(RANDOM, 102), state="diverged")
    found = compared(tmp_path, "test_accuracy", "divergences")
    accuracy, divergences = (
        found.rows[found.rows["outcome"] == name] for name in ("test_accuracy", "divergences")
    )
    assert found.pairs["value"].tolist()[2] == 10.0  # ten classes
    assert accuracy["difference"].item() == pytest.approx((1.0 + 1.5 - 80) / 3)
    assert divergences["difference"].item() == pytest.approx(100 / 3)


def reached_at(epoch: int | None) -> list[float]:
    """A curve that reaches 0.9 at an epoch, counted from 1."""
    return [0.95 if epoch is not None and at + 1 >= epoch else 0.5 for at in range(EPOCHS)]


PLAIN_EPOCHS = [4, 6, None, 8, None, 7, 9]
RANDOM_EPOCHS = [2, 3, 5, None, None, 4, 6]


def write_curves(out: Path, seconds: float = 1.0) -> None:
    for mode, epochs in ((PLAIN, PLAIN_EPOCHS), (RANDOM, RANDOM_EPOCHS)):
        for number, epoch in enumerate(epochs):
            write_run(
                out,
                hparams_of(mode, 100 + number),
                test_accuracy=0.9,
                curve=reached_at(epoch),
                seconds=seconds,
                analysis_seconds=0.0 if mode == PLAIN else 0.25,
            )


def test_runs_that_never_reach_the_target_count_as_the_horizon(tmp_path: Path) -> None:
    write_curves(tmp_path)
    found = compared(tmp_path, "epochs_to:0.9")
    row = only_row(found)
    differences = [-2, -3, -5, 2, 0, -3, -3]  # None counts as 10 epochs
    assert found.pairs["difference"].tolist() == differences
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert (row["horizon"], row["baseline_censored"], row["censored"]) == (10, 2, 2)


def area_under_survival(times: list[float | None], horizon: float) -> float:
    """The restricted mean as the area under Kaplan and Meier's curve, which scipy computes."""
    known = [time for time in times if time is not None]
    curve = ecdf(CensoredData(known, right=[horizon] * (len(times) - len(known)))).sf
    ends = [0.0, *(q for q in curve.quantiles if q < horizon), horizon]
    heights = [1.0, *(p for q, p in zip(curve.quantiles, curve.probabilities, strict=True) if q < horizon)]
    return float(sum(h * (b - a) for h, a, b in zip(heights, ends, ends[1:], strict=False)))


def test_restricted_means_are_areas_under_survival_curves(tmp_path: Path) -> None:
    write_curves(tmp_path)
    row = only_row(compared(tmp_path, "epochs_to:0.9"))
    assert row["baseline"] == pytest.approx(
        area_under_survival([float(e) if e else None for e in PLAIN_EPOCHS], 10)
    )
    assert row["value"] == pytest.approx(
        area_under_survival([float(e) if e else None for e in RANDOM_EPOCHS], 10)
    )


def test_restricted_means_of_exponential_times_are_those_of_theory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    epochs, differences = 8, []
    for folder in range(20):
        for mode, scale in ((PLAIN, 6.0), (RANDOM, 3.0)):
            for number, time in enumerate(rng.exponential(scale, 10)):
                curve = [0.95 if at + 1 >= time else 0.5 for at in range(epochs)]
                write_run(tmp_path / f"{folder}", hparams_of(mode, number), curve=curve, test_accuracy=0.9)
        differences += compared(tmp_path / f"{folder}", "epochs_to:0.9").pairs["difference"].tolist()

    def mean(scale: float) -> float:  # of min(⌈T⌉, 8): the sum of the chances to last beyond 0, 1, …, 7
        return sum(math.exp(-at / scale) for at in range(epochs))

    error = np.std(differences) / math.sqrt(len(differences))
    assert abs(np.mean(differences) - (mean(3.0) - mean(6.0))) < 3 * error


def test_seconds_count_the_analysis_and_end_with_the_shortest_training(tmp_path: Path) -> None:
    write_curves(tmp_path, seconds=2.0)
    write_run(
        tmp_path,
        hparams_of(PLAIN, 107),
        curve=reached_at(3),
        test_accuracy=0.9,
        seconds=1.5,
        analysis_seconds=0,
    )
    write_run(
        tmp_path,
        hparams_of(RANDOM, 107),
        curve=reached_at(3),
        test_accuracy=0.9,
        seconds=2.0,
        analysis_seconds=1,
    )
    found = compared(tmp_path, "seconds_to:0.9", "seconds")
    times, whole = (found.pairs[found.pairs["outcome"] == name] for name in ("seconds_to:0.9", "seconds"))
    assert times["value"].tolist() == [4.25, 6.25, 10.25, 15.0, 15.0, 8.25, 12.25, 7.0]
    assert times["baseline"].tolist() == [8.0, 12.0, 15.0, 15.0, 15.0, 14.0, 15.0, 4.5]
    assert found.rows["horizon"].iloc[0] == 15.0
    assert whole["value"].tolist() == [20.25] * 7 + [21.0]
    assert not any("analysis" in note for note in found.notes)


def test_a_diverged_run_never_reaches_the_target_and_does_not_shorten_the_horizon(tmp_path: Path) -> None:
    write_curves(tmp_path)
    write_run(tmp_path, hparams_of(PLAIN, 107), curve=reached_at(3), test_accuracy=0.9)
    write_run(tmp_path, hparams_of(RANDOM, 107), curve=[0.5, 0.5, 0.1], state="diverged")
    found = compared(tmp_path, "epochs_to:0.9")
    assert only_row(found)["horizon"] == 10
    assert found.pairs.iloc[7][["baseline", "value", "censored"]].tolist() == [3, 10, True]


def test_an_analysis_that_no_file_records_is_said_not_to_count(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    assert (
        "seconds: the analysis of 8 jobs is not recorded, so it is not counted"
        in compared(tmp_path, "seconds").notes
    )


def test_a_target_that_no_run_reaches_decides_nothing(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    tuned(tmp_path, PLAIN, RANDOM)
    found = compared(tmp_path, "epochs_to:0.99")
    assert only_row(found)["result"] == "undecided"
    assert found.verdicts["verdict"].tolist() == ["inconclusive"]
    assert any("the baseline never gets there" in note for note in found.notes)


def test_without_tuning_the_first_line_says_that_nothing_is_decided(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    found = compared(tmp_path)
    assert found.notes[0].startswith(
        "there is no tuning.csv: arms are compared at the same learning rate by name"
    )
    assert found.notes[0].endswith("this decides nothing")
    assert found.verdicts["verdict"].tolist() == ["inconclusive"]


def test_each_arm_is_compared_at_the_point_that_was_chosen_for_it(tmp_path: Path) -> None:
    write_tuning_csv(tmp_path, [*tuning_rows([PLAIN], chosen=1.0), *tuning_rows([RANDOM], chosen=0.01)])
    write_arms(tmp_path, {PLAIN: PLAINS}, lr=1.0)
    write_arms(tmp_path, {RANDOM: TELEPORTED}, lr=0.01)
    write_arms(tmp_path, {PLAIN: [50.0] * 8, RANDOM: [99.0] * 8}, lr=0.1)  # from an earlier choice
    found = compared(tmp_path)
    row = only_row(found)
    assert row["difference"] == pytest.approx(1.125)
    assert (row["point"], row["baseline_point"]) == ("lr 0.01", "lr 1")
    assert row["optimizer"] == "SGD momentum=0.9"
    assert "16 jobs are left out: their tuned values were not chosen" in found.notes


def test_runs_that_chose_are_not_reported(tmp_path: Path) -> None:
    tuned(tmp_path, PLAIN, RANDOM, runs=[100, 101])
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    found = compared(tmp_path)
    assert found.pairs["run"].tolist() == [str(run) for run in range(102, 108)]
    assert any(
        note.startswith("4 jobs are left out: their run chose the tuned values") for note in found.notes
    )
    tuned(tmp_path, PLAIN, RANDOM, runs=range(100, 108))
    with pytest.raises(
        ResultsError, match=r"no job .* can be compared: 16 jobs are left out: their run chose"
    ):
        compared(tmp_path)


def test_values_that_were_chosen_on_reported_data_are_refused(tmp_path: Path) -> None:
    tuned(tmp_path, PLAIN, RANDOM, data="test split")
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    with pytest.raises(ResultsError, match=r"chosen on data that are reported, too \(test split\)"):
        compared(tmp_path)


@pytest.mark.parametrize(
    ("unequal", "said"),
    [
        ({"grid": (0.1, 1.0)}, "3 points × 2 runs; random, once at 0, inter 0.9: 2 points × 2 runs"),
        ({"grid": (0.03, 0.1, 0.3)}, "arms were tuned unequally"),
        (
            {"scores": {0.01: [0.5, math.nan], 0.1: [0.8, math.nan], 1.0: [0.5, math.nan]}},
            "3 points × 1 runs",
        ),
        (None, "not tuned: random"),
    ],
)
def test_unequal_tuning_is_said_first_and_decides_nothing(
    unequal: dict[str, object] | None, said: str, tmp_path: Path
) -> None:
    rows = tuning_rows([PLAIN])
    if unequal is not None:
        rows += tuning_rows([RANDOM], **unequal)  # type: ignore[arg-type]
    for row in rows:
        row.update({key: "" for key, value in row.items() if isinstance(value, float) and math.isnan(value)})
    write_tuning_csv(tmp_path, rows)
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    found = compared(tmp_path)
    assert said in found.notes[0]
    assert found.verdicts["verdict"].tolist() == ["inconclusive"]
    assert found.verdicts["because"].item().startswith(found.notes[0])


def test_a_grid_that_was_extended_for_one_arm_is_no_unequal_tuning(tmp_path: Path) -> None:
    rows = [*tuning_rows([PLAIN]), *tuning_rows([RANDOM])]
    write_tuning_csv(tmp_path, [*rows, *({**row, "round": 1} for row in tuning_rows([RANDOM], grid=[10.0]))])
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    assert compared(tmp_path).verdicts["verdict"].tolist() == ["no arms to tell"]


def test_two_experiments_in_one_folder_may_tune_different_keys(tmp_path: Path) -> None:
    """The rates of Adam are tuned with its weight decay; SGD has a weight decay that is not tuned."""
    adam = {"optimizer": "AdamW lr=0.1 weight_decay=0.5", "optimizer.cls": "AdamW"}
    sgd = {"optimizer": "SGD lr=0.1 weight_decay=0.01 momentum=0.9", "optimizer.weight_decay": 0.01}
    rows: list[dict[str, object]] = []
    for mode, shift in ((PLAIN, 0), (RANDOM, 1)):
        for number, accuracy in enumerate(PLAINS):
            run = hparams_of(mode, 100 + number)
            write_run(tmp_path, run | sgd, test_accuracy=(accuracy + shift) / 100)
            decay = {**adam, "optimizer.weight_decay": 0.5}
            write_run(tmp_path, run | decay, test_accuracy=(accuracy + 2 * shift) / 100)
        fixed = {"optimizer": "SGD weight_decay=0.01 momentum=0.9"}
        rows += [{**row, **fixed} for row in tuning_rows([mode], runs=[0, 1])]
        rows += [
            {**row, "optimizer": "AdamW", "optimizer.weight_decay": decay, "chosen": str(best).lower()}
            for row in tuning_rows([mode], runs=[2, 100])
            for decay in (0.0, 0.5)
            for best in [decay == 0.5 and row["chosen"] == "true"]
        ]
    head, tail = list(rows[0])[:8], list(rows[0])[-5:]
    columns = [*head, "optimizer.weight_decay", "round", "run 0", "run 1", "run 2", "run 100", *tail]
    write_tuning_csv(tmp_path, [{key: row.get(key, "") for key in columns} for row in rows])
    found = compared(tmp_path)
    assert found.rows["difference"].tolist() == pytest.approx([1.0, 2.0])
    assert found.rows["n"].tolist() == [8, 7]  # only Adam was tuned in run 100
    assert not any("not tuned" in note or "unequally" in note for note in found.notes)


def test_a_choice_on_the_edge_is_said(tmp_path: Path) -> None:
    tuned(tmp_path, PLAIN, RANDOM, edge=True)
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    assert any(note.startswith("chosen on the edge of a grid") for note in compared(tmp_path).notes)


def test_too_few_pairs_are_said_first_with_how_many_would_do(tmp_path: Path) -> None:
    values = {PLAIN: PLAINS[:5], RANDOM: TELEPORTED[:5], LAYER: TELEPORTED[:5], SHUFFLED: PLAINS[:5]}
    write_arms(tmp_path, values)
    tuned(tmp_path, *values)
    found = compared(tmp_path)
    assert found.notes[0] == (
        "5 pairs cannot show a difference: the smallest p is 0.062, and Holm asks for 0.017 among 3 arms; "
        "7 pairs would do"
    )
    write_arms(tmp_path / "more", {mode: [*v, *v[:2]] for mode, v in values.items()})
    tuned(tmp_path / "more", *values)
    assert not any("cannot show" in note for note in compared(tmp_path / "more").notes)


def test_a_band_that_the_pairs_cannot_decide_is_said_with_how_many_would_do(tmp_path: Path) -> None:
    noise = [3.0, -3.0, 2.0, -2.0, 1.0, -1.0, 3.0, -3.0]
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: [a + b for a, b in zip(PLAINS, noise, strict=True)]})
    tuned(tmp_path, PLAIN, RANDOM)
    found = compared(tmp_path)
    needed = only_row(found)["pairs_needed"]
    assert 180 < needed < 260  # (1.65 + 1.29)² · 2.57² / 0.5²
    assert found.notes[0].startswith("too few pairs to decide whether an arm lies within 0.5 of the baseline")
    assert found.notes[0].endswith(f"; {needed} pairs would do")
    assert not any("too few" in note for note in compared(tmp_path, equivalent={"test_accuracy": 4}).notes)


def test_widths_of_good_ranges_are_compared_over_tuning_runs(tmp_path: Path) -> None:
    narrow = {0.01: [0.5, 0.5], 0.1: [0.9, 0.8], 1.0: [0.5, 0.5], 10.0: [0.1, 0.1]}
    wide = {0.01: [0.5, 0.5], 0.1: [0.9, 0.8], 1.0: [0.9, 0.795], 10.0: [0.1, 0.1]}
    grid = list(narrow)
    rows = [*tuning_rows([PLAIN], grid=grid, scores=narrow), *tuning_rows([RANDOM], grid=grid, scores=wide)]
    write_tuning_csv(tmp_path, rows)
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    found = compared(tmp_path, "test_accuracy", "lr_width")
    row = found.rows[found.rows["outcome"] == "lr_width"].iloc[0]
    # On each side the score falls linearly: a point is lost after 0.01/0.4 of a decade, and so on.
    plain = [2 * 0.01 / 0.4, 2 * 0.01 / 0.3]
    moved = [1 + 0.01 / 0.4 + 0.01 / 0.8, 1 + 0.01 / 0.3 + 0.005 / 0.695]
    assert (row["n"], row["unit"]) == (2, "decades")
    assert row["baseline"] == pytest.approx(np.mean(plain))
    assert row["difference"] == pytest.approx(np.mean(moved) - np.mean(plain))


@pytest.mark.parametrize(
    ("outcomes", "options", "message"),
    [
        (["test_acuracy"], {}, "unknown outcome 'test_acuracy', did you mean 'test_accuracy'?"),
        (["seconds_to"], {}, "expected seconds_to:A"),
        (["seconds_to:90"], {}, "above 0 and at most 1"),
        (["epochs_to:nan"], {}, "expected epochs_to:A"),
        (["test_loss:0.3"], {}, "expected 'test_loss'"),
        (["test_loss"], {"baseline": "no_telport"}, "no arm 'no_telport', did you mean 'no_teleport'?"),
        (["test_loss"], {"by": ["datase"]}, "unknown hyper-parameter 'datase', did you mean 'dataset'?"),
        (["test_loss"], {"by": ["teleport"]}, "expected words such as dataset, model"),
        (["test_loss"], {"equivalent": {"tst_loss": 1}}, "did you mean 'test_loss'?"),
        (["test_loss"], {"equivalent": {"test_loss": "0"}}, "expected a number above 0"),
        (["test_loss"], {"equivalent": {"test_loss": "many"}}, "expected a number above 0"),
        (["lr_width"], {}, "lr_width needs a tuning.csv"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    outcomes: list[str], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS[:2], RANDOM: TELEPORTED[:2]})
    with pytest.raises(ResultsError) as caught:
        compared(tmp_path, *outcomes, **options)
    assert message in str(caught.value)


def test_a_folder_with_one_arm_has_nothing_to_compare(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS})
    with pytest.raises(ResultsError, match="nothing to compare"):
        compared(tmp_path)


def test_a_mode_with_several_arms_is_no_baseline(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    other = {**hparams_of(RANDOM, 100), "teleport": "random, once at 0, inter 0.5", "teleport.cob_range": 0.5}
    write_run(tmp_path, other, test_accuracy=0.9)
    with pytest.raises(ResultsError, match="several arms have the mode 'random'"):
        compared(tmp_path, baseline="random")
    assert compared(tmp_path, baseline=label_of(RANDOM)).baseline == label_of(RANDOM)


def test_hostile_folders_are_compared_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    write_arms(tmp_path, {PLAIN: PLAINS, RANDOM: TELEPORTED})
    evil = {**hparams_of(RANDOM, 100), "teleport": "x\n| <script>\x1b[2J $a$ `|`", "dataset": "digits"}
    write_run(tmp_path, evil, test_accuracy=0.9)
    bare = write_run(tmp_path, hparams_of(RANDOM, 107), test_accuracy=0.9)
    (bare / "metrics.csv").write_text("epoch\n0\n1\n")
    (bare / "result.json").write_text(
        json.dumps({"state": "finished", "epochs": 2, "test": {"accuracy": "x"}})
    )
    (bare / "provenance.json").write_text('{"analysis_seconds": 1e400}')
    broken = write_run(tmp_path, hparams_of(RANDOM, 109), curve=[math.nan] * EPOCHS, seconds=math.nan)
    (broken / "hparams.yml").write_text(yaml.safe_dump({"teleport": ["a"], "run": -(10**30), "seed": {}}))
    found = compared(
        tmp_path, "test_accuracy", "seconds_to:0.9", "epochs_to:0.9", "train_loss", "divergences"
    )
    row = found.rows[(found.rows["mode"] == RANDOM) & (found.rows["outcome"] == "test_accuracy")]
    assert row["n"].max() == 8
    text = "".join(map(str, [*found.rows["arm"], *found.notes]))
    assert text.isprintable()
