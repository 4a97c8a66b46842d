"""Jobs of plugins are trained as plain PyTorch would, wherever they are trained, and say with which code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.plugins import write_plugins
from support.training_jobs import STANDING_CLOCK, Events, run, run_options, small_job, stop_after
from torch.nn import functional

from nteleport.cli.app import nteleport
from nteleport.cli.submit import TrainTask
from nteleport.data.batching import batches, hold_out
from nteleport.data.catalog import DataSource
from nteleport.data.loaded import load_source
from nteleport.errors import JobError
from nteleport.jobs.job import Component, Job, Scheduler
from nteleport.jobs.paths import JobPaths
from nteleport.jobs.records import describe
from nteleport.jobs.state import read_status
from nteleport.plugins import admit, admitted, look_up
from nteleport.randomness import generator_for
from nteleport.runner.places import Place
from nteleport.runner.run import run as run_jobs
from nteleport.runner.run import run_in_slots
from nteleport.runner.trial import trial
from nteleport.training.losses import find_loss
from nteleport.training.metrics import score_sums

MOONS = DataSource("moons", "my_data:moons", {"noise": 0.2})
SINE = DataSource("sine", "my_data:sine")
WORDS = DataSource("words", "my_data:words")
SMALL = Component("my_nets:SmallNet", {"width": 8})
BAG = Component("my_nets:Bag")
LION = Component("my_optim:Lion", {"lr": 0.01})


@pytest.fixture(autouse=True)
def paths(tmp_path: Path) -> Iterator[list[Path]]:
    found = write_plugins(tmp_path)
    admit(found)
    yield found
    admit(())


def job(dataset: DataSource, model: Component = SMALL, **options: object) -> Job:
    return replace(small_job(model=model, **options), dataset=dataset)  # type: ignore[arg-type]


def test_a_job_of_plugins_is_the_training_of_plain_torch(tmp_path: Path) -> None:
    """A loop written out by hand: the user's network, optimizer, loss and data, batch by batch."""
    trained = job(MOONS, optimizer=LION, loss="my_losses:focal", epochs=2)
    result = run(trained, tmp_path, save_weights=True)
    weights = torch.load(JobPaths(tmp_path, trained.name).weights)["weights"]
    data = load_source(MOONS)
    torch.manual_seed(trained.seed)
    network = look_up("my_nets:SmallNet")(num_classes=2, input_shape=(2,), width=8)
    optimizer, focal = look_up("my_optim:Lion")(network.parameters(), lr=0.01), look_up("my_losses:focal")
    for epoch in range(2):
        order = torch.randperm(64, generator=generator_for("epoch", trained.seed, epoch))
        losses = []
        for rows in order.split(32):
            loss = focal(network(data.train.images[rows]), data.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert result.rows[epoch].train_loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)
    hits = (network(data.test.images).argmax(1) == data.test.labels).float().mean()
    assert result.test["accuracy"] == pytest.approx(float(hits))


@pytest.mark.parametrize("mode", ["random", "optim", "optimize"])
@pytest.mark.parametrize(
    ("dataset", "model", "loss"),
    [(MOONS, SMALL, "my_losses:focal"), (SINE, SMALL, "mse"), (WORDS, BAG, "cross_entropy")],
    ids=["classes", "numbers", "tokens"],
)  # fmt: skip
def test_a_teleported_job_starts_as_the_same_function(
    tmp_path: Path, mode: str, dataset: DataSource, model: Component, loss: str
) -> None:
    """At a learning rate of nothing, teleporting changes norms, and no score."""
    still = Component("SGD", {"lr": 1e-30})
    plain, moved = (
        run(job(dataset, model, mode=name, optimizer=still, loss=loss, epochs=1), tmp_path)
        for name in ("no_teleport", mode)
    )
    assert moved.rows[0].teleported == 1
    assert moved.rows[0].val_loss == pytest.approx(plain.rows[0].val_loss, rel=1e-4)
    assert moved.rows[0].weight_norm != pytest.approx(plain.rows[0].weight_norm, rel=1e-3)


def test_a_name_that_is_no_plugin_trains_the_same_as_its_plugin(tmp_path: Path) -> None:
    """`my_losses:same` is cross-entropy: same weights, same rows, but another job."""
    ours, theirs = (job(MOONS, loss=loss) for loss in ("cross_entropy", "my_losses:same"))
    assert ours.digest != theirs.digest
    assert ours.seed == theirs.seed
    first, second = (run(each, tmp_path).rows for each in (ours, theirs))
    for one, other in zip(first, second, strict=True):
        assert one.val_accuracy == other.val_accuracy
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)


