"""Jobs: names that stay, seeds that pair, settings that read back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from nteleport.jobs.job import (
    Component,
    Job,
    Plateau,
    Scheduler,
    Teleportation,
    TrainingParams,
)
from nteleport.vocabulary import MODES, SAMPLINGS, SCHEDULES, sampling_problem

BASELINE = Job(
    dataset="digits",
    training=TrainingParams(epochs=30, batch_size=64),
    model=Component("mlp", {"hidden_layers": [500, 500]}),
    initializer=Component("none"),
    optimizer=Component("SGD", {"lr": 0.01, "momentum": 0.9}),
    scheduler=Scheduler("ReduceLROnPlateau", {"mode": "max"}),
    run=3,
)
TELEPORTED = replace(
    BASELINE,
    teleportation=Teleportation(
        "random",
        every_n_epochs=0,
        teleport_only_once=True,
        cob_range=0.9,
        cob_sampling="inter_landscape",
    ),
)


def changed_teleportation(job: Job, **changes: Any) -> Job:
    return replace(job, teleportation=replace(job.teleportation, **changes))


def test_names_are_those_of_earlier_versions() -> None:
    # Computed once by this code and pinned: results on disk are found again by these names.
    assert BASELINE.name.endswith("-run3-ec49c477")
    assert TELEPORTED.name.endswith("-run3-6a75aceb")
    assert BASELINE.seed == 5983241429042149838


def test_a_name_describes_the_job() -> None:
    assert TELEPORTED.name.startswith("digits-mlp-hidden_layers-500-500-sgd-lr0.01-momentum0.9-random-run3-")


@pytest.mark.parametrize(
    "other",
    [
        replace(BASELINE, dataset="mnist"),
        replace(BASELINE, training=replace(BASELINE.training, batch_size=65)),
        replace(BASELINE, training=replace(BASELINE.training, precision="bf16")),
        replace(BASELINE, model=Component("mlp", {"hidden_layers": [500, 501]})),
        replace(BASELINE, initializer=Component("normal", {"gain": 0.02})),
        replace(BASELINE, optimizer=Component("SGD", {"lr": 0.01})),
        replace(BASELINE, scheduler=None),
        replace(BASELINE, scheduler=Scheduler("ReduceLROnPlateau", {"mode": "max"}, interval="step")),
        TELEPORTED,
        replace(BASELINE, run=4),
    ],
)
def test_whatever_can_change_the_results_changes_the_name(other: Job) -> None:
    assert other.hash8 != BASELINE.hash8


@pytest.mark.parametrize(
    ("job", "same"),
    [
        pytest.param(
            BASELINE,
            replace(BASELINE, optimizer=Component("SGD", {"momentum": 0.9, "lr": 0.01})),
            id="order of keyword arguments",
        ),
        pytest.param(
            replace(BASELINE, optimizer=Component("SGD", {"lr": 1})),
            replace(BASELINE, optimizer=Component("SGD", {"lr": 1.0})),
            id="1 and 1.0",
        ),
        pytest.param(
            replace(BASELINE, optimizer=Component("Adam", {"betas": [0.9, 0.999]})),
            replace(BASELINE, optimizer=Component("Adam", {"betas": (0.9, 0.999)})),
            id="list and tuple",
        ),
        pytest.param(
            BASELINE, changed_teleportation(BASELINE, cob_range=0.1), id="a CoB range without teleportation"
        ),
        pytest.param(
            BASELINE,
            replace(BASELINE, training=replace(BASELINE.training, optimizer_state="keep")),
            id="the optimizer's state at teleportations, without teleportation",
        ),
        pytest.param(
            TELEPORTED,
            changed_teleportation(TELEPORTED, metric="loss_lookahead_diff"),
            id="a metric in mode random",
        ),
        pytest.param(TELEPORTED, changed_teleportation(TELEPORTED, center=2), id="a center without centered"),
        pytest.param(
            TELEPORTED,
            changed_teleportation(TELEPORTED, teleport_only_once=False),
            id="every 0 epochs is once at 0",
        ),
    ],
)
def test_what_cannot_change_the_results_does_not_change_the_name(job: Job, same: Job) -> None:
    assert job.name == same.name


def test_the_hash_is_of_what_was_chosen_alone() -> None:
    # Written by hand: sorted keys, no defaults. So a field added later, at its default, changes no name.
    canonical = (
        '{"dataset":"digits","initializer":{"type":"none"},"model":{"cls":"mlp","hidden_layers":[500,500]},'
        '"optimizer":{"cls":"SGD","lr":0.01,"momentum":0.9},"run":3,'
        '"scheduler":{"cls":"ReduceLROnPlateau","mode":"max"},"teleportation":{},'
        '"training":{"batch_size":64,"epochs":30}}'
    )
    assert BASELINE.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_teleported_job_and_its_baseline_are_a_pair() -> None:
    assert TELEPORTED.seed == BASELINE.seed
    assert replace(BASELINE, optimizer=Component("Adam")).seed == BASELINE.seed
    assert replace(BASELINE, training=TrainingParams()).seed == BASELINE.seed


@pytest.mark.parametrize(
    "other",
    [
        replace(BASELINE, dataset="mnist"),
        replace(BASELINE, model=Component("mlp")),
        replace(BASELINE, initializer=Component("xavier")),
        replace(BASELINE, run=2),
    ],
)
def test_other_weights_or_data_have_another_seed(other: Job) -> None:
    assert other.seed != BASELINE.seed


def test_seeds_fit_into_63_bits_and_use_them() -> None:
    seeds = [replace(BASELINE, run=run).seed for run in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_the_runs_of_a_cell_share_its_name() -> None:
    assert replace(BASELINE, run=0).cell_name == replace(BASELINE, run=7).cell_name
    assert BASELINE.cell_name != TELEPORTED.cell_name


@pytest.mark.parametrize(
    ("teleportation", "label"),
    [
        (Teleportation(), "no teleport"),
        (TELEPORTED.teleportation, "random, once at 0, inter 0.9"),
        (Teleportation("pseudo", every_n_epochs=2), "pseudo, every 2, intra 0.5"),
        (Teleportation("random", teleport_prob=0.25), "random, every 1, intra 0.5, prob 0.25"),
        (
            Teleportation("optimize", objective="balance", max_log_range=None),
            "optimize, every 1, balance in 50 steps unbounded on 1",
        ),
        (
            Teleportation("optimize", max_log_range=0.5, steps=7, activations="kept"),
            "optimize, every 1, grad_norm in 7 steps within 0.5 on 1, activations kept",
        ),
        (
            Teleportation("optim", cob_sampling="centered", center=2),
            "optim, every 1, centered 0.5 around 2, weighted_grad_norm of 10 on 1",
        ),
    ],
)
def test_a_teleportation_in_words(teleportation: Teleportation, label: str) -> None:
    assert teleportation.label == label


def test_hyper_parameters_are_flat_and_scalar() -> None:
    hparams = TELEPORTED.hparams()
    assert hparams["dataset"] == "digits"
    assert hparams["run"] == 3
    assert hparams["seed"] == TELEPORTED.seed
    assert hparams["model"] == "mlp hidden_layers=[500, 500]"
    assert hparams["model.hidden_layers"] == "[500, 500]"
    assert hparams["initializer.type"] == "none"
    assert hparams["optimizer"] == "SGD lr=0.01 momentum=0.9"
    assert hparams["optimizer.lr"] == 0.01
    assert hparams["lr_scheduler.mode"] == "max"
    assert hparams["training.batch_size"] == 64
    assert hparams["teleport"] == "random, once at 0, inter 0.9"
    assert hparams["teleport.cob_range"] == 0.9
    assert all(value is None or isinstance(value, (str, int, float, bool)) for value in hparams.values())


def test_a_baseline_has_no_hyper_parameters_of_teleportation() -> None:
    keys = {key for key in BASELINE.hparams() if key.startswith("teleport.")}
    assert keys == {"teleport.mode"}


def test_each_mode_keeps_the_options_that_act_in_it() -> None:
    for mode, about in MODES.items():
        chosen = Teleportation(mode, cob_sampling="centered", activations="kept").settings()
        assert set(chosen) == {"mode", *about.options} - {"epochs", "every_n_steps", "on_plateau"}


SCHEDULED = {
    "epochs": ({"epochs": (20, 0, 10, 0)}, {"epochs": [0, 10, 20]}, "random, at 0 10 20, intra 0.5"),
    "steps": (
        {"every_n_steps": 7},
        {"every_n_steps": 7, "teleport_only_once": False},
        "random, every 7 steps, intra 0.5",
    ),
    "one step": (
        {"every_n_steps": 7, "teleport_only_once": True},
        {"every_n_steps": 7, "teleport_only_once": True},
        "random, once at step 7, intra 0.5",
    ),
    "plateau": (
        {"on_plateau": Plateau(3)},
        {"on_plateau": {"patience": 3}, "teleport_only_once": False},
        "random, plateaus of val_accuracy after 3, intra 0.5",
    ),
    "first plateau": (
        {"on_plateau": Plateau(3, "val_loss"), "teleport_only_once": True},
        {"on_plateau": {"patience": 3, "monitor": "val_loss"}, "teleport_only_once": True},
        "random, first plateau of val_loss after 3, intra 0.5",
    ),
}


@pytest.mark.parametrize("case", SCHEDULED)
def test_a_schedule_is_one_of_its_options_in_files_and_labels(case: str) -> None:
    options, settings, label = SCHEDULED[case]
    teleportation = Teleportation("random", **options)

    chosen = teleportation.settings()

    schedule = {key: chosen[key] for key in (*SCHEDULES, "teleport_only_once") if key in chosen}
    assert schedule == settings
    assert teleportation.label == label


def test_a_number_of_training_images_is_named_where_there_is_one() -> None:
    some = replace(BASELINE, training=replace(BASELINE.training, train_images=100))
    assert some.digest != BASELINE.digest
    assert some.seed == BASELINE.seed
    assert "training.train_images" not in BASELINE.hparams()
    assert some.hparams()["training.train_images"] == 100
    assert some.to_experiment()["training_params"]["train_images"] == 100


def test_certificates_are_named_where_they_are_switched_off() -> None:
    without = replace(TELEPORTED, training=replace(TELEPORTED.training, certificates=False))
    plain = replace(BASELINE, training=replace(BASELINE.training, certificates=False))

    assert "training.certificates" not in TELEPORTED.hparams()
    assert without.hparams()["training.certificates"] is False
    assert without.digest != TELEPORTED.digest
    assert plain.digest == BASELINE.digest


def test_activations_are_named_where_they_are_kept() -> None:
    kept = changed_teleportation(TELEPORTED, activations="kept")

    assert "teleport.activations" not in TELEPORTED.hparams()
    assert kept.hparams()["teleport.activations"] == "kept"
    assert kept.teleportation.label == "random, once at 0, inter 0.9, activations kept"
    assert kept.digest != TELEPORTED.digest
    assert kept.seed == TELEPORTED.seed


@pytest.mark.parametrize(
    ("sampling", "cob_range", "center", "allowed"),
    [
        ("intra_landscape", 0.0, 1.0, True),
        ("intra_landscape", 1.0, 1.0, True),
        ("intra_landscape", 1.01, 1.0, False),
        ("intra_landscape", -0.1, 1.0, False),
        ("inter_landscape", 3.0, 1.0, True),
        ("inter_landscape", -0.1, 1.0, False),
        ("positive", 0.0, 1.0, False),
        ("positive", 5.0, 1.0, True),
        ("negative", 0.0, 1.0, False),
        ("negative", 0.5, 1.0, True),
        ("centered", 0.0, 1.0, False),
        ("centered", 2.0, 2.0, True),
        ("centered", 2.1, 2.0, False),
        ("inter_landscape", float("nan"), 1.0, False),
        ("positive", float("inf"), 1.0, False),
        ("centered", 0.5, float("inf"), False),
    ],
)
def test_the_ranges_a_sampling_allows(sampling: str, cob_range: float, center: float, allowed: bool) -> None:
    assert (sampling_problem(sampling, cob_range, center) is None) is allowed


def test_an_unknown_sampling_is_answered_with_the_nearest() -> None:
    problem = sampling_problem("intra", 0.5)
    assert problem is not None
    assert all(name in problem for name in SAMPLINGS)
    assert "did you mean" in (sampling_problem("intra_landscapes", 0.5) or "")
