"""Experiment files: what they mean, and everything that can be wrong with one, each with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nteleport.errors import ExperimentError
from nteleport.experiment.experiment import Experiment, load_experiment
from nteleport.experiment.matrix import expand
from nteleport.jobs.job import Component, Scheduler, Teleportation, TrainingParams

MINIMAL = "datasets: digits\nmodels: mlp\noptimizers: SGD\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Experiment:
    path = tmp_path / "e.yml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(path, overrides=overrides)


def complaints(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """The problems as `line:column: message`; those of overrides begin with `--set:`."""
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, text, *overrides)
    return [str(problem).removeprefix(f"{tmp_path / 'e.yml'}:") for problem in caught.value.problems]


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    experiment = load(tmp_path, MINIMAL)
    assert experiment.datasets == ("digits",)
    assert [model.value for model in experiment.models] == [Component("mlp")]
    assert experiment.initializers == (Component("none"),)
    assert experiment.training == (TrainingParams(),)
    assert experiment.teleportations == (Teleportation(),)
    assert experiment.runs == (0,)


def test_a_file_for_the_published_implementation_reads_unchanged(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        """
runs_per_config: 5
datasets: [cifar10, cifar100]
models:
  - MLPCOB
  - cls: MLPCOB
    activation: elu
  - VGG16COB
  - resnet18COB
initializers:
  - type: none
  - type: normal
    gain: 0.02
optimizers:
  - cls: SGD
    lr: 1e-2
    momentum: 0.9
    lr_scheduler:
      cls: ReduceLROnPlateau
      mode: max
training_params:
  epochs: 100
  batch_size: 256
  drop_last_batch: True
  shuffle_batches: True
teleportations:
  no_teleport:
  teleport:
    mode:
      random:
      optim:
        metric: [weighted_grad_norm]
    every_n_epochs: [0]
    teleport_only_once: [True]
    cob_sampling: [inter_landscape]
    cob_range: [0.9]
