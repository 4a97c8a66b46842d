"""The study `sharpness` against dense Hessians of networks that truly run teleported weights."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional

from nteleport import TeleportableModel, analyze, materialize, scales
from nteleport.errors import StudyError
from nteleport.jobs.job import Component
from nteleport.randomness import generator_for
from nteleport.studies.curvature import curvature
from nteleport.studies.hessian import Hessian, largest_eigenvalues, teleported_product, traces
from nteleport.studies.sharpness import SharpnessSettings
from nteleport.studies.sharpness.compute import hessian_sharpness
from nteleport.studies.sharpness.picture import draw
from nteleport.studies.subject import draw_cob, one_subject

TINY = Component("mlp", {"hidden_layers": [2]})
SETTINGS = SharpnessSettings(
    models=(TINY,), datasets=("random:mnist",), images=12, batch_size=5, probes=24, tolerance=1e-5, seed=3
)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).double()


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    return pixels, torch.randint(0, 3, (16,), generator=generator)


def dense(network: nn.Module) -> Tensor:
    """The Hessian of the loss for all parameters of `network`, as a matrix, by torch.func.hessian."""
    pixels, labels = images()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def loss(vector: Tensor) -> Tensor:
        pieces = zip(parameters.items(), vector.split(sizes), strict=True)
        given = {name: piece.view_as(p) for (name, p), piece in pieces}
        return functional.cross_entropy(functional_call(network, given, (pixels,)), labels)

    return hessian(loss)(torch.cat([p.flatten() for p in parameters.values()]))


def matrix_of(product, size: int) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.stack([product(column) for column in torch.eye(size, dtype=torch.float64)])


def test_products_are_columns_of_the_dense_hessian_in_evaluation_mode_for_any_batches() -> None:
    network, (pixels, labels) = small_network(), images()
    parts = [(pixels[:7], labels[:7]), (pixels[7:], labels[7:])]
    found = Hessian(network, parts)
    assert network.training
    expected = dense(network.eval())
    torch.testing.assert_close(matrix_of(found.product, sum(found.sizes)), expected, rtol=1e-10, atol=1e-13)


def test_products_of_some_parameters_are_a_block_of_the_hessian() -> None:
    network = small_network().eval()
    block = Hessian(network, [images()], ["2.weight", "2.bias"])
    whole = dense(network)
    assert block.names == ("2.weight", "2.bias")
    torch.testing.assert_close(matrix_of(block.product, 35), whole[30:65, 30:65], rtol=1e-10, atol=1e-13)


def test_products_at_teleported_weights_are_those_of_the_materialized_network() -> None:
    network, pixels = small_network().eval(), images()[0]
    quiver = analyze(network, pixels, training=False)
    cob = torch.linspace(-1.7, 2.1, quiver.cob_size, dtype=torch.float64)
    scale = torch.cat([each.flatten() for each in scales(quiver, cob).values()])
    plain = Hessian(network, [images()])
    found = matrix_of(teleported_product(plain.product, scale), len(scale))
    model = TeleportableModel(network, pixels, quiver)
    model.teleport(cob)
    materialized = materialize(model)
    order = [name for name, _ in network.named_parameters()]
    assert [name for name, _ in materialized.named_parameters()] == order
    torch.testing.assert_close(found, dense(materialized), rtol=1e-8, atol=1e-11)


def test_the_invariant_trace_of_the_materialized_network_is_that_of_the_plain_one() -> None:
    """Σ θ² H, with exact diagonals of both networks; their traces differ by a factor of more than two."""
    network, pixels = small_network().eval(), images()[0]
    model = TeleportableModel(network, pixels, analyze(network, pixels, training=False))
    before = [(dense(network).diag(), torch.cat([p.detach().flatten() for p in network.parameters()]))]
    model.teleport(torch.linspace(-1.7, 2.1, model.cob_size, dtype=torch.float64))
    materialized = materialize(model)
    weights = torch.cat([p.detach().flatten() for p in materialized.parameters()])
    found = [(d, float((w**2 * d).sum())) for d, w in [*before, (dense(materialized).diag(), weights)]]
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-8)
    assert not 0.5 < float(found[1][0].sum() / found[0][0].sum()) < 2


def test_curvature_estimates_both_traces_at_teleported_weights() -> None:
    """The oracle: exact diagonals. With the same probes, the invariant one does not move at all."""
    network, pixels = small_network().eval(), images()[0]
    quiver = analyze(network, pixels, training=False)
    diagonal, point = dense(network).diag(), torch.cat([p.detach().flatten() for p in network.parameters()])
    invariant = []
    for low in (1.0, -1.7):
        scale = scales(quiver, torch.linspace(low, 1 if low == 1 else 2.1, quiver.cob_size).double())
        flat = torch.cat([each.flatten() for each in scale.values()])
        found = curvature(network, [images()], scale, probes=300, seed=0)
        exact = {"trace": diagonal / flat**2, "invariant_trace": diagonal * point**2}
        for name, terms in exact.items():
            assert abs(found[name] - float(terms.sum())) < 4 * found[f"{name}_error"]
        invariant.append(found["invariant_trace"])
    assert invariant[1] == pytest.approx(invariant[0], rel=1e-8)


def test_where_torch_cannot_differentiate_twice_curvature_is_no_number() -> None:
    network = _NoForwardMode()
    scale = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    found = curvature(network, [images()], scale, probes=2, seed=0)
    assert all(math.isnan(value) for value in found.values())


def test_traces_are_within_four_standard_errors_for_the_network_and_each_group() -> None:
    network = small_network().eval()
    plain, matrix = Hessian(network, [images()]), dense(network)
    size, point = len(matrix), plain.point()
    position = torch.arange(size, device="cpu")
    masks = {"all": position >= 0, "first": position < 30, "rest": position >= 30}
    for weights, diagonal in ((torch.ones_like(point), matrix.diag()), (point, point**2 * matrix.diag())):
        found = traces(plain.product, weights, masks, 400, torch.Generator().manual_seed(0))
        for name, mask in masks.items():
            assert abs(found[name].value - float(diagonal[mask].sum())) < 4 * found[name].error


def test_the_standard_error_is_that_of_the_theory() -> None:
    """Var(z·Az) = 2 Σ_{i≠j} A_ij² for random signs z (Hutchinson, 1990)."""
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    ones = torch.ones(30, dtype=torch.float64)
    found = traces(matrix.mv, ones, {"all": (ones > 0).cpu()}, 4000, generator)["all"]
    off = matrix - torch.diag(matrix.diag())
    assert found.error == pytest.approx(math.sqrt(2 * float(off.square().sum()) / 4000), rel=0.05)


def test_the_trace_of_a_diagonal_quadratic_has_no_error() -> None:
    """f(x) = Σ dᵢ xᵢ² / 2 has the Hessian diag(d), of which every probe gives the trace."""
    curvatures = torch.tensor([3.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    ones = torch.ones_like(curvatures)
    found = traces(
        lambda v: curvatures * v, ones, {"all": (ones > 0).cpu()}, 3, torch.Generator().manual_seed(0)
    )
    assert found["all"] == (2.5, 0.0)
    scale = torch.tensor([2.0, 0.5, -1.0, 4.0], dtype=torch.float64)
    moved = teleported_product(lambda v: curvatures * v, scale)
    weights = scale * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)  # θ' of θ = 1, 2, 3, 4
    found = traces(moved, weights, {"all": (ones > 0).cpu()}, 3, torch.Generator().manual_seed(0))
    assert found["all"].value == pytest.approx(3 * 1 + 1 * 4 - 2 * 9 + 0.5 * 16)


@pytest.mark.parametrize("move", [False, True])
def test_eigenvalues_are_those_of_the_dense_matrix(move: bool) -> None:
    network = small_network().eval()
    plain = Hessian(network, [images()])
    product, matrix = plain.product, dense(network)
    if move:
        scale = torch.linspace(0.3, 2.0, len(matrix), dtype=torch.float64)
        product, matrix = teleported_product(product, scale), matrix / scale / scale[:, None]
    found = largest_eigenvalues(
        product, plain.point(), 4, steps=60, tolerance=1e-9, generator=torch.Generator().manual_seed(0)
    )
    expected = torch.linalg.eigvalsh(matrix).flip(0)[:4]
    np.testing.assert_allclose([each.value for each in found], expected.cpu().numpy(), rtol=1e-8)
    assert max(each.residual for each in found) < 1e-8


def test_a_residual_bounds_the_distance_from_an_eigenvalue() -> None:
    matrix = torch.diag(torch.linspace(-1, 3, 50, dtype=torch.float64))
    found = largest_eigenvalues(
        matrix.mv, matrix[0], 2, steps=6, tolerance=1e-12, generator=torch.Generator().manual_seed(1)
    )
    for each in found:
        assert 0 < float((matrix.diag() - each.value).abs().min()) <= each.residual


def test_repeated_eigenvalues_and_matrices_smaller_than_the_steps_are_complete() -> None:
    curvatures = torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    found = largest_eigenvalues(
        lambda v: curvatures * v, curvatures, 9, steps=50, tolerance=1e-9,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    np.testing.assert_allclose([each.value for each in found], curvatures.cpu().numpy(), atol=1e-12)


def test_the_eigenvalues_of_nothing_are_zero() -> None:
    zero = torch.zeros(5)
    found = largest_eigenvalues(
        lambda v: 0 * v, zero, 2, steps=5, tolerance=1e-3, generator=torch.Generator().manual_seed(0)
    )
    assert [each.value for each in found] == [0, 0]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return hessian_sharpness(SETTINGS)


def test_the_table_has_the_dense_hessian_of_the_teleported_model(table: pd.DataFrame) -> None:
    """At θ' through TeleportableModel, which divides its weights by s."""
    subject = one_subject(SETTINGS)
    split = subject.data.train
    pixels, labels = split.normalized(split.images[:12]).double(), split.labels[:12]
    network = subject.network.double().eval()
    model = TeleportableModel(network, pixels, subject.quiver)
    names = ["network.3.weight", "network.3.bias"]
    for coordinates in ("plain", "teleported"):
        start = torch.cat([model.get_parameter(name).detach().flatten() for name in names])

        def loss(vector: Tensor) -> Tensor:
            given = {names[0]: vector[:20].view(10, 2), names[1]: vector[20:]}
            return functional.cross_entropy(functional_call(model, given, (pixels,)), labels)

        block = torch.autograd.functional.hessian(loss, start)
        rows = table[(table["coordinates"] == coordinates) & (table["layer"] == "3")]
        rows = rows.set_index("quantity")
        for rank, expected in enumerate(torch.linalg.eigvalsh(block).flip(0)[:3].tolist(), start=1):
            assert rows["value"][f"eigenvalue {rank}"] == pytest.approx(expected, rel=1e-3)
        for quantity, expected in (("trace", block.trace()), ("invariant trace", start**2 @ block.diag())):
            error = abs(rows["value"][quantity] - float(expected))
            assert error < 4 * rows["standard_error"][quantity]
        model.teleport(draw_cob(subject, 0.9, "intra_landscape", generator_for("study", 3, "sharpness cob")))


