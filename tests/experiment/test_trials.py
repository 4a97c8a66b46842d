"""Choosing on simulated scores with a known best: plain, on an edge, with ties, without some scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from nteleport.errors import ExperimentError, JobError
from nteleport.experiment.experiment import Experiment, load_experiment
from nteleport.experiment.matrix import expand, unravel
from nteleport.experiment.trials import Plan, Score, plan
from nteleport.jobs.job import Job

HEAD = """
datasets: digits
models: mlp
optimizers: [{cls: SGD, momentum: 0.9}]
training_params: {epochs: 1, validation: 0.2}
teleportations: {no_teleport: , teleport: {mode: random, every_n_epochs: 0}}
runs: [10, 11]
"""
GRID = "{optimizer.lr: {log_grid: [0.01, 1], points: 3, extend: EXTEND}, runs: [0, 1]}"


def experiment(tmp_path: Path, tune: str, extend: bool = True, head: str = HEAD) -> Experiment:
    path = tmp_path / "e.yml"
    path.write_text(f"{head}tune: {tune.replace('EXTEND', str(extend).lower())}\n")
    return load_experiment(path)


def peaks(**best: float) -> Score:
    """Scores that fall with the distance, in decades, from the best rate of the mode."""

    def score(job: Job) -> float:
        distance = abs(math.log10(job.optimizer.kwargs["lr"] / best[job.teleportation.mode]))
        return 0.9 - 0.1 * distance + (0.01 if job.run == 1 else -0.01)

    return score


def chosen(planned: Plan) -> dict[str, object]:
    """The chosen rate of each arm."""
    return {
        row.arm["teleport"].split(",")[0]: row.point["optimizer.lr"] for row in planned.rows if row.chosen
    }


def rates(planned: Plan, round_: int) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for row in planned.rows:
        if row.round == round_:
            found.setdefault(row.arm["teleport"].split(",")[0], []).append(row.point["optimizer.lr"])
    return found


def test_without_scores_the_grid_is_planned_and_nothing_is_chosen(tmp_path: Path) -> None:
    planned = plan(experiment(tmp_path, GRID), lambda job: None)
    assert len(planned.tuning) == 2 * 3 * 2  # arms, rates, runs
    assert {job.run for job in planned.tuning} == {0, 1}
    assert (planned.reported, chosen(planned), planned.arms, planned.chosen) == ((), {}, 2, 0)
    assert rates(planned, 0) == {"no teleport": [0.01, 0.1, 1.0], "random": [0.01, 0.1, 1.0]}


def test_each_arm_is_reported_at_its_own_best(tmp_path: Path) -> None:
    """Inside the grid nothing is extended; the reported jobs are those of a file with the rates in it."""
    grid = "{optimizer.lr: {log_grid: [0.001, 10], points: 5, extend: true}, runs: [0, 1]}"
    planned = plan(experiment(tmp_path, grid), peaks(no_teleport=0.1, random=0.01))
    assert chosen(planned) == {"no teleport": 0.1, "random": 0.01}
    assert len(planned.tuning) == 2 * 5 * 2
    assert planned.is_complete
    by_hand = []
    for rate, block in ((0.1, "{no_teleport: }"), (0.01, "{teleport: {mode: random, every_n_epochs: 0}}")):
        path = tmp_path / "by-hand.yml"
        path.write_text(
            "datasets: digits\nmodels: mlp\nruns: [10, 11]\ntraining_params: {epochs: 1, validation: 0.2}\n"
            f"optimizers: [{{cls: SGD, momentum: 0.9, lr: {rate}}}]\nteleportations: {block}\n"
        )
        by_hand += expand(load_experiment(path))
    assert [job.digest for job in planned.reported] == [job.digest for job in by_hand]


def test_the_mean_over_the_runs_decides(tmp_path: Path) -> None:
    scores = {(0.01, 0): 0.9, (0.01, 1): 0.1, (0.1, 0): 0.6, (0.1, 1): 0.6, (1.0, 0): 0.3, (1.0, 1): 0.7}
    planned = plan(experiment(tmp_path, GRID), lambda job: scores[job.optimizer.kwargs["lr"], job.run])
    assert chosen(planned) == {"no teleport": 0.1, "random": 0.1}
    assert [row.score for row in planned.rows[:3]] == pytest.approx([0.5, 0.6, 0.5])


@pytest.mark.parametrize(
    ("best", "extensions", "extended"),
    [
        (0.003, 1, [0.0001, 0.001]),
        (30.0, 1, [10.0, 100.0]),
        (200.0, 2, [10.0, 100.0]),
    ],
)
def test_a_best_on_an_edge_extends_the_grid_of_all_arms(
    tmp_path: Path, best: float, extensions: int, extended: list[float]
) -> None:
    planned = plan(experiment(tmp_path, GRID), peaks(no_teleport=0.1, random=best))
    assert rates(planned, 1) == {"no teleport": extended, "random": extended}
    assert max(row.round for row in planned.rows) == extensions
    assert planned.is_complete
    assert not any(row.edge for row in planned.rows)
    every = [row.point["optimizer.lr"] for row in planned.rows]
    nearest = min(every, key=lambda rate: abs(math.log10(rate / best)))
    assert chosen(planned) == {"no teleport": 0.1, "random": nearest}


def test_opposite_edges_of_two_arms_extend_both_ends(tmp_path: Path) -> None:
    planned = plan(experiment(tmp_path, GRID), peaks(no_teleport=0.001, random=10))
    assert rates(planned, 1)["random"] == [0.0001, 0.001, 10.0, 100.0]
    assert chosen(planned) == {"no teleport": 0.001, "random": 10.0}


def test_extending_ends_and_says_so(tmp_path: Path) -> None:
    planned = plan(experiment(tmp_path, GRID), peaks(no_teleport=0.1, random=1e12))
    assert max(row.round for row in planned.rows) == 3
    assert chosen(planned) == {"no teleport": 0.1, "random": 1e6}
    assert [row.arm["teleport"].split(",")[0] for row in planned.rows if row.edge] == ["random"]
    assert planned.is_complete


def test_a_grid_that_may_not_be_extended_is_not(tmp_path: Path) -> None:
    planned = plan(experiment(tmp_path, GRID, extend=False), peaks(no_teleport=0.1, random=7))
    assert chosen(planned) == {"no teleport": 0.1, "random": 1.0}
    assert [(row.point["optimizer.lr"], row.edge) for row in planned.rows if row.chosen] == [
        (0.1, False),
        (1.0, True),
    ]
    assert len(planned.tuning) == 12


def test_of_equal_scores_the_first_is_chosen(tmp_path: Path) -> None:
    """The smaller rate, then the first of a list, whatever the order of the runs' scores."""
    tune = (
        "{optimizer.lr: {log_grid: [0.01, 1], points: 3}, optimizer.weight_decay: [0.01, 0], runs: [0, 1, 2]}"
    )
    turned = {0: (0.1, 0.2, 0.3), 1: (0.3, 0.1, 0.2), 2: (0.2, 0.3, 0.1)}

    def score(job: Job) -> float:
        at = [0.01, 0.1, 1.0].index(job.optimizer.kwargs["lr"])
        return 0.0 if at == 0 else turned[(at + int(job.optimizer.kwargs["weight_decay"] > 0)) % 3][job.run]

    (first, second) = [row for row in plan(experiment(tmp_path, tune), score).rows if row.chosen]
    assert first.point == second.point == {"optimizer.lr": 0.1, "optimizer.weight_decay": 0.01}


