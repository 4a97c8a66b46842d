"""``nteleport inspect``: its table is the network's own list of parameters, and its sums are right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.plugins import write_plugins
from torch import nn
from torchvision.models import squeezenet1_1

from nteleport.cli.app import nteleport
from nteleport.plugins import admit


def inspect(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(nteleport, ["inspect", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_table_has_a_row_for_each_parameter_in_order() -> None:
    code, out, _ = inspect("squeezenet1_1")
    table = out.split("\n\n")[0].splitlines()
    assert code == 0
    assert table[0].split() == ["parameter", "status", "reason", "shape"]
    assert [row.split()[0] for row in table[1:]] == [name for name, _ in squeezenet1_1().named_parameters()]


def test_the_summary_counts_entries_layers_and_weights() -> None:
    """MLP 5×500 on 3×32×32 images with 10 classes, by hand."""
    _, out, _ = inspect("MLPCOB")
    weights = 3072 * 500 + 500 + 4 * (500 * 500 + 500) + 500 * 10 + 10
    assert "2,500 entries in 5 layers: 5 × 500" in out
    assert f"teleported       11 of 12 tensors, {weights - 10:,} of {weights:,} weights, 100.0%" in out
    assert f"untouched        1 of 12 tensors, 10 of {weights:,} weights, 0.0%" in out  # output bias


def test_the_data_set_gives_the_input_and_the_classes(tmp_path: Path) -> None:
    inspect("mlp", "--dataset", "cifar100", "--csv", str(tmp_path / "table.csv"))
    shapes = {row["parameter"]: row["shape"] for row in read(tmp_path / "table.csv")}
    assert shapes["1.weight"] == "500x3072"
    assert shapes["11.weight"] == "100x500"


class OddNetwork(nn.Module):
    """Has a weight that only an operator reads which nobody has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 4)
        self.odd = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.linear(x.flatten(1)) * torch.linalg.vector_norm(self.odd))


def test_what_is_untouched_is_reported_with_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nteleport.networks.chosen.build_model", lambda *args, **kwargs: OddNetwork())
    _, out, _ = inspect("mlp", "--csv", str(tmp_path / "table.csv"))
    odd = next(row for row in read(tmp_path / "table.csv") if row["parameter"] == "odd")
    assert odd["status"] == "untouched"
    assert "linalg_vector_norm" in odd["reason"]
    assert f"untouched        1 of 4 tensors, 4 of {3072 * 4 + 16:,} weights, 0.0%" in out


