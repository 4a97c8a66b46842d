"""Plugins: who may be imported, what a reference means, and that a bad file is one clear error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.plugins import write_plugins
from torch import nn

from nteleport.cli.app import nteleport
from nteleport.errors import ExperimentError, ModelError, PluginError, UnknownNameError
from nteleport.experiment.experiment import load_experiment
from nteleport.networks.models import build_model, seeded_model
from nteleport.networks.references import reference_defaults
from nteleport.plugins import admit, admitted, look_up
from nteleport.runner.preflight import load_checked

EXPERIMENT = """\
datasets: [{load: "my_data:moons", name: moons}]
models: [{cls: "my_nets:SmallNet", width: 8}]
optimizers: [{cls: "my_optim:Lion", lr: 0.01}]
training_params: {epochs: 2, loss: "my_losses:focal"}
"""


@pytest.fixture(autouse=True)
def _none_admitted() -> Iterator[None]:
    yield
    admit(())


def command(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(nteleport, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaints(tmp_path: Path, text: str) -> list[str]:
    """The problems of an experiment file as `line:column: message`."""
    path = tmp_path / "e.yml"
    path.write_text(text)
    try:
        load_checked(path)
    except ExperimentError as error:
        return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
    return []


def test_an_experiment_file_alone_imports_nothing(tmp_path: Path) -> None:
    """Not even a module beside it: each name is an error with its place and the option."""
    write_plugins(tmp_path)
    plugin(tmp_path, "raise AssertionError('imported')", "my_nets.py")
    names = ("my_data", "my_nets", "my_optim", "my_losses")
    for name in names:  # of earlier tests
        sys.modules.pop(name, None)
    found = complaints(tmp_path, EXPERIMENT)
    assert [line.partition(": ")[0] for line in found] == ["1:19", "2:16", "3:20", "4:36"]
    assert all(f"expected --plugin {name}.py" in line for name, line in zip(names, found, strict=True))
    assert not set(names) & sys.modules.keys()


@pytest.mark.parametrize("reference", ["os:system", "builtins:eval", "nteleport:analyze", "torch.nn:Linear"])
def test_modules_of_python_are_no_plugins(tmp_path: Path, reference: str) -> None:
    text = EXPERIMENT.replace("my_nets:SmallNet", reference)
    assert any(line.startswith("2:16: ") for line in complaints(tmp_path, text))


def test_reading_a_file_with_admitted_plugins_runs_none_of_them(tmp_path: Path) -> None:
    """A dry run, or unravelling, needs names alone."""
    marker = tmp_path / "ran"
    admit(
        plugin(tmp_path, f"open({str(marker)!r}, 'w')", f"{name}.py")
        for name in ("my_data", "my_nets", "my_optim", "my_losses")
    )
    (tmp_path / "e.yml").write_text(EXPERIMENT)
    load_experiment(tmp_path / "e.yml")
    assert not marker.exists()


def test_each_command_admits_its_own(tmp_path: Path) -> None:
    (path, *_) = write_plugins(tmp_path)
    arguments = ["inspect", f"{path.stem}:SmallNet", "--input-shape", "2"]
    assert command(*arguments, "--plugin", path)[0] == 0
    code, _, error = command(*arguments)
    assert code == 2
    assert "expected --plugin my_nets.py" in error


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("import torch\nx = 1\ny = x / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import sys\n\n\ndef leave():\n    sys.exit(0)\n\n\nleave()\n", 5, "SystemExit: 0"),
        ("x = 1\ndef f(:\n    pass\n", 2, "SyntaxError: "),
        ("\nfrom nowhere_to_be_found import x\n", 2, "ModuleNotFoundError: "),
        ("\n\nclass Odd(BaseException): pass\nraise Odd\n", 4, "Odd"),
    ],
)
def test_a_plugin_that_fails_is_one_error_that_names_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = plugin(tmp_path, text)
    (tmp_path / "e.yml").write_text("datasets: digits\nmodels: 'mine:Net'\noptimizers: SGD\n")
    code, out, error = command("train", tmp_path / "e.yml", "--out", tmp_path / "out", "--plugin", path)
    assert (code, out) == (2, "")
    assert error.startswith(f"Error: {path}:{line} cannot be run: {message}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json.py", "json is the name of another module"),  # of Python
        ("pandas.py", "pandas is the name of another module"),  # installed
        ("timm.py", "timm is the name of another module"),
        ("my-nets.py", "'my-nets' is no name of a module"),
        ("nets.txt", "expected a Python file"),
        ("missing.py", "no such file"),
    ],
)
def test_a_file_that_cannot_be_admitted_is_one_error(tmp_path: Path, name: str, message: str) -> None:
    if name != "missing.py":
        plugin(tmp_path, "x = 1\n", name)
    with pytest.raises(PluginError, match=message):
        admit([tmp_path / name])
    assert admitted() == ()


def test_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [plugin(tmp_path, ""), plugin(tmp_path / "other", "")]
    with pytest.raises(PluginError, match="have one name"):
        admit(paths)


def test_what_runs_is_what_the_digest_says(tmp_path: Path) -> None:
    """The file is read once: a later edit neither runs nor changes the digest."""
    path = plugin(tmp_path, "x = 1\n")
    (found,) = admit([path])
    path.write_text("x = 2\n")
    assert look_up("mine:x") == 1
    assert found.digest == sha256(b"x = 1\n").hexdigest()
    admit([path])
    assert look_up("mine:x") == 2
    assert not (tmp_path / "__pycache__").exists()


def test_plugins_import_each_other_once(tmp_path: Path) -> None:
    first = plugin(tmp_path, "import base\nclass Net(base.Base): pass\n", "first.py")
    base = plugin(tmp_path, "class Base: pass\n", "base.py")
    admit([first, base])
    assert issubclass(look_up("first:Net"), look_up("base:Base"))


def test_a_network_gets_what_its_signature_has_and_the_data_set_gives(tmp_path: Path) -> None:
    path = plugin(
        tmp_path,
        "from torch import nn\n"
        "def classes(num_classes): return nn.Linear(5, num_classes)\n"
        "def both(input_shape, num_classes, width=3): return nn.Linear(input_shape[0] * width, num_classes)\n"
        "def neither(width=3): return nn.Linear(width, 2)\n",
    )
    admit([path])

    def shape(name: str, **kwargs: int) -> list[int]:
        network = build_model(f"mine:{name}", input_shape=(7,), num_classes=4, **kwargs)
        assert isinstance(network, nn.Linear)
        return list(network.weight.shape)

    assert shape("classes") == [4, 5]
    assert shape("both", width=2) == [4, 14]
    assert shape("neither") == [2, 3]
    assert reference_defaults("mine:both") == {"width": 3}


def test_a_seeded_network_of_a_plugin_is_that_of_its_seed(tmp_path: Path) -> None:
    admit(
        [plugin(tmp_path, "from torch import nn\ndef make(num_classes): return nn.Linear(5, num_classes)\n")]
    )
    before = torch.get_rng_state()
    weights = [
        seeded_model("mine:make", {}, input_shape=(5,), num_classes=4, seed=seed).weight for seed in (3, 3, 4)
    ]
    torch.manual_seed(3)
    assert torch.equal(weights[0], nn.Linear(5, 4).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ({"width: 8": "widths: 8"}, "2:36", "no argument 'widths', expected width, did you mean 'width'?"),
        ({"width: 8": "width: wide"}, "2:43", "width: the text 'wide', expected a number"),
        ({"width: 8": "num_classes: 8"}, "2:36", "takes no argument 'num_classes'"),
        ({"SmallNet": "Smallnet"}, "2:16", "has no 'Smallnet', did you mean 'SmallNet'?"),
        ({"my_nets:SmallNet": "my_nets:torch", ", width: 8": ""}, "2:16", "is a module, expected the"),
        ({"my_nets:SmallNet": "my_nets:number", ", width: 8": ""}, "2:16", "makes int, expected a torch.nn"),
        ({"SmallNet": "Raising"}, "2:16", "with {'width': 8}: {nets}:23: ValueError: no such"),
        ({"SmallNet": "Failing"}, "2:16", "fails on inputs [2, 2] of moons: {nets}:30: Runtime"),
        ({"SmallNet": "Images"}, "2:16", "returns [2, 1], expected [2, 2]: a number for each class"),
        ({"moons}": "moons, noises: 1}"}, "1:49", "takes no argument 'noises', expected n, noise, did"),
        ({"moons}": "moons, noise: loud}"}, "1:56", "noise: the text 'loud', expected a number"),
        ({"my_data:moons": "my_data:moon"}, "1:19", "has no 'moon', did you mean 'moons'?"),
        ({"my_data:moons": "my_data:raising"}, "1:19", "my_data:raising raised {data}:27: KeyError: 'gone'"),
        ({"my_data:moons": "my_data:one_pair"}, "1:19", "returned a tuple of 2, expected two pairs"),
        ({"my_data:moons": "my_data:unequal"}, "1:19", "train_inputs [3, 2] and train_targets [4]"),
        ({"my_data:moons": "my_data:infinite"}, "1:19", "train_inputs has values that are not finite"),
        ({"my_data:moons": "my_data:sine"}, "4:36", "focal fails on outputs [2, 1] and targets [2]"),
        ({"name: moons": "name: digits"}, "1:42", "name: digits is another data set"),
        ({", name: moons": ""}, "1:12", "name: nothing, expected a name for the data set"),
        ({"lr: 0.01": "lr: fast"}, "3:41", "lr: the text 'fast', expected a number"),
        ({"lr: 0.01": "speed: 1"}, "3:37", "no argument 'speed', expected lr, betas, weight_decay"),
        ({"lr: 0.01": "lr: -1"}, "3:20", "my_optim:Lion: {optim}:8: ValueError: a rate of -1"),
        ({"my_optim:Lion": "my_optim:torch"}, "3:20", "is no optimizer, expected a subclass of torch's"),
        ({"lr: 0.01": "lr: 1, lr_scheduler: {cls: 'my_optim:Lion'}"}, "3:64", "is no learning-rate sched"),
        ({"my_losses:focal": "my_losses:fokal"}, "4:36", "has no 'fokal', did you mean 'focal'?"),
        ({"my_losses:focal": "my_losses:each"}, "4:36", "returned a tensor (2,), expected the mean"),
        ({"my_losses:focal": "my_losses:constant"}, "4:36", "returned a constant, which has no"),
        ({"my_losses:focal": "crossentropy"}, "4:36", "expected cross_entropy or mse"),
    ],
)  # fmt: skip
def test_a_mistake_about_a_plugin_is_reported_with_its_place(
    tmp_path: Path, given: dict[str, str], place: str, message: str
) -> None:
    nets, data, optim, losses = write_plugins(tmp_path)
    admit([nets, data, optim, losses])
    assert complaints(tmp_path, EXPERIMENT) == []
    text = EXPERIMENT
    for old, new in given.items():
        assert old in text
        text = text.replace(old, new)
    (problem,) = complaints(tmp_path, text)
    assert problem.startswith(f"{place}: ")
    for key, path in {"nets": nets, "data": data, "optim": optim}.items():
        message = message.replace(f"{{{key}}}", str(path))
    assert message in problem


def test_an_accuracy_is_not_watched_where_there_is_none(tmp_path: Path) -> None:
    admit(write_plugins(tmp_path))
    text = EXPERIMENT.replace("my_data:moons", "my_data:sine").replace("my_losses:focal", "mse")
    plateau = "teleportations: {teleport: {mode: random, on_plateau: {patience: 1, monitor: val_accuracy}}}\n"
    text = text.replace("epochs: 2", "epochs: 9")
    (problem,) = complaints(tmp_path, text + plateau)
    assert "targets of moons are numbers, so on_plateau cannot monitor val_accuracy" in problem
    assert complaints(tmp_path, text + plateau.replace("val_accuracy", "val_loss")) == []
    held_out = text.replace("epochs: 9", "epochs: 9, validation: 0.5").replace(
        "lr: 0.01", "weight_decay: 0.0"
    )
    (problem,) = complaints(tmp_path, held_out + "tune: {optimizer.lr: [0.1, 0.2], runs: [7]}\n")
    assert "targets of moons are numbers, so there is no accuracy to tune by" in problem
    mode = "lr: 0.01, lr_scheduler: {cls: ReduceLROnPlateau, mode: max}"
    (problem,) = complaints(tmp_path, text.replace("lr: 0.01", mode))
    assert "mode max, expected min: targets are numbers" in problem


def test_networks_of_timm_and_transformers_need_no_plugin() -> None:
    """Against the libraries themselves: the same weights for the same seed, the same logits."""
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    images, tokens = torch.randn(2, 1, 32, 32), torch.randint(30, (2, 7))
    torch.manual_seed(0)
    ours = build_model("timm:resnet10t", input_shape=(1, 32, 32), num_classes=3).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    assert torch.equal(ours(images), theirs(images))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ours = build_model("hf:bert", input_shape=(7,), num_classes=3, vocab_size=30, **sizes).eval()
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=30, num_labels=3, **sizes)
    theirs = transformers.BertForSequenceClassification(config).eval()
    assert torch.equal(ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm:resnet10x", {}, "timm has no model 'resnet10x', did you mean 'resnet10t'?"),
        ("timm:resnet10t", {"pretrained": True}, "takes no argument 'pretrained'"),
        ("timm:resnet10t", {"checkpoint_path": "x"}, "takes no argument 'checkpoint_path'"),
        ("timm:resnet10t", {"widths": 2}, "unexpected keyword argument 'widths'"),
        ("hf:brt", {}, "transformers has no classifier 'brt', did you mean 'bert'?"),
        ("hf:bert", {"hidden_sizes": 8}, "takes no argument 'hidden_sizes', did you mean 'hidden_size'?"),
        ("hf:bert", {"auto_map": {}}, "takes no argument 'auto_map'"),
        ("hf:bert", {"_attn_implementation": "x/y"}, "takes no argument '_attn_implementation'"),
    ],
)
def test_what_a_library_does_not_take_is_one_error(
    name: str, arguments: dict[str, object], message: str
) -> None:
    pytest.importorskip("timm"), pytest.importorskip("transformers")
    with pytest.raises((ModelError, UnknownNameError)) as caught:
        build_model(name, input_shape=(3, 32, 32), num_classes=3, **arguments)
    assert message in str(caught.value)
