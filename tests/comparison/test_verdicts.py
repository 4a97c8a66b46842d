"""The verdicts: what each rule says of runs that were made up for it, and how often it is wrong by chance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.compared_results import (
    LAYER,
    PLAIN,
    RANDOM,
    SHUFFLED,
    hparams_of,
    tuning_rows,
    write_arms,
    write_run,
    write_tuning_csv,
)

from nteleport.comparison import Comparison, compare
from nteleport.comparison.arms import cells_of
from nteleport.comparison.comparison import _verdicts  # the path without files, for simulations
from nteleport.comparison.families import family_of
from nteleport.comparison.outcomes import measured, read_outcomes
from nteleport.comparison.verdicts import (
    CHANGE_OF_RATE,
    INCONCLUSIVE,
    LAYER_RATES,
    NO_ARMS,
    PATTERN,
    REPAIR,
    WORSE,
)
from nteleport.jobs.table import read_results
from nteleport.jobs.tuning import read_tuning

NOISE = np.array([0.2, -0.1, 0.1, 0.0, -0.2, 0.15, -0.15, 0.05, 0.1, -0.15])
SEEDS = np.array([0.0, 1.0, -1.0, 0.5, -0.5, 0.2, 0.8, -0.7, 0.3, -0.6])
"""What the runs of a seed have in common."""


def accuracies(mean: float, shift: int) -> list[float]:
    return list(mean + SEEDS + np.roll(NOISE, shift))


def write_means(out: Path, means: dict[str, float], **hparams: object) -> None:
    write_arms(out, {mode: accuracies(mean, at) for at, (mode, mean) in enumerate(means.items())}, **hparams)


def compared(out: Path, **options: object) -> Comparison:
    return compare(read_results(out), tuning=read_tuning(out), **options)  # type: ignore[arg-type]


def verdict_of(out: Path, means: dict[str, float], **options: object) -> str:
    write_means(out, means)
    write_tuning_csv(out, tuning_rows(means))
    return str(compared(out, **options).verdicts["verdict"].item())


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({PLAIN: 92, RANDOM: 94, LAYER: 94.1, SHUFFLED: 93}, LAYER_RATES),
        ({PLAIN: 92, RANDOM: 94, LAYER: 93.1, SHUFFLED: 93}, PATTERN),
        ({PLAIN: 92, RANDOM: 92.1, LAYER: 92, SHUFFLED: 91.9}, CHANGE_OF_RATE),
        ({PLAIN: 92, RANDOM: 92.1}, CHANGE_OF_RATE),
        ({PLAIN: 92, RANDOM: 90, LAYER: 94, SHUFFLED: 94}, WORSE),
        ({PLAIN: 92, RANDOM: 94, SHUFFLED: 93}, NO_ARMS),
        ({PLAIN: 92, RANDOM: 94, LAYER: 93}, NO_ARMS),
        ({PLAIN: 92, LAYER: 93, SHUFFLED: 93}, None),
        ({PLAIN: 92, RANDOM: 94, LAYER: 93, SHUFFLED: 94}, INCONCLUSIVE),
        ({PLAIN: 92, RANDOM: 94, LAYER: 95, SHUFFLED: 93}, INCONCLUSIVE),
        ({PLAIN: 92, RANDOM: 92, LAYER: 94, SHUFFLED: 92}, INCONCLUSIVE),
        ({PLAIN: 92, RANDOM: 92.45, LAYER: 92.4, SHUFFLED: 92.4}, INCONCLUSIVE),
    ],
)
def test_each_rule_gives_its_verdict(means: dict[str, float], verdict: str | None, tmp_path: Path) -> None:
    assert verdict_of(tmp_path, means) == (verdict or NO_ARMS)


def test_the_band_decides_what_counts_as_equal(tmp_path: Path) -> None:
    means = {PLAIN: 92, RANDOM: 95, LAYER: 94.1, SHUFFLED: 93}
    assert verdict_of(tmp_path, means) == PATTERN
    assert compared(tmp_path, equivalent={"test_accuracy": 1.5}).verdicts["verdict"].item() == LAYER_RATES


def test_only_an_arm_with_the_same_change_of_basis_tells_why(tmp_path: Path) -> None:
    write_means(tmp_path, {PLAIN: 92, RANDOM: 94})
    for number, accuracy in enumerate(accuracies(94, 2)):
        other = hparams_of(LAYER, 100 + number) | {
            "teleport": "layer_rates, inter 0.5",
            "teleport.cob_range": 0.5,
        }
        write_run(tmp_path, other, test_accuracy=accuracy / 100)
    rows = [
        *tuning_rows([PLAIN, RANDOM]),
        *({**row, "teleport": "layer_rates, inter 0.5"} for row in tuning_rows([LAYER])),
    ]
    write_tuning_csv(tmp_path, rows)
    found = compared(tmp_path)
    assert found.verdicts["verdict"].item() == NO_ARMS
    assert "no arm layer_rates with the same change of basis" in found.verdicts["because"].item()


def test_an_arm_that_chooses_its_change_of_basis_is_not_explained_by_rates_of_a_drawn_one(
    tmp_path: Path,
) -> None:
    write_means(tmp_path, {PLAIN: 92, RANDOM: 94, LAYER: 94.1, SHUFFLED: 93})
    chosen = {"teleport": "optimize, once at 0", "teleport.mode": "optimize", "teleport.objective": "balance"}
    drawn = ("teleport.cob_range", "teleport.cob_sampling")
    for number, accuracy in enumerate(accuracies(94, 5)):
        hparams = {key: value for key, value in hparams_of(RANDOM, 100 + number).items() if key not in drawn}
        write_run(tmp_path, hparams | chosen, test_accuracy=accuracy / 100)
    rows = tuning_rows([PLAIN, RANDOM, LAYER, SHUFFLED])
    write_tuning_csv(
        tmp_path, [*rows, *({**row, "teleport": chosen["teleport"]} for row in tuning_rows([RANDOM]))]
    )
    found = compared(tmp_path).verdicts.set_index("arm")["verdict"]
    assert found.to_dict() == {"random, once at 0, inter 0.9": LAYER_RATES, "optimize, once at 0": NO_ARMS}


@pytest.mark.parametrize(
    ("kaiming", "verdict"),
    [
        ({PLAIN: 94.1, RANDOM: 94.1}, REPAIR),
        ({PLAIN: 93, RANDOM: 93}, NO_ARMS),  # another initializer does not give the gain
        ({PLAIN: 94.1, RANDOM: 96}, NO_ARMS),  # the gain is not only from PyTorch's
        ({PLAIN: 92, RANDOM: 92}, NO_ARMS),
    ],
)
def test_a_gain_that_a_better_initialization_gives_too_is_a_repair(
    kaiming: dict[str, float], verdict: str, tmp_path: Path
) -> None:
    write_means(tmp_path, {PLAIN: 92, RANDOM: 94})
    for number, (mode, mean) in enumerate(kaiming.items()):
        for run, accuracy in enumerate(accuracies(mean, number + 4)):
            hparams = hparams_of(mode, 100 + run, initializer="kaiming", seed=5000 + run)
            write_run(tmp_path, hparams, test_accuracy=accuracy / 100)
    write_tuning_csv(
        tmp_path, [*tuning_rows([PLAIN, RANDOM]), *tuning_rows([PLAIN, RANDOM], initializer="kaiming")]
    )
    found = compared(tmp_path).verdicts
    assert found.loc[found["initializer"] == "none", "verdict"].tolist() == [verdict]


def test_where_nothing_differs_a_gain_is_claimed_in_at_most_five_percent(tmp_path: Path) -> None:
    means = {PLAIN: 92, RANDOM: 92, LAYER: 92, SHUFFLED: 92}
    write_arms(tmp_path, {mode: accuracies(mean, 0)[:8] for mode, mean in means.items()})
    write_tuning_csv(tmp_path, tuning_rows([PLAIN, RANDOM, LAYER, SHUFFLED]))
    results = read_results(tmp_path)
    cells, _ = cells_of(results, range(len(results.jobs)), None, ["optimizer.lr"])
    outcome = read_outcomes(["test_accuracy"])[0]
    measures = measured(results, outcome)
    rng, found = np.random.default_rng(0), Counter[str]()
    simulations = 100
    for _ in range(simulations):
        drawn = measures.assign(value=92 + 2 * rng.standard_normal(len(measures)))
        family = family_of(cells[0], outcome, "no teleport", drawn, primary=True)
        assert family is not None
        found.update(row["verdict"] for row in _verdicts([family]))
    gains = sum(found[verdict] for verdict in (LAYER_RATES, PATTERN, NO_ARMS, REPAIR))
    assert gains / simulations <= 0.05
    assert found[INCONCLUSIVE] / simulations > 0.9