def test_targets_that_are_numbers_have_no_accuracy(tmp_path: Path) -> None:
    plateau = Scheduler("ReduceLROnPlateau", {"patience": 0})
    fitted = job(SINE, loss="mse", validation=0.25, scheduler=plateau)
    result = run(fitted, tmp_path, save_weights=True)
    job_paths = JobPaths(tmp_path, fitted.name)
    table = pd.read_csv(job_paths.metrics)
    assert [name for name in table.columns if "accuracy" in name] == []
    found = json.loads(job_paths.result.read_text())
    assert set(found["test"]) == {"loss"}
    assert found["best"] == {"epoch": int(table["val_loss"].idxmin()), "val_loss": table["val_loss"].min()}
    data = load_source(SINE)
    network = look_up("my_nets:SmallNet")(1, (2,), 8)
    network.load_state_dict(torch.load(job_paths.weights)["weights"])
    error = functional.mse_loss(network(data.test.images)[:, 0], data.test.labels)
    assert result.test["loss"] == pytest.approx(error.item(), rel=1e-5)
    describe(fitted, job_paths)
    (status,) = read_status(tmp_path)
    assert (status.state, status.val_accuracy) == ("finished", None)


def test_mse_of_classes_is_that_of_vectors_with_a_one() -> None:
    outputs, classes = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = (outputs - torch.eye(3)[classes]).square()
    loss = find_loss("mse")
    assert loss(outputs, classes) == pytest.approx(float(expected.mean()))
    found = score_sums(outputs, classes, loss)
    assert float(found[0]) == pytest.approx(float(expected.mean(1).sum()), rel=1e-6)
    assert float(found[1]) == float((outputs.argmax(1) == classes).sum())


def test_a_data_set_is_the_same_whenever_it_is_loaded(paths: list[Path]) -> None:
    """Its function draws from torch's default generator, which is left as it was."""
    torch.manual_seed(5)
    first, state = load_source(MOONS), torch.get_rng_state()
    paths[1].write_text(paths[1].read_text() + "\n# another digest, so that it is loaded anew\n")
    admit(paths)
    torch.manual_seed(6)
    second = load_source(MOONS)
    assert torch.equal(first.train.images, second.train.images)
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.info.input_shape == (2,)
    assert (first.info.num_classes, first.info.train_size, first.info.test_size) == (2, 64, 64)


def test_kinds_of_inputs_are_served_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "kinds.py"
    path.write_text(
        "import numpy as np, torch\n"
        "def load(kind):\n"
        "    x = torch.arange(24).reshape(2, 3, 2, 2)\n"
        "    kinds = {'bytes': x.to(torch.uint8), 'half': x.half(), 'array': x.double().numpy()}\n"
        "    x = kinds.get(kind, x.int())\n"
        "    pair = (x, np.array([0, 1]))\n"
        "    return pair, pair\n"
    )
    admit([path])
    plain = torch.arange(24).reshape(2, 3, 2, 2)
    expected = {"bytes": plain / 255, "half": plain.float(), "array": plain.float(), "tokens": plain}
    for kind, wanted in expected.items():
        split = load_source(DataSource(kind, "kinds:load", {"kind": kind})).train
        ((images, labels),) = batches(split, batch_size=2)
        torch.testing.assert_close(images, wanted)
        assert labels.tolist() == [0, 1]


def test_numbers_are_held_out_without_classes() -> None:
    rest, held = hold_out(load_source(SINE).train, 0.25, seed=3)
    assert (len(rest), len(held)) == (48, 16)
    together = torch.cat((rest.labels, held.labels)).sort().values
    assert torch.equal(together, load_source(SINE).train.labels.sort().values)


def test_slots_train_jobs_of_plugins_as_the_command_itself(tmp_path: Path, paths: list[Path]) -> None:
    jobs = [job(MOONS, optimizer=LION, loss="my_losses:focal"), job(WORDS, BAG)]
    here = [run(each, tmp_path / "here") for each in jobs]
    options = run_options(tmp_path, plugins=tuple(plugin.path for plugin in admitted()))
    outcomes = run_in_slots(
        jobs, tmp_path / "slots", options, Events(), lambda: False, STANDING_CLOCK, [Place("cpu", 1)]
    )
    assert [outcome.state for outcome in outcomes] == ["finished"] * 2
    for each, result in zip(jobs, here, strict=True):
        rows = pd.read_csv(JobPaths(tmp_path / "slots", each.name).metrics)
        assert rows["val_loss"].tolist() == [row.val_loss for row in result.rows]


def test_a_worker_that_cannot_admit_a_plugin_ends_the_run(tmp_path: Path, paths: list[Path]) -> None:
    options = run_options(tmp_path, plugins=(*paths, tmp_path / "gone.py"))
    with pytest.raises(JobError, match=r"gone\.py: no such file"):
        run_in_slots(
            [job(MOONS)],
            tmp_path / "out",
            options,
            Events(),
            lambda: False,
            STANDING_CLOCK,
            [Place("cpu", 1)],
        )


