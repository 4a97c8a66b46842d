"""What analysis says of networks that are unusual: shared memory, modes, sizes, dtypes, reasons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.releases import needs_torch
from support.zoo.networks import Wired
from torch import Tensor, nn

from nteleport import Quiver, TeleportableModel, analyze, materialize, sample_cob


def network(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    return Wired(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 8), o=nn.Linear(8, 3), **parts).double().eval()


def x() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def moved(net: nn.Module, example: Any, quiver: Quiver | None = None) -> TeleportableModel:
    model = TeleportableModel(net, example, quiver)
    generator = torch.Generator().manual_seed(1)
    model.teleport(sample_cob(model.cob_size, 0.9, "inter_landscape", generator=generator))
    return model


def reasons(quiver: Quiver) -> dict[str, str]:
    return {row.name: f"{row.status}: {row.reason}" for row in quiver.report()}


class TestSharedMemory:
    """Two parameters in one memory cannot have a scale each."""

    @pytest.mark.parametrize(
        "share",
        [lambda w: w, lambda w: w.t(), lambda w: w[:1].expand(8, 8), lambda w: w.flatten()[:64].view(8, 8)],
        ids=["same", "transposed", "expanded", "a view"],
    )
    def test_they_stay_where_they_are(self, share: Callable[[Tensor], Tensor]) -> None:
        net = network(lambda n, x: n.o(n.c(n.b(n.a(x).relu()).relu()).relu()), c=nn.Linear(8, 8))
        net.c.weight = nn.Parameter(share(net.b.weight.data))
        expected = net(x())
        model = moved(net, x())
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        assert reasons(model.quiver)["b.weight"] == "untouched: shares memory with c.weight"
        assert reasons(model.quiver)["c.weight"].startswith("untouched: ")
        assert reasons(model.quiver)["a.weight"].startswith("teleported")

    def test_all_parts_of_one_memory_stay(self) -> None:
        net = network(
            lambda n, x: n.o(n.b(n.a(x).relu()).relu()) + n.p.sum(), p=nn.Parameter(torch.randn(96))
        )
        net.b.weight = nn.Parameter(net.p.data[:64].view(8, 8))
        net.o.weight = nn.Parameter(net.p.data[70:94].view(3, 8))
        found = reasons(analyze(net.double(), x()))
        assert all("shares memory" in found[name] for name in ("p", "b.weight", "o.weight"))

    def test_a_parameter_in_the_memory_of_a_buffer_stays(self) -> None:
        net = network(lambda n, x: n.o(n.b(n.a(x).relu()).relu() @ n.m))
        net.register_buffer("m", net.b.weight.data.t())
        expected = net(x())
        model = moved(net, x())
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        assert reasons(model.quiver)["b.weight"] == "untouched: shares memory with a buffer"

    def test_neighbors_in_one_buffer_move_alone(self) -> None:
        net = network(lambda n, x: n.o(n.b(n.a(x).relu()).relu()))
        flat = torch.cat([p.data.flatten() for p in net.parameters()])
        for p, piece in zip(net.parameters(), flat.split([p.numel() for p in net.parameters()]), strict=True):
            p.data = piece.view_as(p)
        expected = net(x())
        model = moved(net, x())
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        assert {row.status for row in model.quiver.report() if row.name != "o.bias"} == {"teleported"}


class TestModes:
    """A network that is wired otherwise in evaluation mode."""

    def net(self) -> nn.Module:
        def forward(n: Any, x: Tensor) -> Tensor:
            h = n.a(x).relu()
            return n.o(n.b(h if n.training else h.roll(1, -1)).relu())

        return network(forward)

    @pytest.mark.parametrize("found_in", [True, False])
    @pytest.mark.parametrize("used_in", [True, False])
    def test_a_quiver_of_either_mode_keeps_the_function_in_both(self, found_in: bool, used_in: bool) -> None:
        net = self.net()
        quiver = analyze(net, x(), training=found_in)
        assert quiver.training == found_in
        net.train(used_in)
        expected = net(x())
        model = moved(net, x(), quiver)
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(materialize(model)(x()), expected, rtol=1e-12, atol=1e-12)

    def test_training_mode_comes_first(self) -> None:
        assert analyze(self.net(), x()).training
        norm = network(lambda n, x: n.o(n.n(n.a(x))), n=nn.BatchNorm1d(8))
        assert not analyze(norm, x()[:1]).training


class TestMaterializationOfPartsInLowerPrecision:
    """Oracle: the network itself, to the precision of its double parts."""

    @pytest.mark.parametrize(
        "forward",
        [
            lambda n, x: n.o(n.a(x).float().double().relu()),
            lambda n, x: n.o(n.a(x).float().relu().view(2, 3, 8).flatten(0, 1).double()),
            lambda n, x: n.o(F.layer_norm(n.a(x).float(), (8,), n.g.float()).double()),
            lambda n, x: n.o(F.linear(n.a(x).float().relu(), n.b.weight.float()).double().relu()),
            lambda n, x: n.o((n.a(x).float() * (1 + n.g.float())).type_as(x)),
            lambda n, x: n.o((n.g * n.a(x).float().relu()).type_as(x)),
            lambda n, x: n.o(torch.cat([n.a(x).float()[:, :4], x.float()], 1).double()),
        ],
        ids=["cast", "moved", "normalized", "linear", "1 + γ", "wide parameter", "concatenated"],
    )
    def test_no_digit_is_lost(self, forward: Callable[..., Tensor]) -> None:
        net = network(forward, g=nn.Parameter(torch.randn(8)))
        expected = net(x())
        model = moved(net, x())
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(materialize(model)(x()), expected, rtol=1e-12, atol=1e-12)

    def test_regions_of_autocast_are_walked(self) -> None:
        def forward(n: Any, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                h = n.b(n.a(x).relu()).relu()
            with torch.no_grad():
                h = h + 1
            return n.o(h.float())

        net = network(forward).float()
        example = x().float()
        expected = net(example)
        model = moved(net, example)
        assert {row.status for row in model.quiver.report() if row.name != "o.bias"} == {"teleported"}
        for found in (model(example), materialize(model)(example)):
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # eps of bfloat16 is 0.008


class TestCopies:
    """Networks that cannot be copied deeply can be materialized."""

    @pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
    def test_a_weight_that_is_a_plain_tensor(self, norm: Any) -> None:
        net = network(lambda n, x: n.o(n.b(n.a(x).relu()).relu()))
        norm(net.b)
        net.eval()
        expected = net(x())
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(net)
        model = moved(net, x())
        torch.testing.assert_close(materialize(model)(x()), expected, rtol=1e-11, atol=1e-11)

    @needs_torch("2.10")
    def test_an_activation_that_was_kept(self) -> None:
        def forward(n: Any, x: Tensor) -> Tensor:
            n.kept = n.a(x)
            return n.o(n.kept.relu())

        net = network(forward)
        expected = net(x())
        torch.testing.assert_close(materialize(moved(net, x()))(x()), expected, rtol=1e-12, atol=1e-12)

    def test_the_copy_shares_no_memory(self) -> None:
        net = network(lambda n, x: n.o(n.a(x).relu()))
        model = moved(net, x())
        materialized = materialize(model)
        expected = model(x())
        with torch.no_grad():
            for parameter in materialized.parameters():
                parameter.zero_()
        assert torch.equal(model(x()), expected)


class TestSizesKnownOnlyAtRunTime:
    @pytest.mark.parametrize(
        "forward",
        [
            lambda n, x: n.o(n.b(n.a(x)[x[:, 0] > 0]).relu()),
            lambda n, x: n.o(n.b(n.a(x).repeat_interleave(n.counts, 0)).relu()),
            lambda n, x: torch.cat([n.o(n.b(p).relu()) for p in n.a(x).split(n.sizes.tolist())]),
        ],
        ids=["mask", "repeat_interleave", "split"],
    )
    def test_such_networks_are_teleported(self, forward: Callable[..., Tensor]) -> None:
        counts, sizes = nn.Buffer(torch.tensor([1, 2, 0, 3, 1, 1])), nn.Buffer(torch.tensor([2, 4]))
        net = network(forward, counts=counts, sizes=sizes)
        expected = net(x())
        model = moved(net, x())
        assert {row.name for row in model.quiver.report() if row.status == "untouched"} == {"o.bias"}
        torch.testing.assert_close(model(x()), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(materialize(model)(x()), expected, rtol=1e-12, atol=1e-12)


class TestReasons:
    def test_the_operator_that_ended_a_scaling_is_named(self) -> None:
        net = network(
            lambda n, x: n.o(n.b(n.a(x).softmax(-1).roll(1, -1).clone() + n.t)), t=nn.Parameter(torch.ones(8))
        )
        found = reasons(analyze(net, x()))
        assert found["t"] == "untouched: add: joins what softmax leaves unscaled"
        assert found["o.bias"] == "untouched: linear: feeds an output of the network"

    def test_a_parameter_whose_scale_is_1_is_untouched(self) -> None:
        found = reasons(analyze(nn.Linear(4, 3), torch.ones(2, 4)))
        assert found == {
            "weight": "untouched: linear: feeds an output of the network, "
            "reads what the network's input leaves unscaled",
            "bias": "untouched: linear: feeds an output of the network",
        }

    def test_integers_are_untouched(self) -> None:
        net = network(lambda n, x: n.o(n.a(x) * n.i), i=nn.Parameter(torch.arange(8), requires_grad=False))
        assert reasons(analyze(net, x()))["i"] == "untouched: holds numbers of type torch.int64"

    def test_a_parameter_that_is_returned_is_read_unscaled(self) -> None:
        net = network(lambda n, x: (n.o(n.a(x)), n.a.weight))
        expected = copy.deepcopy(net)(x())
        model = moved(net, x())
        assert reasons(model.quiver)["a.weight"].startswith("tied: ")
        assert "read unscaled by output" in reasons(model.quiver)["a.weight"]
        for found in (model(x()), materialize(model)(x())):
            torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)
