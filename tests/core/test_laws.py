"""How weights and gradients grow in expectation under τ ~ U[1−σ, 1+σ]: the exact laws.

E[τ²] = 1 + σ²/3 and E[1/τ²] = 1/(1 − σ²), and the entries of a CoB are independent. A weight w_ij · τ_i /
τ_j of a middle layer therefore grows by the product of both, one that has a CoB on one side only by one
of them. Means of samples are compared with the laws within four of their standard errors, which are
required to be small.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nteleport import TeleportableModel, sample_cob
from nteleport.core.norms import TeleportedNorms

SIGMAS = (0.3, 0.6, 0.9)
STANDARD_ERRORS = 4


def of_square(sigma: float) -> float:
    return 1 + sigma**2 / 3


def of_inverse_square(sigma: float) -> float:
    return 1 / (1 - sigma**2)


def agrees(sample: Tensor, law: float, precision: float) -> None:
    """The mean of a sample is the law's, and the sample is large enough for that to mean something."""
    error = float(sample.std()) / math.sqrt(len(sample))
    assert error < precision * law
    assert float(sample.mean()) == pytest.approx(law, abs=STANDARD_ERRORS * error)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(
    ("power", "law"),
    [
        (2, of_square),
        (-2, of_inverse_square),
        (1, lambda sigma: 1.0),
        (-1, lambda sigma: math.atanh(sigma) / sigma),
    ],
    ids=["E[τ²]", "E[1/τ²]", "E[τ]", "E[1/τ]"],
)
def test_moments_of_a_sampled_cob(sigma: float, power: int, law: object) -> None:
    cob = sample_cob(1_000_000, sigma, "intra_landscape", generator=torch.Generator().manual_seed(11))
    assert callable(law)
    agrees(cob.double().pow(power), law(sigma), 0.01)


def multilayer_perceptron() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(5)
    layers = [nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 6)]
    network = nn.Sequential(*(layer.double() for layer in layers))
    return network, torch.randn(16, 20, dtype=torch.float64), torch.randint(0, 6, (16,))


def growth(sigma: float, samples: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Squared weights and gradients of each weight matrix after truly teleporting, over those before."""
    network, x, y = multilayer_perceptron()
    model = TeleportableModel(network, x)
    sizes = [p.numel() for p in network.parameters()]
    names = [name for name, _ in network.named_parameters()]

    def squares() -> tuple[Tensor, Tensor]:
        vectors = model.weight_vector(), model.gradient_vector(x, y, functional.cross_entropy)
        weights, gradients = (torch.stack([v.square().sum() for v in w.split(sizes)]) for w in vectors)
        return weights, gradients

    before = squares()
    generator = torch.Generator().manual_seed(17)
    rows = []
    for _ in range(samples):
        model.random_teleport(sigma, "intra_landscape", generator=generator)
        rows.append([now / then for now, then in zip(squares(), before, strict=True)])
    weights, gradients = (torch.stack(list(column)) for column in zip(*rows, strict=True))
    matrices = [position for position, name in enumerate(names) if name.endswith("weight")]
    return tuple(
        {
            layer: table[:, position]
            for layer, position in zip(("first", "middle", "last"), matrices, strict=True)
        }
        for table in (weights, gradients)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("sigma", [0.5, 0.9])
def test_squared_weights_and_gradients_grow_by_the_law_of_their_layer(sigma: float) -> None:
    square, inverse = of_square(sigma), of_inverse_square(sigma)
    weights, gradients = growth(sigma, samples=400)
    for layer, law in {"first": square, "middle": square * inverse, "last": inverse}.items():
        agrees(weights[layer], law, 0.03)
    for layer, law in {"first": inverse, "middle": square * inverse, "last": square}.items():
        agrees(gradients[layer], law, 0.03)


def test_the_laws_at_the_papers_range_have_the_published_values() -> None:
    square, inverse = of_square(0.9), of_inverse_square(0.9)
    assert [round(value, 2) for value in (inverse, square * inverse, square)] == [5.26, 6.68, 1.27]


def test_inner_products_of_weights_and_teleported_weights_grow_by_the_law_of_their_layer() -> None:
    sigma = 0.8
    network, x, _ = multilayer_perceptron()
    weights = {name: p.detach() for name, p in network.named_parameters()}
    quiver = TeleportableModel(network, x).quiver
    generator = torch.Generator().manual_seed(23)
    cobs = torch.stack(
        [sample_cob(quiver.cob_size, sigma, "intra_landscape", generator=generator) for _ in range(2000)]
    )
    norms = TeleportedNorms(quiver, cobs.double())
    for name, law in {
        "0.weight": 1.0,
        "2.weight": math.atanh(sigma) / sigma,
        "4.weight": math.atanh(sigma) / sigma,
    }.items():
        products = norms.weight_products({name: weights[name]}) / weights[name].square().sum()
        agrees(products, law, 0.01)
