"""Matrices: their order, their counts, and files that unravel them without losing or renaming a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import CONFIGS

from nteleport.errors import ExperimentError, JobError
from nteleport.experiment.experiment import Experiment, load_experiment
from nteleport.experiment.matrix import cells, expand, unravel
from nteleport.jobs.job import Job, Scheduler, Teleportation, TrainingParams
from nteleport.schema.yaml_source import to_yaml

MATRIX = """
runs_per_config: 2
datasets: [digits, mnist]
models: [mlp, {cls: mlp, activation: elu, hidden_layers: [9, 9]}]
initializers: [none, {type: normal, gain: 2e-2}]
optimizers:
  - {cls: SGD, lr: 1e-5, lr_scheduler: {cls: LambdaLR, lr_lambda: "lambda e: 0.9 ** e", interval: step}}
  - {cls: Adam, lr: 1, betas: [0.9, 0.95]}
training_params:
  - {epochs: 3, batch_size: 8}
  - {epochs: 4, max_batch: 5, validation: 0.1, optimizer_state: transport, fused: false}
teleportations:
  no_teleport:
  teleport:
    mode:
      random: {teleport_prob: 0.5}
      optim: {metric: [weighted_grad_norm, loss_lookahead_diff]}
      pseudo:
      same_distr:
    every_n_epochs: [0, 2]
    cob_sampling: [inter_landscape, centered]
    cob_range: 0.5
"""


def jobs_of(path: Path, text: str, *overrides: str) -> list[Job]:
    path.write_text(text)
    return expand(load_experiment(path, overrides=overrides))


def names(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


def test_the_last_axis_varies_fastest(tmp_path: Path) -> None:
    text = """
runs: [4, 2]
datasets: [mnist, digits]
models: [mlp, resnet18]
initializers: [none, xavier]
optimizers: [SGD, Adam]
training_params: [{epochs: 3}, {epochs: 2}]
teleportations: {teleport: {mode: [pseudo, random], every_n_epochs: 1, cob_range: [0.2, 0.1]}, no_teleport: }
"""
    teleportations = [
        Teleportation("pseudo", cob_range=0.2),
        Teleportation("pseudo", cob_range=0.1),
        Teleportation("random", cob_range=0.2),
        Teleportation("random", cob_range=0.1),
        Teleportation(),
    ]
    expected = [
        (dataset, epochs, model, initializer, optimizer, teleportation, run)
        for dataset in ("mnist", "digits")
        for epochs in (3, 2)
        for model in ("mlp", "resnet18")
        for initializer in ("none", "xavier")
        for optimizer in ("SGD", "Adam")
        for teleportation in teleportations
        for run in (4, 2)
    ]
    assert [
        (job.dataset, job.training.epochs, job.model.cls, job.initializer.cls, job.optimizer.cls,
         job.teleportation, job.run)
        for job in jobs_of(tmp_path / "e.yml", text)
    ] == expected  # fmt: skip


def test_the_names_of_a_matrix_differ(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path / "e.yml", MATRIX)
    per_cell = 1 + (1 + 2 + 1 + 1) * 2 * 2
    assert len(jobs) == len(set(names(jobs))) == 2 * 2 * 2 * 2 * 2 * per_cell * 2


def test_a_job_described_twice_is_in_the_matrix_once(tmp_path: Path) -> None:
    text = """