def test_provenance_has_path_and_digest_and_changed_code_is_a_warning(
    tmp_path: Path, paths: list[Path]
) -> None:
    trained, out, events = job(MOONS), tmp_path / "out", Events()
    job_paths = JobPaths(out, trained.name)
    assert run(trained, out, stop_requested=stop_after(4), report=events).state == "stopped"
    assert events.warnings == []
    before = sha256(paths[0].read_bytes()).hexdigest()
    recorded = json.loads(job_paths.provenance.read_text())["plugins"]
    assert {"module": "my_nets", "path": str(paths[0]), "sha256": before} in recorded
    paths[0].write_text(paths[0].read_text() + "\n# changed\n")
    admit(paths)
    after = sha256(paths[0].read_bytes()).hexdigest()
    assert run(trained, out, report=events).state == "finished"
    (warning,) = events.warnings
    assert warning.endswith(f"was begun with my_nets.py {before[:12]} and continues with {after[:12]}")
    again = Events()
    run_jobs([trained], out, run_options(tmp_path), again)
    assert again.warnings == []
    paths[0].write_text(paths[0].read_text() + "# and again\n")
    admit(paths)
    run_jobs([trained], out, run_options(tmp_path), again)
    assert again.warnings == [f"{paths[0]} has changed since 1 of these jobs was trained"]


def test_the_description_of_a_job_runs_it_again(tmp_path: Path, paths: list[Path]) -> None:
    trained = job(MOONS, optimizer=LION, loss="my_losses:focal")
    run_jobs([trained], tmp_path / "out", run_options(tmp_path), Events())
    config = JobPaths(tmp_path / "out", trained.name).config
    plugins = [word for path in paths for word in ("--plugin", str(path))]
    arguments = ["train", str(config), "--out", str(tmp_path / "out"), "--dry-run"]
    listed = CliRunner().invoke(nteleport, [*arguments, *plugins])
    assert f"finished    {trained.name}" in listed.stdout
    refused = CliRunner().invoke(nteleport, arguments)
    assert refused.exit_code == 2
    assert "expected --plugin my_data.py" in refused.stderr


def test_a_task_of_a_cluster_gets_the_plugins_of_its_submission(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, ...]] = []

    def submit(jobs: Sequence[Job], out: Path, options: object, resources: object, task: TrainTask) -> None:
        given.append(task.options)

    monkeypatch.setattr("nteleport.cli.submit._submit", submit)
    monkeypatch.setattr("nteleport.extras.import_extra", lambda *given, **more: None)
    config = tmp_path / "e.yml"
    config.write_text(
        "datasets: [{load: 'my_data:moons', name: moons}]\nmodels: ['my_nets:SmallNet']\noptimizers: [SGD]\n"
        "training_params: {epochs: 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [word for path in paths[:2] for word in ("--plugin", path.name)]
    outcome = CliRunner().invoke(nteleport, ["submit", "e.yml", "--out", "out", *words])
    assert outcome.exit_code == 0, outcome.output
    ((*_, first, one, second, other),) = given
    assert [first, one, second, other] == ["--plugin", str(paths[0]), "--plugin", str(paths[1])]
    task = CliRunner().invoke(nteleport, ["train", "e.yml", "--out", "out", *given[0]])
    assert "1 job: 1 finished" in task.stdout


def test_a_study_takes_networks_and_data_of_plugins(tmp_path: Path, paths: list[Path]) -> None:
    """The lengths of its weights are those of the network at its seed."""
    plugins = [word for path in paths for word in ("--plugin", str(path))]
    words = ["--model", "my_nets:Bag", "--dataset", "{load: my_data:words, name: words}"]
    out = tmp_path / "study"
    first = CliRunner().invoke(nteleport, ["study", "dot-product", *words, *plugins, "--out", str(out)])
    assert first.exit_code == 0, first.output
    table = (out / "dot-product.csv").read_text()
    assert "my_nets:Bag,words" in table
    again = ["study", "--from", str(out / "study.yml"), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(nteleport, again).exit_code == 2
    assert CliRunner().invoke(nteleport, [*again, *plugins]).exit_code == 0
    assert (tmp_path / "again" / "dot-product.csv").read_text() == table


def test_a_trial_leaves_no_trace() -> None:
    state = torch.get_rng_state()
    assert trial(SMALL, MOONS, "standard", ["cross_entropy"]).of_network == ""
    assert torch.equal(torch.get_rng_state(), state)


def test_names_of_jobs_have_the_reference_and_not_the_code(paths: list[Path]) -> None:
    name = job(MOONS, optimizer=LION).name
    assert name.startswith("moons-my_nets-smallnet-width8-my_optim-lion-lr0.01-no_teleport-run0-")
    paths[0].write_text("raise AssertionError('other code')")
    admit(paths)
    assert job(MOONS, optimizer=LION).name == name
    assert job(replace(MOONS, kwargs={"noise": 0.3}), optimizer=LION).name != name