def test_the_invariant_trace_is_the_same_in_both_coordinates_and_the_trace_is_not(
    table: pd.DataFrame,
) -> None:
    rows = table.pivot_table(index=["layer", "quantity"], columns="coordinates", values="value")
    invariant = rows.xs("invariant trace", level="quantity")
    np.testing.assert_allclose(invariant["teleported"], invariant["plain"], rtol=1e-3)
    moved = rows.xs("trace", level="quantity")
    assert (abs(moved["teleported"] / moved["plain"] - 1) > 0.01).all()


def test_the_traces_of_layers_add_up_to_that_of_the_network(table: pd.DataFrame) -> None:
    traced = table[table["quantity"] == "trace"]
    for _, rows in traced.groupby("coordinates"):
        values = rows.set_index("layer")["value"]
        assert values.drop("all").sum() == pytest.approx(values["all"], rel=1e-4)


def test_a_network_without_layers_or_eigenvalues_shown_has_traces_alone() -> None:
    settings = SharpnessSettings(
        models=(TINY,), datasets=("random:mnist",), images=4, probes=2, eigenvalues=0, per_layer=False
    )
    found = hessian_sharpness(settings)
    assert set(found["layer"]) == {"all"}
    assert set(found["quantity"]) == {"trace", "invariant trace"}
    FigureCanvasAgg(draw(found)).draw()


def test_the_picture_has_two_bars_for_each_layer(table: pd.DataFrame) -> None:
    figure = draw(table)
    FigureCanvasAgg(figure).draw()
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "trace of H", "largest eigenvalue", "Σ θ² H (invariant)",
    ]  # fmt: skip
    for axes in figure.axes:
        assert len(axes.patches) == 2 * 3
    layers = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert layers == ["all", "1", "3"]


class _Odd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient


class _NoForwardMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return _Odd.apply(self.layer(x))


def test_an_operator_without_a_forward_derivative_is_named() -> None:
    found = Hessian(_NoForwardMode(), [images()])
    with pytest.raises(StudyError, match="the Hessian of this model cannot be computed"):
        found.product(found.point())