datasets: digits
models: [mlp, MLPCOB]
optimizers: [{cls: SGD, lr: 1.0}, {lr: 1, cls: SGD}]
training_params: [{optimizer_state: reset}, {optimizer_state: keep}]
teleportations: {no_teleport: , teleport: {mode: random, cob_sampling: [positive, centered], center: [1, 2]}}
"""
    jobs = jobs_of(tmp_path / "e.yml", text)
    # one baseline, whatever the state; for each state: positive, which has no center, and two centered ones
    assert len(jobs) == 1 + 2 * 3


def test_reordering_and_extending_a_matrix_keeps_the_names(tmp_path: Path) -> None:
    text = "datasets: [digits]\nmodels: [mlp]\noptimizers: [{cls: SGD, lr: 0.1}, {cls: SGD, lr: 0.2}]\n"
    extended = (
        "optimizers: [{cls: Adam}, {lr: 0.2, cls: SGD}, {cls: SGD, lr: 0.1}]\nruns_per_config: 3\n"
        "models: [resnet18, mlp]\ndatasets: [mnist, digits]\n"
    )
    before = names(jobs_of(tmp_path / "a.yml", text))
    after = names(jobs_of(tmp_path / "b.yml", extended))
    assert set(before) < set(after)
    assert len(after) == 2 * 2 * 3 * 3


FEWER = ("datasets=digits", "initializers=[{type: normal, gain: 2e-2}]")


def load_matrix(folder: Path, *overrides: str) -> Experiment:
    path = folder / "matrix.yml"
    path.write_text(MATRIX)
    return load_experiment(path, overrides=overrides)


@pytest.mark.parametrize("per_run", [False, True])
def test_unravelled_files_hold_exactly_the_jobs_of_the_matrix(tmp_path: Path, per_run: bool) -> None:
    whole = load_matrix(tmp_path, *FEWER, "models=mlp")
    files = unravel(whole, tmp_path / "out", per_run=per_run)
    found = [job for file in files for job in expand(load_experiment(file))]
    assert [job.digest for job in found] == [job.digest for job in expand(whole)]
    assert [job.hparams() for job in found] == [job.hparams() for job in expand(whole)]
    assert len(files) == (len(found) if per_run else len(found) // 2)


def test_a_job_written_as_an_experiment_is_that_job(tmp_path: Path) -> None:
    for job in expand(load_matrix(tmp_path, *FEWER))[::5]:
        (tmp_path / "config.yml").write_text(to_yaml(job.to_experiment()))
        (again,) = expand(load_experiment(tmp_path / "config.yml"))
        assert again.name == job.name
        assert again.hparams() == job.hparams()


def test_no_job_is_lost_when_two_have_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_matrix(tmp_path, *FEWER)
    monkeypatch.setattr(Job, "name", property(lambda job: f"{job.dataset}-run{job.run}"))
    monkeypatch.setattr(Job, "cell_name", "the-same")
    with pytest.raises(JobError, match="two different jobs have the name 'digits-run0'"):
        expand(experiment)
    with pytest.raises(JobError, match="two different jobs have the name 'the-same'"):
        unravel(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_named_after_their_cell_or_job(tmp_path: Path) -> None:
    experiment = load_matrix(tmp_path, *FEWER)
    per_cell = unravel(experiment, tmp_path / "cells")
    per_run = unravel(experiment, tmp_path / "runs", per_run=True)
    assert [file.stem for file in per_cell] == [cell.cell_name for cell in cells(experiment)]
    assert [file.stem for file in per_run] == [job.name for job in expand(experiment)]
    assert sorted(per_cell) == sorted((tmp_path / "cells").iterdir())


def test_unravelling_again_writes_only_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = unravel(load_matrix(tmp_path, *FEWER), out)
    inodes = {file: file.stat().st_ino for file in first}
    first[3].write_text("damaged")
    more = unravel(load_matrix(tmp_path, *FEWER, "datasets=[cifar10, digits]"), out)
    assert set(first) < set(more)
    assert [file for file in first if file.stat().st_ino != inodes[file]] == [first[3]]
    assert first[3].read_text() != "damaged"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"cannot write to .*file/out: .*, expected a writable folder"):
        unravel(load_matrix(tmp_path, *FEWER), tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("config", "cell_count", "job_count"),
    [
        ("paper/sgd_vs_teleport.yml", 96, 480),
        ("paper/other_activations.yml", 72, 360),
        ("paper/initializers.yml", 192, 960),
        ("paper/pseudo_teleport.yml", 96, 480),
        ("paper/same_distribution.yml", 2, 2),
        ("quickstart.yml", 4, 20),
    ],
)
def test_the_published_matrices_have_their_published_sizes(
    config: str, cell_count: int, job_count: int
) -> None:
    experiment = load_experiment(CONFIGS / config)
    assert len(cells(experiment)) == cell_count
    assert len(expand(experiment)) == job_count


def test_the_published_matrices_train_as_published() -> None:
    for config in sorted((CONFIGS / "paper").glob("*.yml")):
        for job in cells(load_experiment(config)):
            assert job.training == TrainingParams(
                100, 256, shuffle_batches=True, drop_last_batch=True, preprocessing="published"
            )
            assert job.optimizer.kwargs["weight_decay"] == 0.01
            assert job.scheduler == Scheduler("ReduceLROnPlateau", {"mode": "max"})
            if job.teleportation.mode != "no_teleport":
                assert job.teleportation.label.endswith(", once at 0, inter 0.9")


def test_the_six_settings_of_sgd() -> None:
    jobs = cells(load_experiment(CONFIGS / "paper" / "sgd_vs_teleport.yml"))
    settings = {(job.optimizer.kwargs["lr"], job.optimizer.kwargs.get("momentum", 0)) for job in jobs}
    assert settings == {(lr, momentum) for lr in (0.01, 0.001, 0.0001) for momentum in (0, 0.9)}


def test_a_teleported_cell_and_its_baseline_are_pairs() -> None:
    jobs = expand(load_experiment(CONFIGS / "quickstart.yml"))
    baselines = {job.seed for job in jobs if job.teleportation.mode == "no_teleport"}
    teleported = {job.seed for job in jobs if job.teleportation.mode == "random"}
    assert baselines == teleported
    assert len(baselines) == 5


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_shipped_experiment_is_right_and_says_how_to_run_it(config: Path) -> None:
    load_experiment(config)
    head = config.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"nteleport train configs/{config.relative_to(CONFIGS)} --out results/" in head


def a_matrix(tmp_path: Path, more: str) -> Path:
    path = tmp_path / "matrix.yml"
    path.write_text(f"datasets: [digits]\nmodels: [mlp]\noptimizers: [SGD]\n{more}\n")
    return path


def test_a_matrix_beyond_the_limit_is_refused_by_its_count(tmp_path: Path) -> None:
    """The count is a product: nothing is built, whatever the numbers are."""
    options = "cob_range: [0.1, 0.2, 0.3], num_batches: [1, 2], teleport_prob: [0.5, 1]"
    more = f"runs_per_config: 10000\nteleportations: {{teleport: {{mode: random, {options}}}}}"
    experiment = load_experiment(a_matrix(tmp_path, more.replace(", num_batches: [1, 2]", "")))
    with pytest.raises(JobError, match="describes 60,000 jobs, expected at most 59,999"):
        expand(experiment, 59_999)
    with pytest.raises(JobError, match="describes 60,000 jobs, expected at most 100"):
        cells(experiment, 100)


def test_combinations_of_options_beyond_a_million_are_refused(tmp_path: Path) -> None:
    numbers = str([n / 2000 for n in range(1, 1100)])
    more = f"teleportations: {{teleport: {{mode: random, cob_range: {numbers}, teleport_prob: {numbers}}}}}"
    with pytest.raises(ExperimentError, match="random: 1,207,801 combinations of options"):
        load_experiment(a_matrix(tmp_path, more))


@pytest.mark.parametrize(
    ("more", "overrides", "message"),
    [
        ("training_params: {batch_size: 1" + "0" * 30 + "}", (), "4:31: batch_size: a number beyond 64 bits"),
        ("", ("models=[{cls: mlp, hidden_layers: [1" + "0" * 30 + "]}]",), "hidden_layers: a number beyond"),
        ("", (".".join("a" * 5000) + "=1",), "a path of 5000 parts, expected at most 30"),
        ("#" * 6_000_000, (), "bytes, expected an experiment file of at most 5,000,000"),
        ("\n".join(f"k{n}: 1" for n in range(20_000)), (), "... and 19950 more"),
    ],
    ids=["integer", "layers", "path", "file", "problems"],
)
def test_what_is_too_large_is_one_short_error(
    more: str, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(a_matrix(tmp_path, more), overrides=overrides)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 13_000


def test_further_blocks_of_teleportations_join_the_matrix(tmp_path: Path) -> None:
    blocks = "teleport: {mode: random}, teleport_late: {mode: pseudo, every_n_epochs: 5}"
    experiment = load_experiment(a_matrix(tmp_path, f"teleportations: {{no_teleport: , {blocks}}}"))
    modes = [(each.mode, each.every_n_epochs) for each in experiment.teleportations]
    assert modes == [("no_teleport", 1), ("random", 1), ("pseudo", 5)]
    with pytest.raises(ExperimentError, match=r"unknown key 'no_telepot'.*did you mean 'no_teleport'"):
        load_experiment(a_matrix(tmp_path, "teleportations: {no_telepot: }"))


def test_a_schedule_and_activations_are_axes(tmp_path: Path) -> None:
    text = """
    teleport:
      mode: {random: , pseudo: {every_n_epochs: 3}}
      epochs: [[0, 2], [4]]
      activations: [conjugated, kept]
    teleport_steps: {mode: random, every_n_steps: [5, 50]}
    teleport_plateau: {mode: random, on_plateau: [{patience: 3}, {patience: 1, monitor: val_loss}]}
    teleport_listed: {mode: random, epochs: [1, 3]}
    """
    experiment = load_experiment(a_matrix(tmp_path, f"teleportations:{text}"))

    assert [each.label.removesuffix(", intra 0.5") for each in experiment.teleportations] == [
        "random, at 0 2",
        "random, at 0 2, intra 0.5, activations kept",
        "random, at 4",
        "random, at 4, intra 0.5, activations kept",
        "pseudo, every 3",
        "pseudo, every 3, intra 0.5, activations kept",
        "random, every 5 steps",
        "random, every 50 steps",
        "random, plateaus of val_accuracy after 3",
        "random, plateaus of val_loss after 1",
        "random, at 1 3",
    ]
    jobs = expand(experiment)
    for job in jobs:
        assert jobs_of(tmp_path / "config.yml", to_yaml(job.to_experiment())) == [job]
    assert len({job.name for job in jobs}) == len(jobs)