def test_one_missing_score_keeps_its_cell_waiting_and_no_other(tmp_path: Path) -> None:
    head = HEAD.replace("datasets: digits", "datasets: [digits, mnist]")
    known = peaks(no_teleport=0.1, random=0.1)

    def score(job: Job) -> float | None:
        lost = (job.dataset, job.teleportation.mode, job.run, job.optimizer.kwargs["lr"])
        return None if lost == ("mnist", "random", 1, 0.01) else known(job)

    planned = plan(experiment(tmp_path, GRID, head=head), score)
    assert (planned.arms, planned.chosen) == (4, 2)
    assert {job.dataset for job in planned.reported} == {"digits"}
    (row,) = [row for row in planned.rows if None in row.scores.values()]
    assert (row.score, row.scores) == (None, {0: pytest.approx(0.79), 1: None})


def test_arms_that_differ_in_what_happens_to_the_optimizer_share_a_cell_with_the_baseline(
    tmp_path: Path,
) -> None:
    """The baseline of both is one job, and is extended with either."""
    params = "[{epochs: 1, validation: 0.2}, {epochs: 1, validation: 0.2, optimizer_state: transport}]"
    head = HEAD.replace("{epochs: 1, validation: 0.2}", params)

    def score(job: Job) -> float:
        best = 10 if job.training.optimizer_state == "transport" else 0.1
        return 1 - 0.1 * abs(math.log10(job.optimizer.kwargs["lr"] / best))

    planned = plan(experiment(tmp_path, GRID, head=head), score)
    assert planned.arms == 3
    assert [row.point["optimizer.lr"] for row in planned.rows if row.round == 1] == [10.0, 100.0] * 3


def test_trials_are_as_many_for_every_arm(tmp_path: Path) -> None:
    planned = plan(experiment(tmp_path, GRID), peaks(no_teleport=0.1, random=50))
    count: dict[str, int] = {}
    for row in planned.rows:
        count[row.arm["teleport"]] = count.get(row.arm["teleport"], 0) + len(row.scores)
    assert len(set(count.values())) == 1


@pytest.mark.parametrize(("limit", "fails"), [(64, False), (63, True)])
def test_the_limit_counts_all_extensions(tmp_path: Path, limit: int, fails: bool) -> None:
    """2 arms × (3 + 3 × 2 × 2 rates × 2 runs + 2 reported runs) = 64."""
    tuned = experiment(tmp_path, GRID)
    if fails:
        with pytest.raises(JobError, match=r"describes up to 64 jobs, all extensions of its grids included"):
            plan(tuned, lambda job: None, limit)
    else:
        assert len(plan(tuned, lambda job: None, limit).tuning) == 12


@pytest.mark.parametrize("act", [expand, lambda tuned: unravel(tuned, Path("never"))])
def test_a_tuned_experiment_is_no_plain_matrix(tmp_path: Path, act: Callable[[Experiment], object]) -> None:
    with pytest.raises(ExperimentError, match=r"e\.yml:8:1: tune: the jobs to report follow from tuning"):
        act(experiment(tmp_path, GRID))
