"""What a reproduction concludes, from trainings and tables whose outcome is known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from support import CONFIGS

from nteleport.cli.app import nteleport
from nteleport.experiment.experiment import load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Component, Job, Teleportation, TrainingParams
from nteleport.jobs.schedule import teleports_at
from nteleport.reproduction.answers import DOES_NOT_HOLD, HOLDS, NOT_RUN, answers
from nteleport.reproduction.claims import CPU, PAPER, REACH, REAL, StudyClaim, TrainingClaim
from nteleport.reproduction.folder import Layout
from nteleport.reproduction.measures import grows, orthogonal, sharper, wider
from nteleport.reproduction.report import draw_pictures, markdown
from nteleport.reproduction.run import missing_studies, run_studies
from nteleport.reproduction.trainings import Pair, compare, epochs_until, pairs_of, rows_of
from nteleport.studies.study import Progress, find_study

TIERED = [
    (tier, claim) for tier, claims in (("cpu", CPU), ("real", REAL), ("paper", PAPER)) for claim in claims
]
RANDOM = Teleportation(mode="random", every_n_epochs=0, teleport_only_once=True)
EXPERIMENT = """
runs_per_config: 3
datasets: [digits]
models: [{cls: mlp, hidden_layers: [8]}]
optimizers: [{cls: SGD, lr: 0.1}]
training_params: {epochs: 2, batch_size: 64, shuffle_batches: true}
teleportations:
  no_teleport:
  teleport: {mode: random, every_n_epochs: 0, cob_range: 0.9, cob_sampling: inter_landscape}