def test_the_table_alone_goes_to_standard_output() -> None:
    code, out, _ = inspect("mlp", "--csv", "-")
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0
    assert [row["status"] for row in rows] == ["teleported"] * 11 + ["untouched"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "did you mean 'resnet18'?"),
        (["mlp", "--dataset", "cifar1"], "did you mean 'cifar10"),
        (["inception_v3"], "at least 75×75"),
    ],
)
def test_what_does_not_exist_or_fit_is_one_message(arguments: list[str], message: str) -> None:
    code, out, err = inspect(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_all_is_written_as_json() -> None:
    """SqueezeNet's first convolution feeds 64 maps, which its first fire module reads."""
    code, out, _ = inspect("squeezenet1_1", "--json")
    found = json.loads(out)
    assert code == 0
    shapes = {row["name"]: tuple(row["shape"]) for row in found["parameters"]}
    network = squeezenet1_1(num_classes=10)
    assert shapes == {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert found["activations"] == "conjugated"
    assert found["layers"][0] == {"name": "features.0", "start": 0, "size": 64, "admits": {"nonzero": 64}}
    assert found["axes"]["groups"]["features.0"] == {"start": 0, "size": 64, "admits": "nonzero"}
    parts = found["axes"]["parameters"]["features.3.squeeze.weight"]
    assert [(part["axis"], part["group"], part["power"]) for part in parts] == [
        (0, "features.3.squeeze", 1),
        (1, "features.0", -1),
    ]


def test_json_and_the_table_do_not_share_standard_output() -> None:
    code, out, err = inspect("mlp", "--json", "--csv", "-")
    assert (code, out) == (2, "")
    assert "both write to standard output" in err


def test_with_activations_kept_the_free_entries_are_listed_by_layer() -> None:
    """Behind a ReLU any positive number is free, behind a tanh a sign, behind a sigmoid nothing."""

    def section(heading: str, *arguments: str) -> list[str]:
        code, out, _ = inspect("mlp", "--activations", "kept", *arguments)
        assert code == 0
        return out.partition(heading + "\n")[2].partition("\n\n")[0].splitlines()

    layers = ["1", "3", "5", "7", "9"]
    lost = "entries of the paper's form that are lost"
    assert section("free entries") == [f"{layer}  500 positive" for layer in layers]
    assert section(lost) == ["none"]
    tanh, sigmoid = (("--model-args", f"activation={word}") for word in ("tanh", "sigmoid"))
    assert section("free entries", *tanh) == [f"{layer}  500 sign" for layer in layers]
    assert section("free entries", *sigmoid) == ["none"]
    assert section(lost, *sigmoid) == [f"{layer}  500 pinned by sigmoid" for layer in layers]


def test_inputs_of_norms_are_free_where_asked() -> None:
    """VGG-11-BN has 2,752 channels in 8 convolutions, each with a batch norm: free before it and after it,
    and the 2 × 4,096 neurons of its hidden linear layers."""
    words = ["vgg11_bn", "--activations", "kept", "--norms", "up_to_eps"]
    code, out, _ = inspect(*words, "--json")
    found = json.loads(out)
    assert (code, found["cob_size"]) == (0, 2 * 2752 + 2 * 4096)
    assert found["norms"] == "up_to_eps"
    assert len(found["buffers"]) == 2 * 8
    assert "features.1.running_var" in found["buffers"]
    code, out, err = inspect("vgg11_bn", "--norms", "up_to_eps")
    assert (code, out) == (2, "")
    assert "--norms up_to_eps needs --activations kept" in err


def test_the_input_may_have_any_shape() -> None:
    _, out, _ = inspect("mlp", "--input-shape", "1,2,3", "--model-args", "num_classes=7", "--csv", "-")
    shapes = {row["parameter"]: row["shape"] for row in csv.DictReader(out.splitlines())}
    assert (shapes["1.weight"], shapes["11.weight"]) == ("500x6", "7x500")


def test_larger_images_for_a_network_that_needs_them(tmp_path: Path) -> None:
    assert inspect("mlp", "--image-size", "8", "--csv", str(tmp_path / "table.csv"))[0] == 0
    assert read(tmp_path / "table.csv")[0]["shape"] == "500x192"


def test_a_file_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    code, _, err = inspect("mlp", "--csv", str(tmp_path / "missing" / "table.csv"))
    assert code != 0
    assert "missing" in err
    assert "Traceback" not in err


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_text_network_of_a_plugin_is_inspected_on_its_data(tmp_path: Path) -> None:
    """By hand: 30 words of 16 features, a hidden layer of 16, two classes; only the last bias stays."""
    nets, data, *_ = write_plugins(tmp_path)
    code, out, err = inspect(
        "my_nets:Bag", "--dataset", "my_data:words", "--plugin", str(nets), "--plugin", str(data)
    )
    admit(())
    assert code == 0, err
    rows = [line.split()[:2] for line in out.split("\n\n")[0].splitlines()[1:]]
    assert rows == [
        ["embed.weight", "teleported"],
        ["hidden.weight", "teleported"],
        ["hidden.bias", "teleported"],
        ["last.weight", "teleported"],
        ["last.bias", "untouched"],
    ]
    assert "change of basis  32 entries in 2 layers: 2 × 16" in out
