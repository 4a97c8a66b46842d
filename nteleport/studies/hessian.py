"""The Hessian of a loss without its matrix: products with vectors, Hutchinson's trace, Lanczos' eigenvalues.

Vectors are flat: the elements of the chosen parameters one after the other, in the order of
``network.named_parameters()``. A product is the derivative of the gradient along a vector (Pearlmutter, *Fast
exact multiplication by the Hessian*, 1994): forward mode over reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nteleport.core.preserving import keeping_modes
from nteleport.errors import StudyError

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix, as the function that multiplies it by a vector."""

Batch = tuple[Tensor, Tensor]


class Hessian:
    """The Hessian of the mean cross-entropy over some images, of a network in evaluation mode.

    Args:
        network: its weights, buffers and modes stay as they are.
        batches: images and labels, on the device of the network; the loss is the mean over all of them.
        names: of the parameters that count; None takes all that require a gradient. Others are constants.

    Attributes:
        names: of the parameters that count, in order.
        sizes: how many elements each has.
    """

    def __init__(
        self, network: nn.Module, batches: Sequence[Batch], names: Iterable[str] | None = None
    ) -> None:
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        chosen = {name for name, p in network.named_parameters() if p.requires_grad}
        chosen = chosen if names is None else set(names)
        self._free = {name: p for name, p in parameters.items() if name in chosen}
        self._fixed = {name: p for name, p in parameters.items() if name not in chosen}
        self._network, self._batches = network, batches
        self._images = sum(len(labels) for _, labels in batches)
        self.names = tuple(self._free)
        self.sizes = [p.numel() for p in self._free.values()]

    def point(self) -> Tensor:
        """The parameters that count, as a flat vector."""
        return _flat(self._free)

    def product(self, vector: Tensor) -> Tensor:
        """The Hessian times a flat vector.

        Raises:
            StudyError: torch cannot compute it, mostly because an operator has no forward-mode derivative.
        """
        pieces = zip(self._free.items(), vector.split(self.sizes), strict=True)
        tangent = {name: piece.view_as(p).to(p.dtype) for (name, p), piece in pieces}
        total = torch.zeros_like(vector)
        with keeping_modes(self._network), _differentiable():
            self._network.eval()
            for images, labels in self._batches:
                gradient = grad(partial(self._loss, images, labels))
                found = jvp(gradient, (self._free,), (tangent,))[1]
                total += _flat(found) * (len(labels) / self._images)
        return total

    def _loss(self, images: Tensor, labels: Tensor, free: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            functional_call(self._network, {**self._fixed, **free}, images), labels
        )


def teleported_product(product: Product, scale: Tensor) -> Product:
    """The Hessian at the teleported weights θ' = s ⊙ θ, from that at θ: diag(1/s) H diag(1/s).

    The teleported network computes at θ' what the plain one computes at θ' / s, so this is the chain rule.

    Args:
        product: the Hessian at θ.
        scale: s as a flat vector, no element zero.
    """
    return lambda vector: product(vector / scale) / scale


class Estimate(NamedTuple):
    """A mean over random probes and its standard error."""

    value: float
    error: float


def traces(
    product: Product, weights: Tensor, masks: Mapping[str, Tensor], probes: int, generator: torch.Generator
) -> dict[str, Estimate]:
    """Estimates of Σ wᵢ² Hᵢᵢ over each of several groups of elements; with w = 1 these are traces.

    By v·Hv for v = w ⊙ z with random signs z, whose mean it is (Hutchinson, *A stochastic estimator of the
    trace*, 1990): terms zᵢ zⱼ of different elements vanish on average. A probe serves all groups at once.

    Args:
        product: the Hessian.
        weights: w, a flat vector.
        masks: for each group, which positions of a flat vector belong to it, as booleans on the CPU.
        probes: how many, at least 2.
        generator: on the CPU.

    Returns:
        For each group the mean over the probes and its standard error.
    """
    found: dict[str, list[float]] = {name: [] for name in masks}
    for _ in range(probes):
        signs = 2 * torch.randint(0, 2, weights.shape, generator=generator).to(weights) - 1
        vector = weights * signs
        terms = (vector * product(vector)).to("cpu").double()
        for name, mask in masks.items():
            found[name].append(float(terms[mask].sum()))
    return {name: _estimate(torch.tensor(values).double()) for name, values in found.items()}


class Eigenvalue(NamedTuple):
    """An eigenvalue, and a bound of its distance from the nearest true one."""

    value: float
    residual: float


def largest_eigenvalues(
    product: Product, start: Tensor, count: int, *, steps: int, tolerance: float, generator: torch.Generator
) -> list[Eigenvalue]:
    """The largest eigenvalues of a symmetric matrix, by Lanczos with every vector made orthogonal to all.

    An eigenvalue that occurs several times is found several times only if the iteration meets an invariant
    subspace on the way; it then goes on from a new random vector.

    Args:
        product: the matrix.
        start: any vector of its size, for dtype and device.
        count: how many; fewer come back from a smaller matrix or fewer steps.
        steps: products at most.
        tolerance: it ends when no residual is above this share of the largest eigenvalue in magnitude.
        generator: of random vectors, on the CPU.

    Returns:
        Largest first.
    """
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    steps = min(steps, start.numel())
    following = _random_unit(start, basis, generator)
    found: list[Eigenvalue] = []
    while len(basis) < steps:
        basis.append(following)
        image = product(following)
        diagonal.append(float(torch.dot(image.double(), following.double())))
        rest, length = _orthogonal(image, basis)
        size = max(map(abs, [*diagonal, *beside]))
        invariant = length <= 10 * torch.finfo(start.dtype).eps * size
        beside.append(0.0 if invariant else length)
        found = _ritz(diagonal, beside, count)
        largest = max((abs(each.value) for each in found), default=0.0)
        settled = len(found) == count and all(each.residual <= tolerance * largest for each in found)
        if settled and not invariant:
            break
        following = _random_unit(start, basis, generator) if invariant else rest / length
    return found


def _ritz(diagonal: Sequence[float], beside: Sequence[float], count: int) -> list[Eigenvalue]:
    """The largest eigenvalues of the tridiagonal matrix so far; the last of `beside` leads out of it."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if len(beside) > 1:
        inner = torch.tensor(beside[:-1], dtype=torch.float64)
        matrix += torch.diag(inner, 1) + torch.diag(inner, -1)
    values, vectors = torch.linalg.eigh(matrix)
    residuals = beside[-1] * vectors[-1].abs()
    pairs = zip(values.flip(0).tolist(), residuals.flip(0).tolist(), strict=True)
    return [Eigenvalue(*pair) for pair in pairs][:count]


def _orthogonal(vector: Tensor, basis: Sequence[Tensor]) -> tuple[Tensor, float]:
    """What of a vector is orthogonal to a basis, and its length; twice is enough (Kahan)."""
    for _ in range(2):
        for each in basis:
            vector = vector - torch.dot(vector, each) * each
    return vector, float(vector.double().norm())


def _random_unit(like: Tensor, basis: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """A random vector of length 1, orthogonal to a basis."""
    if len(basis) >= like.numel():
        return torch.zeros_like(like)
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    vector, length = _orthogonal(drawn, basis)
    return vector / length


def _estimate(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5))


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in tensors.values()])


@contextmanager
def _differentiable() -> Iterator[None]:
    """Use kernels that have a forward-mode derivative, and tell what torch says where there is none."""
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:  # NotImplementedError is one too
        reason = str(error).strip().splitlines()[0]
        raise StudyError(f"the Hessian of this model cannot be computed: {reason}") from error