"""


def job(run: int = 0, mode: Teleportation = RANDOM, epochs: int = 10, **optimizer: float) -> Job:
    return Job(
        dataset="digits", training=TrainingParams(epochs=epochs), model=Component("mlp"),
        initializer=Component("none"), optimizer=Component("SGD", {"lr": 0.1, **optimizer}),
        teleportation=mode, run=run,
    )  # fmt: skip


def pair(run: int, **optimizer: float) -> Pair:
    return Pair(job(run, RANDOM, **optimizer), job(run, Teleportation(), **optimizer))


def rising(*, early: float, last: float) -> list[float]:
    return [early] * 5 + [last] * 5


def test_a_comparison_has_the_paired_differences_at_the_early_the_middle_and_the_last_epoch() -> None:
    pairs = [pair(run) for run in range(3)]
    curves = {}
    for run, each in enumerate(pairs):  # every seed has its own level, and a gain of 0.2, 0.3, 0.4 early
        curves[each.baseline.name] = rising(early=0.1 * run, last=0.95)
        curves[each.treated.name] = rising(early=0.1 * run + 0.2 + 0.1 * run, last=0.95)
    found = compare(pairs, curves)
    assert found is not None
    assert found.epochs == (3, 6, 9)
    assert found.gains[0].mean == pytest.approx(0.3)
    assert found.gains[0].high - found.gains[0].mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert found.gains[2].mean == 0
    assert found.gains_early


def test_differences_of_one_seed_are_averaged_over_its_optimizers_before_the_interval() -> None:
    pairs = [pair(run, lr=rate) for run in range(2) for rate in (0.1, 0.01)]
    curves = {each.baseline.name: [0.0] * 10 for each in pairs}
    gains = {(0, 0.1): 0.1, (0, 0.01): 0.3, (1, 0.1): 0.2, (1, 0.01): 0.4}
    for each in pairs:
        curves[each.treated.name] = [gains[each.treated.run, each.treated.optimizer.kwargs["lr"]]] * 10
    found = compare(pairs, curves)
    assert found is not None
    assert found.gains[0].count == 2
    assert found.gains[0].mean == pytest.approx(0.25)
    assert found.gains[0].high - found.gains[0].mean == pytest.approx(
        12.7062 * (0.1 / 2**0.5) / 2**0.5, rel=1e-5
    )


def test_epochs_until_an_accuracy_count_from_one_and_never_is_one_more_than_there_are() -> None:
    assert epochs_until([0.2, 0.9, 0.8], 0.9, 3) == 2
    assert epochs_until([0.2, 0.3, 0.8], 0.9, 3) == 4


def test_a_training_that_never_reaches_the_accuracy_is_counted() -> None:
    pairs = [pair(run) for run in range(2)]
    curves = {}
    for each in pairs:
        curves[each.baseline.name] = [0.1] * 10
        curves[each.treated.name] = [0.1, 0.1, 0.1] + [REACH["digits"]] * 7
    found = compare(pairs, curves)
    assert found is not None
    assert (found.treated_epochs, found.baseline_epochs, found.never) == (4, 11, (0, 2))
    assert found.sooner.mean == -7


def test_a_gain_early_that_is_lost_in_the_end_is_no_faster_convergence() -> None:
    pairs = [pair(run) for run in range(3)]
    curves = {}
    for each in pairs:
        curves[each.baseline.name] = rising(early=0.1, last=0.9)
        curves[each.treated.name] = rising(
            early=0.4 + 0.01 * each.treated.run, last=0.5 + 0.01 * each.treated.run
        )
    found = compare(pairs, curves)
    assert found is not None
    assert found.gains[0].is_positive
    assert not found.gains_early


def test_a_diverged_training_keeps_its_last_accuracy() -> None:
    pairs = [pair(run) for run in range(2)]
    curves = {each.baseline.name: [0.5] * 10 for each in pairs}
    curves |= {each.treated.name: [0.2, 0.3] for each in pairs}
    found = compare(pairs, curves)
    assert found is not None
    assert found.gains[2].mean == pytest.approx(-0.2)


def test_nothing_is_compared_while_a_training_is_missing() -> None:
    assert compare([pair(0)], {pair(0).treated.name: [0.1] * 10}) is None


def test_pairs_differ_in_their_teleportation_alone() -> None:
    pseudo = replace(RANDOM, mode="pseudo")
    jobs = [
        job(run, mode, momentum=m)
        for run in (0, 1)
        for m in (0.0, 0.9)
        for mode in (Teleportation(), RANDOM, pseudo)
    ]
    found = pairs_of(jobs, TrainingClaim("c", 10, "", (), treated="pseudo", baseline="random"))
    assert len(found) == 4
    for each in found:
        assert (each.treated.teleportation, each.baseline.teleportation) == (pseudo, RANDOM)
        assert replace(each.treated, teleportation=RANDOM) == each.baseline
    assert [key[3] for key in rows_of(jobs)] == ["SGD", "SGD with momentum 0.9"]


def angles(claim: float, control: float) -> dict[str, pd.DataFrame]:
    pairs = {"gradient, teleportation": claim, "two random vectors": control}
    rows = [{"pair": name, "angle": 90 + sign * size} for name, size in pairs.items() for sign in (-1, 1)]
    return {"micro": pd.DataFrame(rows)}


def test_orthogonal_means_much_nearer_to_90_degrees_than_random_vectors() -> None:
    assert orthogonal([angles(0.001, 0.1), angles(0.002, 0.1)]).holds
    assert not orthogonal([angles(0.08, 0.1), angles(0.09, 0.1)]).holds


def rises(plain: float, teleported: float) -> dict[str, pd.DataFrame]:
    lines = {"A to B": plain, "T(A) to T(B)": teleported, "A to T(A)": 100.0}
    rows = [
        {"line": line, "end": end, "rise": rise + 0.1 * end} for line, rise in lines.items() for end in (0, 1)
    ]
    return {"interpolate": pd.DataFrame(), "interpolate-sharpness": pd.DataFrame(rows)}


def test_sharper_means_that_the_loss_rises_more_next_to_teleported_minima() -> None:
    answer = sharper([rises(0.1, 0.3), rises(0.2, 0.41)])
    assert answer.holds
    assert answer.numbers["mean"] == pytest.approx(0.205)
    assert not sharper([rises(0.3, 0.1), rises(0.2, 0.4)]).holds


def differences(**models: list[float]) -> dict[str, pd.DataFrame]:
    rows = [
        {"model": model, "cob_range": 0.1 * k, "difference": value}
        for model, values in models.items()
        for k, value in enumerate(values, start=1)
        for _ in range(2)
    ]
    return {"gradients": pd.DataFrame(rows)}


def test_growing_means_that_wider_ranges_give_larger_differences_for_every_model() -> None:
    rising = [1.0, 2.0, 4.0, 9.0, 20.0]
    answer = grows([differences(a=rising, b=rising), differences(a=[1.0, 3.0, 4.0, 8.0, 30.0], b=rising)])
    assert answer.holds
    assert (answer.numbers["a"], answer.numbers["b"]) == (25, 20)
    mixed = [5.0, 1.0, 4.0, 2.0, 3.0]  # ranks 5 1 4 2 3: Spearman's correlation with 1 … 5 is −0.3
    answer = grows([differences(a=rising, b=mixed), differences(a=rising, b=mixed)])
    assert not answer.holds
    assert answer.numbers["mean"] == pytest.approx(-0.3)


def densities(after: float) -> dict[str, pd.DataFrame]:
    spreads = {"before": 1.0, "after": after, "same_distr": after}
    rows = [
        {
            "view": "whole",
            "weights": which,
            "left": side * spread - 0.01,
            "right": side * spread + 0.01,
            "density": 25.0,
        }
        for which, spread in spreads.items()
        for side in (-1, 1)
    ]
    return {"weights": pd.DataFrame(rows)}


def test_wider_is_the_ratio_of_standard_deviations() -> None:
    answer = wider([densities(2.0), densities(2.02)])
    assert answer.holds
    assert answer.numbers["mean"] == pytest.approx(2.01, rel=1e-3)
    assert not wider([densities(0.9), densities(0.8)]).holds


@pytest.mark.parametrize(("tier", "claim"), TIERED, ids=[f"{tier}-{claim.name}" for tier, claim in TIERED])
def test_every_claim_names_a_study_or_an_experiment_that_exists(
    tier: str, claim: StudyClaim | TrainingClaim, tmp_path: Path
) -> None:
    layout = Layout(tmp_path, CONFIGS / tier, tmp_path)
    if isinstance(claim, StudyClaim):
        assert layout.study(claim, 0).study == find_study(claim.study)
        assert claim.seeds > 1
        return
    jobs = layout.expand(claim)
    for row in rows_of(jobs).values():
        pairs = pairs_of(row, claim)
        assert len({each.treated.run for each in pairs}) > 1
        for each in pairs:
            teleportation, epochs = each.treated.teleportation, each.treated.training.epochs
            assert [e for e in range(epochs) if teleports_at(e, teleportation, epochs)] == [0]


@pytest.mark.parametrize("claims", [CPU, REAL], ids=["cpu", "real"])
def test_a_tier_for_two_cores_has_a_claim_about_every_figure(
    claims: tuple[StudyClaim | TrainingClaim, ...],
) -> None:
    assert sorted({claim.figure for claim in claims}) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_the_real_tier_has_every_figure_on_both_data_sets(tmp_path: Path) -> None:
    layout = Layout(tmp_path, CONFIGS / "real", tmp_path)
    found: dict[int, set[str]] = {}
    for claim in REAL:
        studied = claim.settings["datasets"] if isinstance(claim, StudyClaim) else ()
        trained = () if isinstance(claim, StudyClaim) else (job.dataset for job in layout.expand(claim))
        found.setdefault(claim.figure, set()).update(studied, trained)
    assert found == {figure: {"mnist", "cifar10"} for figure in range(4, 12)}


def write_job(folder: Path, job: Job, curve: list[float]) -> None:
    directory = folder / job.name
    directory.mkdir(parents=True)
    (directory / "hparams.yml").write_text("run: 0\n", encoding="utf-8")
    rows = "".join(f"{epoch},{accuracy}\n" for epoch, accuracy in enumerate(curve))
    (directory / "metrics.csv").write_text("epoch,val_accuracy\n" + rows, encoding="utf-8")
    (directory / "result.json").write_text(
        json.dumps({"state": "finished", "epochs": len(curve)}), encoding="utf-8"
    )


def test_answers_come_from_the_jobs_on_disk(tmp_path: Path) -> None:
    (tmp_path / "e.yml").write_text(EXPERIMENT, encoding="utf-8")
    layout = Layout(tmp_path, tmp_path, tmp_path)
    faster = TrainingClaim("faster", 6, "Faster", ("e.yml",))
    control = TrainingClaim("control", 10, "No | gain", ("e.yml",), gain=False)
    assert [row.verdict for row in answers([faster], layout)] == [NOT_RUN]
    for each in expand(load_experiment(tmp_path / "e.yml")):
        teleported = each.teleportation.mode == "random"
        write_job(layout.jobs, each, [0.5 + 0.01 * each.run, 0.9] if teleported else [0.1, 0.9])
    rows = answers([faster, control], layout)
    assert [row.verdict for row in rows] == [HOLDS, DOES_NOT_HOLD]
    assert rows[0].numbers["early_mean"] == pytest.approx(0.41)
    assert "accuracy in points +41.0 [+38.5, +43.5] at epoch 0" in rows[0].measured
    pictures = draw_pictures([faster, control], layout)
    assert [picture.figure for picture in pictures] == [6]  # both claims are about the same experiment
    assert pictures[0].path.is_file()
    table = markdown(rows, "cpu", pictures, tmp_path)
    assert "![Fig. 6: e.yml](pictures/e/all-val_accuracy-boxes.png)" in table
    assert "1 holds, 1 does not hold, 0 not run" in table
    assert "| 10 | No \\| gain |" in table
    assert table.count("** at the published rates |") == 2


@pytest.mark.slow
def test_an_interrupted_reproduction_continues_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e.yml").write_text(EXPERIMENT, encoding="utf-8")
    small = {"models": [{"cls": "mlp", "hidden_layers": [8]}], "datasets": ["digits"]}
    claims = (
        TrainingClaim("fig6", 6, "Faster", ("e.yml",)),
        StudyClaim("fig11", 11, "Wider", "weights", "wider", small, seeds=2),
    )
    monkeypatch.setattr("nteleport.reproduction.claims.CPU", claims)
    monkeypatch.setattr("nteleport.reproduction.claims.claims_of", lambda tier: claims)
    arguments = ["reproduce", "--out", str(tmp_path / "out"), "--experiments", str(tmp_path), "--jobs", "1"]
    first = CliRunner().invoke(nteleport, [*arguments, "11"])
    assert first.exit_code == 0, first.output
    studied = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "studies").rglob("*.csv")}
    assert len(studied) == 2
    written = json.loads((tmp_path / "out" / "reproduction.json").read_text(encoding="utf-8"))
    verdict = written["rows"][1]["verdict"]
    assert verdict in (HOLDS, DOES_NOT_HOLD)
    assert [row["verdict"] for row in written["rows"]] == [NOT_RUN, verdict]
    second = CliRunner().invoke(nteleport, arguments)
    assert second.exit_code == 0, second.output
    assert {path: path.stat().st_mtime_ns for path in studied} == studied
    written = json.loads((tmp_path / "out" / "reproduction.json").read_text(encoding="utf-8"))
    assert written["rows"][0]["verdict"] in (HOLDS, DOES_NOT_HOLD)
    text = (tmp_path / "out" / "reproduction.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[Fig. (\d+): .*?\]\((.*?)\)", text)
    assert [figure for figure, _ in shown] == ["6", "11"]
    assert all((tmp_path / "out" / path).is_file() for _, path in shown)


def test_a_figure_without_a_claim_is_refused() -> None:
    result = CliRunner().invoke(nteleport, ["reproduce", "12"])
    assert result.exit_code == 2
    assert "no claim about figure 12: expected 4, " in result.output


def test_a_stop_ends_a_study_at_its_next_step_and_leaves_it_to_be_run(tmp_path: Path) -> None:
    settings = {"models": [{"cls": "mlp", "hidden_layers": [8]}], "datasets": ["digits"], "batches": 5}
    claim = StudyClaim("fig7", 7, "Grows", "gradients", "grows", settings, seeds=2)
    layout = Layout(tmp_path, tmp_path, tmp_path)
    steps: list[int] = []

    @contextmanager
    def counting(name: str) -> Iterator[Progress]:
        yield lambda done, total: steps.append(done)

    run_studies(missing_studies([claim], layout), counting, lambda: len(steps) == 2)
    assert steps == [1, 2]
    assert len(missing_studies([claim], layout)) == 2
