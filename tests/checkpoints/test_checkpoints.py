"""Teleported checkpoints: the same function in the unmodified class, the same file but for its weights."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nteleport.checkpoints.files import read_checkpoint
from nteleport.checkpoints.fitting import load_into
from nteleport.checkpoints.teleport import certificate_path, teleport_checkpoint
from nteleport.data.files import read_digits
from nteleport.errors import CheckpointError
from nteleport.networks.models import build_model
from nteleport.randomness import generator_for


class Small(nn.Module):
    """A convolution, a norm and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(F.relu(self.norm(self.conv(x))).mean((2, 3)))))


class Tied(nn.Module):
    """One matrix is the first and the last weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(F.relu(self.first(x)))))


IMAGES = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def trained(cls: type[nn.Module] = Small, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network whose numbers are all random, running statistics included."""
    torch.manual_seed(0)
    network = cls().to(dtype).eval()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.0)
    return network


def teleport(path: Path, out: Path, network: nn.Module | None = None, **options: Any) -> Any:
    network = network or Small()
    inputs = VECTORS if isinstance(network, Tied) else IMAGES
    return teleport_checkpoint(path, network, inputs, out, generator=generator_for("test"), **options)


def outputs(state: Any, cls: type[nn.Module] = Small, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the unmodified class computes with these weights."""
    network = cls().to(dtype).eval()
    network.load_state_dict(state)
    return network((VECTORS if cls is Tied else IMAGES).to(dtype)).detach()


def test_a_state_dict_keeps_its_function_names_order_and_form(tmp_path: Path) -> None:
    network = trained()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    certificate = teleport(tmp_path / "w.pt", tmp_path / "out.pt")
    before, after = network.state_dict(), torch.load(tmp_path / "out.pt", weights_only=True)
    assert isinstance(after, OrderedDict)
    assert list(after) == list(before)
    assert after._metadata == before._metadata
    torch.testing.assert_close(outputs(after), outputs(before))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"norm.weight", "norm.bias", "hidden.weight", "hidden.bias", "out.weight"}
    assert json.loads(certificate_path(tmp_path / "out.pt").read_text()) == certificate.to_dict()
    assert certificate.entries == 4 + 5
    assert certificate.largest_relative < 1e-5


def test_running_statistics_in_the_file_move_with_the_inputs_of_norms(tmp_path: Path) -> None:
    """Besides the 4 + 5 entries there are the 4 of the channels that the norm reads."""
    network = trained()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    certificate = teleport(tmp_path / "w.pt", tmp_path / "out.pt", norms="up_to_eps")
    before, after = network.state_dict(), torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(outputs(after), outputs(before))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(before) - {"norm.num_batches_tracked", "out.bias"}
    tau = after["conv.bias"] / before["conv.bias"]
    torch.testing.assert_close(after["norm.running_mean"], before["norm.running_mean"] * tau)
    torch.testing.assert_close(after["norm.running_var"], before["norm.running_var"] * tau**2)
    assert certificate.entries == 4 + 4 + 5
    assert certificate.further["float64, eval, given inputs"].relative < 1e-6  # rounding of float32 weights
    assert certificate.further["float64, train, given inputs"].relative < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    network = trained(dtype=dtype)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    teleport(tmp_path / "w.pt", tmp_path / "out.pt", cob_range=0.5)
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert {name: t.dtype for name, t in after.items()} == {
        name: t.dtype for name, t in network.state_dict().items()
    }
    found, expected = (outputs(state, dtype=dtype).double() for state in (after, network.state_dict()))
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 30 * torch.finfo(dtype).eps
    assert not torch.equal(after["out.weight"], network.state_dict()["out.weight"])


def test_a_nested_checkpoint_keeps_everything_else(tmp_path: Path) -> None:
    network = trained()
    optimizer = torch.optim.Adam(network.parameters())
    network(IMAGES).sum().backward()
    optimizer.step()
    content = {
        "epoch": 7,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": {"lr": [0.1, None]},
    }
    torch.save(content, tmp_path / "w.ckpt")
    teleport(tmp_path / "w.ckpt", tmp_path / "out.ckpt")
    after = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert list(after) == list(content)
    assert (after["epoch"], after["args"]) == (7, {"lr": [0.1, None]})
    states = (content["optimizer"]["state"], after["optimizer"]["state"])
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    torch.testing.assert_close(outputs(after["state_dict"]), outputs(network.state_dict()))


def test_names_with_the_prefix_of_a_wrapper_fit_and_keep_it(tmp_path: Path) -> None:
    network = trained()
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "w.pt")
    teleport(tmp_path / "w.pt", tmp_path / "out.pt")
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(after) == [f"module.{name}" for name in network.state_dict()]
    plain = {name.removeprefix("module."): tensor for name, tensor in after.items()}
    torch.testing.assert_close(outputs(plain), outputs(network.state_dict()))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    network = trained(Tied)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    teleport(tmp_path / "w.pt", tmp_path / "out.pt", Tied())
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert after["last.weight"].data_ptr() == after["first.weight"].data_ptr()
    torch.testing.assert_close(outputs(after, Tied), outputs(network.state_dict(), Tied))


def test_names_of_one_weight_that_differ_in_the_file_are_refused(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in trained(Tied).state_dict().items()}
    state["last.weight"] += 1
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"first\.weight and last\.weight are one tensor in the model"):
        teleport(tmp_path / "w.pt", tmp_path / "out.pt", Tied())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "w.pt"]


def test_memory_shared_in_the_file_alone_is_refused(tmp_path: Path) -> None:
    class Apart(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.last.weight = nn.Parameter(self.first.weight.detach().clone())

    torch.save(trained(Tied).state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="shares memory with another tensor in the file"):
        teleport(tmp_path / "w.pt", tmp_path / "out.pt", Apart())
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("as_stored", [False, True])
def test_a_network_gets_the_numbers_in_its_dtypes_or_those_of_the_file(
    tmp_path: Path, as_stored: bool
) -> None:
    network = trained(dtype=torch.float64)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    loaded = Small()
    objects = list(loaded.parameters())
    load_into(loaded, read_checkpoint(tmp_path / "w.pt"), as_stored=as_stored)
    assert all(mine is before for mine, before in zip(loaded.parameters(), objects, strict=True))
    expected = (network if as_stored else network.float()).state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_balancing_gives_each_neuron_equal_norms_on_both_sides(tmp_path: Path) -> None:
    """At the optimum over one ReLU neuron, what enters it has the norm of what leaves it."""
    network = trained()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    teleport(tmp_path / "w.pt", tmp_path / "out.pt", objective="balance")
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    entering = after["hidden.weight"].square().sum(1) + after["hidden.bias"].square()
    torch.testing.assert_close(entering, after["out.weight"].square().sum(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(outputs(after), outputs(network.state_dict()))


class TestSafetensors:
    @pytest.fixture
    def library(self) -> Any:
        return pytest.importorskip("safetensors.torch")

    def test_names_numbers_and_metadata_are_kept(self, tmp_path: Path, library: Any) -> None:
        from safetensors import safe_open

        network = trained()
        metadata = {"format": "pt", "license": "mine"}
        library.save_file(network.state_dict(), tmp_path / "w.safetensors", metadata=metadata)
        teleport(tmp_path / "w.safetensors", tmp_path / "out.safetensors")
        after = library.load_file(tmp_path / "out.safetensors")
        torch.testing.assert_close(outputs(after), outputs(network.state_dict()))
        assert not torch.equal(after["out.weight"], network.state_dict()["out.weight"])
        with safe_open(tmp_path / "out.safetensors", "pt") as file:
            assert file.metadata() == metadata

    def test_one_format_becomes_the_other(self, tmp_path: Path, library: Any) -> None:
        network = trained()
        torch.save(network.state_dict(), tmp_path / "w.pt")
        teleport(tmp_path / "w.pt", tmp_path / "out.safetensors")
        teleport(tmp_path / "out.safetensors", tmp_path / "out.pt")
        after = torch.load(tmp_path / "out.pt", weights_only=True)
        torch.testing.assert_close(outputs(after), outputs(network.state_dict()), rtol=1e-4, atol=1e-5)

    def test_tied_weights_are_written_as_the_library_reads_them(self, tmp_path: Path, library: Any) -> None:
        network = trained(Tied)
        torch.save(network.state_dict(), tmp_path / "w.pt")
        teleport(tmp_path / "w.pt", tmp_path / "out.safetensors", Tied())
        again = Tied()
        library.load_model(again, tmp_path / "out.safetensors")
        torch.testing.assert_close(again(VECTORS), network(VECTORS))
        # And what the library writes, with one name of each weight, is read.
        library.save_model(network, tmp_path / "one.safetensors")
        teleport(tmp_path / "one.safetensors", tmp_path / "two.safetensors", Tied())
        library.load_model(again, tmp_path / "two.safetensors")
        torch.testing.assert_close(again(VECTORS), network(VECTORS))

    def test_what_a_format_cannot_hold_is_refused_before_the_work(self, tmp_path: Path, library: Any) -> None:
        torch.save({"state_dict": trained().state_dict(), "epoch": 3}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="holds more than 'state_dict', which safetensors cannot"):
            teleport(tmp_path / "w.pt", tmp_path / "out.safetensors")
        library.save_file(trained().state_dict(), tmp_path / "w.safetensors", metadata={"license": "mine"})
        with pytest.raises(CheckpointError, match=r"has metadata \(license\)"):
            teleport(tmp_path / "w.safetensors", tmp_path / "out.pt")


def test_what_does_not_fit_is_named_with_its_shape(tmp_path: Path) -> None:
    state = trained().state_dict()
    del state["conv.bias"]
    state["extra"] = torch.zeros(1)
    state["out.weight"] = torch.zeros(2, 5)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        teleport(tmp_path / "w.pt", tmp_path / "out.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'} does not fit the model: it lacks conv.bias; it has, beyond the model, extra; "
        "it has out.weight of shape 2x5, in the model 3x5"
    )


def test_a_lazy_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="weight has no shape in the model before its first input"):
        load_into(nn.LazyLinear(2), read_checkpoint(tmp_path / "w.pt"))


def test_batch_norms_of_old_checkpoints_fit(tmp_path: Path) -> None:
    """They have no num_batches_tracked."""
    state = {n: t for n, t in trained().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    teleport(tmp_path / "w.pt", tmp_path / "out.pt")
    assert list(torch.load(tmp_path / "out.pt", weights_only=True)) == list(state)


def unusable(name: str, tensor: Tensor) -> Any:
    return {**trained().state_dict(), name: tensor}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (unusable("out.bias", torch.tensor([0.0, torch.nan, 0.0])), "out.bias holds numbers that are not"),
        (unusable("out.bias", torch.zeros(3, dtype=torch.int8)), "out.bias has dtype torch.int8, in the"),
        (unusable("out.bias", torch.zeros(3, dtype=torch.complex64)), "out.bias has dtype torch.complex64"),
        (unusable("out.bias", torch.zeros(1).expand(3)), "out.bias holds one number in several places"),
        (unusable("out.bias", torch.zeros(3).to_sparse()), "out.bias is not a dense tensor"),
        (unusable("out.bias", torch.zeros(3, device="meta")), "out.bias is not a dense tensor"),
        ({}, "holds nothing; expected tensors by name"),
        ([1, 2], "holds list; expected tensors by name"),
        ({"epoch": 1, "net": {"a": torch.zeros(1)}}, "holds 'epoch', 'net'; expected tensors by name"),
        ({1: torch.zeros(1)}, "holds 1; expected tensors by name"),
        ({"weights": {**trained().state_dict(), "out.bias": 1.0}}, "holds 'weights'; expected tensors by"),
        ({"state_dict": {"w": "text"}}, "holds 'state_dict'; expected tensors by name"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        teleport(tmp_path / "w.pt", tmp_path / "out.pt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "w.pt"]


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "trap": Harmful(tmp_path / "harm")}, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    for name in ("w.pt", "raw.pt"):
        with pytest.raises(CheckpointError, match="cannot be read as a file of tensors"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_a_header_that_announces_more_than_the_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "w.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "w.safetensors")
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b"PK half a file"])
def test_a_damaged_file_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="a folder"):
        read_checkpoint(tmp_path)


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    for existing in (tmp_path / "out.pt", certificate_path(tmp_path / "out.pt")):
        existing.write_text("mine")
        with pytest.raises(CheckpointError, match=f"{existing.name}: exists already"):
            teleport(tmp_path / "w.pt", tmp_path / "out.pt")
        assert existing.read_text() == "mine"
        existing.unlink()
    teleport(tmp_path / "w.pt", tmp_path / "w.pt", overwrite=True)
    torch.testing.assert_close(
        outputs(torch.load(tmp_path / "w.pt", weights_only=True)), outputs(trained().state_dict())
    )


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    (tmp_path / "out.pt").write_text("mine")

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="cannot be written \\(No space left on device\\)"):
        teleport(tmp_path / "w.pt", tmp_path / "out.pt", overwrite=True)
    assert (tmp_path / "out.pt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt", "w.pt"]


NETWORK = """
import torch
from beside import WIDTH

class Mine(torch.nn.Module):
    def __init__(self, depth=1, width=WIDTH):
        super().__init__()
        sizes = [4] + [width] * depth + [2]
        layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        parts = [part for layer in layers for part in (layer, torch.nn.ReLU())]
        self.layers = torch.nn.Sequential(*parts[:-1])

    def forward(self, x):
        return self.layers(x)

def number():
    return 3

def raising():
    raise ValueError("no\\nway")

def normed():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
"""


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "beside.py").write_text("WIDTH = 3\n")
        (tmp_path / "mine.py").write_text(NETWORK)
        (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
        layers = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
        torch.save({f"layers.{n}": t for n, t in layers.state_dict().items()}, tmp_path / "w.pt")
        return tmp_path / "mine.py"

    def run(self, *words: object) -> tuple[int, str, str]:
        from click.testing import CliRunner

        from nteleport.cli.app import nteleport

        result = CliRunner().invoke(nteleport, [str(word) for word in words])
        return result.exit_code, result.stdout, result.stderr

    def test_a_class_of_the_users_is_teleported(self, tmp_path: Path, file: Path) -> None:
        options = ["--model", f"{file}:Mine", "--model-args", "depth=2", "--input-shape", 4]
        code, out, err = self.run("teleport", tmp_path / "w.pt", *options, "-o", tmp_path / "out.pt")
        assert (code, err) == (0, "")
        assert "entries      6 (6 positive)" in out
        assert str(certificate_path(tmp_path / "out.pt")) in out
        before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("w.pt", "out.pt"))

        def compute(state: dict[str, Tensor]) -> Tensor:
            x = VECTORS
            for k in (0, 2):
                x = F.relu(F.linear(x, state[f"layers.{k}.weight"], state[f"layers.{k}.bias"]))
            return F.linear(x, state["layers.4.weight"], state["layers.4.bias"])

        torch.testing.assert_close(compute(after), compute(before))
        assert not torch.equal(after["layers.2.weight"], before["layers.2.weight"])
        code, _, err = self.run("teleport", tmp_path / "w.pt", *options, "-o", tmp_path / "out.pt")
        assert (code, "exists already" in err) == (2, True)
        assert self.run(
            "teleport", tmp_path / "w.pt", *options, "--seed", 1, "--force", "-o", tmp_path / "out.pt"
        )[0] == 0  # fmt: skip
        other = torch.load(tmp_path / "out.pt", weights_only=True)
        assert not torch.equal(other["layers.2.weight"], after["layers.2.weight"])

    def test_outputs_are_compared_on_images_of_the_data_set_that_is_named(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = build_model("mlp", input_shape=(1, 16, 16), num_classes=10).eval()
        torch.save(network.state_dict(), tmp_path / "w.pt")
        out = tmp_path / "out.pt"
        code, printed, err = self.run(
            "teleport", tmp_path / "w.pt", "--model", "mlp", "--image-size", 16, "--dataset", "digits",
            "--objective", "activation_range", "-o", out,
        )  # fmt: skip
        assert (code, err) == (0, "")
        what = "the first 16 training images of digits, resized to 16x16"
        assert f"inputs       {what}" in printed.splitlines()
        written = json.loads(certificate_path(out).read_text())
        assert written["inputs"] == what
        bytes_, _ = read_digits("train")
        images = (torch.from_numpy(bytes_[:16]) / 255 - 0.3058) / 0.3761
        images = F.interpolate(images, (16, 16), mode="bilinear", antialias=True)
        state = torch.load(out, weights_only=True)
        weight, bias = list(state.values())[:2]
        sizes = F.linear(images.flatten(1), weight, bias).abs().amax(0)  # equal on these images alone
        torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)

    def test_a_data_set_that_cannot_be_had_is_said_and_nothing_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_network(*_: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("nteleport.data.sources._download", no_network)
        torch.save(
            build_model("mlp", input_shape=(1, 32, 32), num_classes=10).state_dict(), tmp_path / "w.pt"
        )
        code, printed, err = self.run(
            "teleport", tmp_path / "w.pt", "--model", "mlp", "--dataset", "mnist", "--data-dir", tmp_path,
            "-o", tmp_path / "out.pt",
        )  # fmt: skip
        assert (code, printed) == (2, "")
        assert "'mnist' is not on this machine and could not be downloaded (no network)" in err
        assert not (tmp_path / "out.pt").exists()

    def test_random_inputs_are_named_in_the_certificate(self, tmp_path: Path, file: Path) -> None:
        options = ["--model", f"{file}:Mine", "--model-args", "depth=2", "--input-shape", 4, "--seed", 3]
        assert self.run("teleport", tmp_path / "w.pt", *options, "-o", tmp_path / "out.pt")[0] == 0
        written = json.loads(certificate_path(tmp_path / "out.pt").read_text())
        assert written["inputs"] == "2 random inputs, normal, seed 3"

    def test_inspect_lists_the_free_entries_of_a_checkpoint(self, tmp_path: Path, file: Path) -> None:
        options = ["--model", f"{file}:Mine", "--model-args", "depth=2", "--input-shape", 4]
        code, out, _ = self.run("inspect", tmp_path / "w.pt", *options)
        assert code == 0
        free = out.partition("free entries\n")[2].partition("\n\n")[0].splitlines()
        assert free == ["layers.0  3 positive", "layers.2  3 positive"]

    def test_the_inputs_of_norms_move_where_asked(self, tmp_path: Path, file: Path) -> None:
        layers = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
        torch.save(layers.state_dict(), tmp_path / "w.pt")
        options = ["--model", f"{file}:normed", "--input-shape", 4]
        for words, count in (([], 3), (["--norms", "up_to_eps"], 4)):
            code, out, _ = self.run("teleport", tmp_path / "w.pt", *options, *words, "--force",
                                    "-o", tmp_path / "out.pt", "--cob-range", 0.1)  # fmt: skip
            assert (code, f"entries      {count} (" in out) == (0, True)
            code, out, _ = self.run("inspect", tmp_path / "w.pt", *options, *words)
            assert (code, "0  1 positive\n" in out) == (0, bool(words))
            assert ("running statistics that move  0" in out) == bool(words)
        code, _, err = self.run("teleport", tmp_path / "w.pt", *options, "--norms", "eps", "-o", "x.pt")
        assert (code, "'up-to-eps'" in err) == (2, True)

    def test_inspect_asks_for_the_network_of_a_checkpoint(self, tmp_path: Path, file: Path) -> None:
        code, out, err = self.run("inspect", tmp_path / "w.pt")
        assert (code, out) == (2, "")
        assert "--model says which network they belong to" in err

    @pytest.mark.parametrize(
        ("model", "arguments", "message"),
        [
            ("{file}:Mine", [], "w.pt does not fit the model: it has, beyond the model, layers.4.weight"),
            ("{file}:Mne", [], "has no class 'Mne', did you mean 'Mine'?"),
            ("{file}:Mine", ["depht=2"], "unexpected keyword argument 'depht'"),
            ("{file}:Mine", ["depth"], "expected key=value, such as depth=20"),
            ("{file}:number", [], "makes a int, expected a torch.nn.Module"),
            ("{file}:raising", [], "cannot be made with {}: ValueError: no"),
            ("{file}", [], "expected the class after a colon"),
            ("{folder}/broken.py:Mine", [], "No module named 'nowhere_to_be_found'"),
            ("{folder}/missing.py:Mine", [], "no such file"),
            ("resnet81", [], "did you mean 'resnet18'?"),
            ("resnet18", [], "takes images of channels, height, width; got (4,)"),
        ],
    )
    def test_a_network_that_cannot_be_had_is_one_line(
        self, tmp_path: Path, file: Path, model: str, arguments: list[str], message: str
    ) -> None:
        model = model.replace("{file}", str(file)).replace("{folder}", str(tmp_path))
        given = [word for argument in arguments for word in ("--model-args", argument)]
        code, out, err = self.run(
            "teleport", tmp_path / "w.pt", "--model", model, *given, "--input-shape", 4,
            "-o", tmp_path / "out.pt",
        )  # fmt: skip
        assert (code, out) == (2, "")
        assert message in err
        assert not (tmp_path / "out.pt").exists()
        assert len(err.splitlines()) == 1 or err.startswith("Usage:")

    def test_options_that_contradict_each_other_are_refused(self, tmp_path: Path, file: Path) -> None:
        common = ["teleport", tmp_path / "w.pt", "--model", f"{file}:Mine", "-o", tmp_path / "out.pt"]
        for contradiction in (
            ["--input-shape", 4, "--dataset", "mnist"],
            ["--cob-range", 0.5, "--objective", "balance"],
        ):
            code, _, err = self.run(*common, *contradiction)
            assert (code, "give one" in err) == (2, True)