""",
    )
    assert [model.value.cls for model in experiment.models] == ["mlp", "mlp", "vgg16", "resnet18"]
    assert experiment.models[1].value.kwargs == {"activation": "elu"}
    assert experiment.initializers[1] == Component("normal", {"gain": 0.02})
    assert experiment.optimizers[0].value.optimizer == Component("SGD", {"lr": 0.01, "momentum": 0.9})
    assert experiment.optimizers[0].value.scheduler == Scheduler("ReduceLROnPlateau", {"mode": "max"})
    assert experiment.training == (TrainingParams(100, 256, shuffle_batches=True, drop_last_batch=True),)
    once = {"every_n_epochs": 0, "teleport_only_once": True, "cob_range": 0.9}
    assert experiment.teleportations == (
        Teleportation(),
        Teleportation("random", cob_sampling="inter_landscape", **once),
        Teleportation("optim", cob_sampling="inter_landscape", **once),
    )


@pytest.mark.parametrize(
    "mode", ["[random, pseudo]", "{random: , pseudo: }", "[random, {pseudo: }]", "{random: {}, pseudo: {}}"]
)
def test_modes_are_a_mapping_or_a_list(tmp_path: Path, mode: str) -> None:
    experiment = load(tmp_path, f"{MINIMAL}teleportations: {{teleport: {{mode: {mode}}}}}")
    assert [each.mode for each in experiment.teleportations] == ["random", "pseudo"]


def test_a_scalar_stands_for_a_list_of_one(tmp_path: Path) -> None:
    scalars = "{teleport: {mode: optim, metric: loss_lookahead_diff, cob_range: 0.3}}"
    lists = "{teleport: {mode: [optim], metric: [loss_lookahead_diff], cob_range: [0.3]}}"
    first = load(tmp_path, f"{MINIMAL}teleportations: {scalars}").teleportations
    assert first == load(tmp_path, f"{MINIMAL}teleportations: {lists}").teleportations
    assert first == (Teleportation("optim", metric="loss_lookahead_diff", cob_range=0.3),)


def test_the_options_of_a_mode_win_over_those_of_all(tmp_path: Path) -> None:
    text = "{teleport: {mode: {random: {cob_range: 0.1}, pseudo: }, cob_range: 0.9}}"
    ranges = [each.cob_range for each in load(tmp_path, f"{MINIMAL}teleportations: {text}").teleportations]
    assert ranges == [0.1, 0.9]


def test_a_list_of_training_params_is_an_axis(tmp_path: Path) -> None:
    experiment = load(
        tmp_path, f"{MINIMAL}training_params: [{{batch_size: 8}}, {{batch_size: 1024, max_batch: }}]"
    )
    assert experiment.training == (TrainingParams(batch_size=8), TrainingParams(batch_size=1024))


def test_single_runs_can_be_named(tmp_path: Path) -> None:
    assert load(tmp_path, f"{MINIMAL}runs_per_config: 3").runs == (0, 1, 2)
    assert load(tmp_path, f"{MINIMAL}runs: [3, 1]").runs == (3, 1)


@pytest.mark.parametrize(
    ("override", "rates"),
    [("optimizers.lr=0.5", [0.5, 0.5]), ("optimizers.1.lr=5e-1", [0.1, 0.5]), ("optimizers=SGD", [None])],
)
def test_an_override_reaches_one_item_or_all(
    tmp_path: Path, override: str, rates: list[float | None]
) -> None:
    text = "datasets: digits\nmodels: mlp\noptimizers: [{cls: SGD, lr: 0.1}, {cls: Adam, lr: 0.1}]\n"
    experiment = load(tmp_path, text, override)
    assert [entry.value.optimizer.kwargs.get("lr") for entry in experiment.optimizers] == rates


def test_an_override_makes_what_is_missing(tmp_path: Path) -> None:
    overrides = ("training_params.epochs=3", "teleportations.teleport.mode.random.cob_range=[0.1, 0.2]")
    experiment = load(tmp_path, f"{MINIMAL}teleportations: {{teleport: {{mode: {{random: }}}}}}", *overrides)
    assert experiment.training == (TrainingParams(epochs=3),)
    assert [each.cob_range for each in experiment.teleportations] == [0.1, 0.2]


def test_an_override_of_many_items_can_be_followed_by_one_of_an_item(tmp_path: Path) -> None:
    text = "datasets: digits\nmodels: mlp\noptimizers: [{cls: SGD}, {cls: Adam}]\n"
    overrides = (
        "optimizers.lr_scheduler={cls: StepLR, step_size: 1}",
        "optimizers.1.lr_scheduler.step_size=2",
    )
    schedulers = [entry.value.scheduler for entry in load(tmp_path, text, *overrides).optimizers]
    assert schedulers == [Scheduler("StepLR", {"step_size": 1}), Scheduler("StepLR", {"step_size": 2})]


def test_an_override_does_not_leak_through_an_alias(tmp_path: Path) -> None:
    text = "datasets: digits\nmodels: mlp\noptimizers: [&a {cls: SGD, lr: 0.1}, *a]\n"
    experiment = load(tmp_path, text, "optimizers.0.lr=1")
    assert [entry.value.optimizer.kwargs["lr"] for entry in experiment.optimizers] == [1, 0.1]


def bad_files() -> dict[str, tuple[str, list[str]]]:
    """The cases of `bad_experiments.txt`: each a file with marks, and parts of the messages."""
    cases = {}
    text = (Path(__file__).parent / "bad_experiments.txt").read_text(encoding="utf-8")
    for case in text.split("\n=== ")[1:]:
        title, _, rest = case.partition("\n")
        lines = rest.rstrip().split("\n")
        file = "\n".join(line for line in lines if not line.startswith("> "))
        cases[title] = file, [line.removeprefix("> ") for line in lines if line.startswith("> ")]
    return cases


def places(marked: str) -> list[str]:
    """`line:column` of each §, counted without the marks."""
    found = []
    for line, text in enumerate(marked.split("\n"), start=1):
        pieces = text.split("§")
        lengths = [len("".join(pieces[: count + 1])) + 1 for count in range(len(pieces) - 1)]
        found += [f"{line}:{length}" for length in lengths]
    return found


def place_of(problem: str) -> str:
    return ":".join(problem.split(":")[:2])


@pytest.mark.parametrize(("marked", "messages"), bad_files().values(), ids=bad_files())
def test_a_bad_file_is_reported_with_place_and_reason(
    tmp_path: Path, marked: str, messages: list[str]
) -> None:
    problems = complaints(tmp_path, marked.replace("§", ""))
    assert list(dict.fromkeys(place_of(problem) for problem in problems)) == places(marked)
    assert [message for message in messages if message not in "\n".join(problems)] == []


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "datasets: [digit]\nmodels: [mpl]\noptimizers: [{lr: 1}]\ntraining_params: {epochs: 0}\nfoo: 1\n"
    problems = complaints(tmp_path, text)
    assert [problem.split(":")[0] for problem in problems] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training_params.epochs=0", "--set:1:24: epochs: the number 0"),
        ("training_params.epochs", "--set:1:1: 'training_params.epochs': expected path=value"),
        ("training_params.epoch=1", "--set:1:1: unknown key 'epoch' in training_params"),
        ("training_params.epochs=[", "--set:1:24: not valid YAML"),
        ("training_params.epochs=!!int 3", "--set:1:24: YAML tag"),
        ("models.4=mlp", "--set:1:1: no item 4 in a list of 1"),
        ("datasets.name=digits", "--set:1:1: cannot set 'name' of the text 'digits'"),
        ("=3", "--set:1:1: '=3': expected path=value"),
    ],
)
def test_a_bad_override_has_its_own_place(tmp_path: Path, override: str, problem: str) -> None:
    problems = complaints(tmp_path, "datasets: digits\nmodels: [mlp]\noptimizers: SGD\n", override)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_the_second_override_is_called_the_second(tmp_path: Path) -> None:
    problems = complaints(tmp_path, MINIMAL, "runs_per_config=2", "training_params.epochs=a")
    assert problems[0].startswith("--set:2:24: epochs")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"missing\.yml: No such file or directory, expected an experiment"
    ):
        load_experiment(tmp_path / "missing.yml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="not UTF-8 text"):
        load_experiment(tmp_path / "e.yml")


def test_reading_and_expanding_need_no_torch() -> None:
    code = "import sys, nteleport.experiment.matrix; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_gain_of_kaiming_has_no_effect_as_in_the_published_code(tmp_path: Path) -> None:
    """`type: kaiming, gain: 0.02` stands in a published file; its networks deviate by √(2 / fan in)."""
    texts = ["{type: kaiming, gain: 0.02, non_linearity: relu}", "{type: kaiming, non_linearity: relu}"]
    names = []
    for text in texts:
        path = tmp_path / "e.yml"
        path.write_text(f"datasets: [digits]\nmodels: [mlp]\noptimizers: [SGD]\ninitializers: [{text}]\n")
        names += [job.name for job in expand(load_experiment(path))]
    assert names[0] == names[1]
