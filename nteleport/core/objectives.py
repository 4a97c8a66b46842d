"""What a change of basis can be chosen for: a table of objectives, each a function of ``log|τ|``.

With ``s`` the scale of section 3 of the paper and ``g`` the gradient, the teleported weights are ``s θ`` and
their gradient is ``g / s``. All objectives but ``lookahead`` measure the network first, in one pass or a few,
and are evaluated without a pass from then on. Sums are over the parameters that the CoB reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nteleport.core.activation_ranges import activation_ranges
from nteleport.core.descent import Evaluate
from nteleport.core.model import TeleportableModel
from nteleport.core.path_norms import path_slopes
from nteleport.core.power_sums import PowerSum, Slopes
from nteleport.core.quiver import scaled, scales, teleported
from nteleport.core.recovery import named_weights, solve_cob
from nteleport.core.task import Task
from nteleport.errors import TeleportationError
from nteleport.randomness import wide_dtype
from nteleport.vocabulary import Objective

_NEGLIGIBLE = 1e-13
"""A relative gain that is left to rounding."""

_RESTARTS = 16
"""Of the search for the sharpness, which has many local minima; a restart costs little beside a probe."""

UserFunction = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""``(scales, parameters, gradients) -> Tensor``: a number to be minimized, differentiable in the scales. All
three are by parameter name and of the shape of each parameter; parameters and gradients are those at the CoB
of ones, and gradients are empty where no batches are given."""


Step = Callable[[Tensor, float | None], Tensor]
"""For every entry how far from ``log|τ|`` the best point between the bounds lies while all others stay."""


@dataclass(frozen=True, eq=False)
class Search:
    """A function of ``log|τ|`` to minimize, and how.

    Attributes:
        evaluate: its value and gradient.
        reported: what the history shows for a value: the objective in its own units.
        movable: mask of the entries to choose; the others stay 1. None: all.
        step: closed form of the minimum over each entry, of the function or of a bound that touches it.
        sums: the power sum that ``step`` is made of: entries that share no term of it move at once.
        convex: whether sweeps of ``step`` find the minimum; otherwise they come after the descent, and
            from ones too, and the best is taken.
        restarts: from how many drawn points sweeps begin as well.
        solution: ``log|τ|`` at the minimum for a bound, in closed form.
        start: where to begin; None for ones.
        signs: of the entries; None for +1.
        unbounded: why it has no minimum without a bound on ``log|τ|``; empty if it has one.
        bound: of ``log|τ|`` unless another is asked for.
        standard_error: of the reported value at a point, where it is an estimate.
    """

    evaluate: Evaluate
    reported: Callable[[float], float] = field(default=float)
    movable: Tensor | None = None
    step: Step | None = None
    sums: PowerSum | None = None
    convex: bool = False
    restarts: int = 0
    solution: Callable[[float | None], Tensor] | None = None
    start: Tensor | None = None
    signs: Tensor | None = None
    unbounded: str = ""
    bound: float | None = None
    standard_error: Callable[[Tensor], float] | None = None


def grad_norm(task: Task) -> Search:
    """Largest gradient norm ``‖g / s‖`` after the move.

    Source: the first-order criterion of *Symmetry Teleportation for Accelerated Optimization* (Zhao et al.,
    arXiv 2205.10637), on the orbit of a quiver.
    """
    return _root(_extreme(PowerSum(task.quiver, task.gradients(), -2, torch.square), largest=True))


def weighted_grad_norm(task: Task) -> Search:
    """Largest ``‖g' / θ'‖ = ‖g / (s² θ)‖``, weights that are 0 left out.

    Source: the metric of the same name of the published implementation of *Neural Teleportation* (Armenta et
    al., arXiv 2012.01118).
    """
    ratios = {}
    for name, gradient in task.gradients().items():
        weight = task.parameters[name]
        ratios[name] = torch.where(weight == 0, 0, gradient / weight)
    return _root(_extreme(PowerSum(task.quiver, ratios, -4, torch.square), largest=True))


def lookahead(task: Task, *, optimizer: Callable[..., Optimizer]) -> Search:
    """Lowest loss after one real step of an optimizer at the teleported weights; every evaluation is a pass.

    Args:
        optimizer: makes a torch optimizer of a list of tensors, such as ``partial(torch.optim.SGD, lr=0.1)``;
            one that accepts ``differentiable=True``. Its state starts afresh.

    Source: ``loss_lookahead_diff`` of the published implementation, made differentiable in the CoB.
    """
    gradients = {name: g.detach() for name, g in task.gradients().items()}

    def loss_after_step(logarithm: Tensor) -> Tensor:
        cob = task.cob(logarithm)
        weights = scaled({name: task.parameters[name] for name in gradients}, task.quiver, cob)
        slopes = scaled(gradients, task.quiver, cob, power=-1)
        moved = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in moved.items():
            if weight.requires_grad:
                weight.retain_grad()
                # A second moment of 0 has no slope, but a gradient of 0 stays 0 wherever the weights go.
                slopes[name].register_hook(
                    lambda slope, zero=gradients[name] == 0: slope.masked_fill(zero, 0)
                )
            weight.grad = slopes[name].to(weight.dtype)
        _take_step(optimizer, list(moved.values()))
        plain = scaled(moved, task.quiver, cob, power=-1)
        return task.loss({name: w.to(task.parameters[name].dtype) for name, w in plain.items()})

    return Search(differentiated(loss_after_step), unbounded="the loss after one step may have no minimum",
                  bound=1.0)  # fmt: skip


def balance(task: Task, *, p: int = 2) -> Search:
    """Least ``Σ |θ s|^p``: equi-normalization.

    Over one neuron, all else fixed, ``τ^2p = Σ_out |θ|^p / Σ_in |θ|^p``: what leaves it over what enters it,
    biases with what enters.

    Args:
        p: 1 or 2.

    Source: *Equi-normalization of Neural Networks* (Stock et al., arXiv 1902.10416).
    """
    if isinstance(p, bool) or p not in (1, 2):
        raise TeleportationError(f"balance has p = 1 or 2, got {p!r}")
    sums = PowerSum(task.quiver, task.parameters, p, torch.abs if p == 1 else torch.square)
    movable = _two_sided(sums.at(task.start()))
    return replace(_extreme(sums), movable=movable, convex=True, unbounded="", bound=None)


def path_conditioning(task: Task) -> Search:
    """Best conditioned path kernel: least ``n log Σ G / s² + Σ log s²``.

    ``G = ∂φ / ∂(θ²)``, with ``φ`` the sum of the outputs in evaluation mode of the network with every weight
    squared on an input of ones: the squared path norm. ``n`` counts the parameters with ``G > 0``, the only
    ones in the sums. What is reported is the ratio of the arithmetic to the geometric mean of ``G / s²``: at
    least 1. A sweep minimizes the tangent bound ``log S ≤ log S₀ + S / S₀ − 1``, which is tight at its
    fixed point, over all neurons that share no weight.

    Source: arXiv 2602.19799, generalized from sequential networks to any quiver with positive entries.
    """
    found = path_slopes(task)
    sums = PowerSum(task.quiver, found, -2)
    counts = PowerSum(task.quiver, found, 1, torch.sign)
    number, entering, leaving = counts.at(task.start())
    count = max(1.0, float(number))
    logs = sum(float(_wide(g[g > 0]).log().sum()) for g in found.values())
    excess = leaving - entering
    movable = _two_sided(sums.at(task.start()))

    def evaluate(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        slopes = sums.at(logarithm)
        value = count * slopes.value.log() - 2 * (excess @ logarithm)
        return value, count * sums.gradient(slopes) / slopes.value - 2 * excess

    def step(logarithm: Tensor, _bound: float | None) -> Tensor:
        slopes = sums.at(logarithm)
        above = count * torch.where(movable, slopes.entering, 1) / slopes.value
        below = count * torch.where(movable, slopes.leaving, 1) / slopes.value
        root = (excess.square() + 4 * above * below).sqrt()
        # (root − excess) / (2 above), in the form that does not cancel.
        ratio = torch.where(excess > 0, 2 * below / (root + excess), (root - excess) / (2 * above))
        return -ratio.log() / 2

    def reported(value: float) -> float:
        return math.exp((value - count * math.log(count) - logs) / count)

    return Search(evaluate, reported, movable, step, sums, convex=True)


def activation_range(task: Task) -> Search:
    """Smallest spread of activations: the largest ``τ_i R_i`` of each layer as small as it gets while
    ``Σ log τ_i = 0`` there.

    ``R_i`` is the largest absolute activation of neuron ``i`` on the batches; ``τ_i`` is proportional to
    ``1 / R_i``. Reported is the largest over the geometric mean of ``τ_i R_i``, averaged over layers.

    Source: equalization of ranges (Nagel et al., *Data-Free Quantization*, arXiv 1906.04721), of measured
    activations.
    """
    task.require_batches(labels=False)
    ranges = activation_ranges(task)
    movable = (ranges > 0) & task.scalable
    runs = [slice(layer.start, layer.start + layer.size) for layer in task.quiver.layers]
    logs = torch.where(movable, ranges, 1).log()
    layers = [torch.arange(run.start, run.stop, device=logs.device)[movable[run]] for run in runs]
    layers = [layer for layer in layers if len(layer)]

    def evaluate(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        moved = logarithm + logs
        spreads = [(moved[layer].max() - moved[layer].mean()).exp() for layer in layers]
        value = torch.stack(spreads).mean() if spreads else logarithm.new_ones(())
        return value, torch.zeros_like(logarithm)

    def solution(bound: float | None) -> Tensor:
        logarithm = torch.zeros_like(logs)
        for layer in layers:
            logarithm[layer] = _leveled(logs[layer], bound)
        return logarithm

    return Search(evaluate, movable=movable, solution=solution)


def sharpness(task: Task, *, goal: str = "minimum", probes: int = 16) -> Search:
    """Least or largest trace of the Hessian after the move, ``Σ H_ii / s_i²``.

    Args:
        goal: ``minimum`` or ``maximum``.
        probes: of Hutchinson's estimate of ``H_ii`` with random signs, at least 2; their standard error is
            reported. Each costs a pass through the graph of the gradient.

    Source: *An estimator for the diagonal of a matrix* (Bekas et al., 2007); sharpness on the orbit as in
    *Improving Convergence and Generalization Using Parameter Symmetries* (Zhao et al., arXiv 2305.13404).
    """
    if goal not in ("minimum", "maximum"):
        raise TeleportationError(f"sharpness has the goal 'minimum' or 'maximum', got {goal!r}")
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 2:
        raise TeleportationError(f"sharpness needs at least 2 probes, got {probes!r}")
    total: dict[str, Tensor] = {}
    estimates = []
    for found in _hessian_probes(task, probes):
        estimates.append(PowerSum(task.quiver, found, -2))
        total = {name: _wide(value) / probes + total.get(name, 0) for name, value in found.items()}

    def standard_error(logarithm: Tensor) -> float:
        values = torch.stack([sums.at(logarithm).value for sums in estimates])
        return float(values.std() / math.sqrt(probes))

    search = _extreme(PowerSum(task.quiver, total, -2), largest=goal == "maximum")
    return replace(search, restarts=_RESTARTS, standard_error=standard_error)


def nearest(task: Task, *, target: Any) -> Search:
    """Nearest to other weights: least ``‖s θ − t‖²``, as ``nteleport.solve_cob`` finds it, and descended from
    there where entries are restricted or bounded.

    Args:
        target: the weights ``t``, as for ``nteleport.solve_cob``.
    """
    model = TeleportableModel(task.network, (), quiver=task.quiver)
    goal = {name: t.to(task.device) for name, t in named_weights(model, target).items()}
    solved = solve_cob(model, target).to(task.start())
    if _distance(task, goal, solved) > _distance(task, goal, torch.ones_like(solved)):
        solved = torch.ones_like(solved)
    nonzero = torch.tensor([word == "nonzero" for word in task.quiver.admits], device=solved.device)
    signs = torch.where(nonzero.bool(), solved.sign(), 1.0)

    def distance(logarithm: Tensor) -> Tensor:
        return _distance(task, goal, signs * logarithm.exp())

    return Search(differentiated(distance), lambda value: math.sqrt(max(value, 0.0)),
                  start=solved.abs().log(), signs=signs)  # fmt: skip


def _distance(task: Task, goal: Mapping[str, Tensor], cob: Tensor) -> Tensor:
    """``‖s θ − t‖²``."""
    moved = teleported(task.parameters, task.quiver, cob)
    return torch.stack([(moved[name] - goal[name]).abs().square().sum() for name in moved]).sum()


OBJECTIVES: dict[Objective, Callable[..., Search]] = {
    "grad_norm": grad_norm,
    "weighted_grad_norm": weighted_grad_norm,
    "lookahead": lookahead,
    "balance": balance,
    "path_conditioning": path_conditioning,
    "activation_range": activation_range,
    "sharpness": sharpness,
    "nearest": nearest,
}


def of_user(task: Task, function: UserFunction) -> Search:
    """The search for the minimum of a user's function."""
    gradients = {name: g.detach() for name, g in task.gradients().items()} if task.batches else {}

    def value(logarithm: Tensor) -> Tensor:
        found = function(scales(task.quiver, logarithm.exp()), task.parameters, gradients)
        if not isinstance(found, Tensor) or found.numel() != 1:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TeleportationError(f"an objective is a tensor of one number, got {got}")
        return found.reshape(())

    return Search(differentiated(value), bound=1.0)


def differentiated(function: Callable[[Tensor], Tensor]) -> Evaluate:
    """A scalar function with its gradient, which is 0 where it does not depend on an entry."""

    def evaluate(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point = logarithm.detach().requires_grad_()
            value = function(point)
            if not value.requires_grad:
                return value.detach(), torch.zeros_like(logarithm)
            (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
        return value.detach(), torch.zeros_like(logarithm) if gradient is None else gradient

    return evaluate


def _extreme(sums: PowerSum, *, largest: bool = False) -> Search:
    """The search for the least or largest value of a power sum between bounds.

    As a function of the change ``d`` of one entry it is ``a e^(kd) + b e^(−kd)`` plus what does not depend on
    it, so its minimum is at a bound, or where ``e^(2kd) = b / a``.
    """
    sign = -1 if largest else 1

    def evaluate(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        slopes = sums.at(logarithm)
        return sign * slopes.value, sign * sums.gradient(slopes)

    def step(logarithm: Tensor, bound: float | None) -> Tensor:
        slopes = sums.at(logarithm)
        a, b = sign * slopes.entering, sign * slopes.leaving
        curved = (a > 0) & (b > 0)
        bottom = (torch.where(curved, b, 1) / torch.where(curved, a, 1)).log() / (2 * sums.power)
        if bound is None:
            return bottom
        moves = torch.stack([torch.zeros_like(bottom), bottom, -bound - logarithm, bound - logarithm])
        moves = torch.minimum(torch.maximum(moves, -bound - logarithm), bound - logarithm)
        values = a * (sums.power * moves).exp() + b * (-sums.power * moves).exp()
        least, which = values.min(0)
        better = least < values[0] - _NEGLIGIBLE * values[0].abs()
        return torch.where(better, moves.gather(0, which[None])[0], 0)

    unbounded = "without one, its sums of powers of the change of basis have no extreme value"
    return Search(evaluate, lambda value: sign * value, step=step, sums=sums, unbounded=unbounded, bound=1.0)


def _root(search: Search) -> Search:
    """The same search, which reports the root of its value."""
    reported = search.reported
    return replace(search, reported=lambda value: math.sqrt(max(reported(value), 0.0)))


def _two_sided(slopes: Slopes) -> Tensor:
    """The entries with something on both sides; without, a sum falls for ever in one direction."""
    return (slopes.entering > 0) & (slopes.leaving > 0)


def _wide(values: Tensor) -> Tensor:
    return values.to(wide_dtype(values.device))


def _take_step(optimizer: Callable[..., Optimizer], weights: list[Tensor]) -> None:
    """One step that autograd can follow, of the gradients that ``weights`` hold."""
    if not callable(optimizer):
        raise TeleportationError(
            f"optimizer makes a torch optimizer of a list of tensors, got {type(optimizer).__name__}"
        )
    try:
        made = optimizer(weights, differentiable=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TeleportationError(
            f"lookahead needs an optimizer that accepts differentiable=True: {error}"
        ) from None
    made.step()


def _hessian_probes(task: Task, probes: int) -> Iterator[dict[str, Tensor]]:
    """Estimates ``z ⊙ Hz`` of the diagonal of the Hessian of the loss, with random signs ``z``."""
    slopes = task.gradients_of(task.loss(), create_graph=True)
    curved = [name for name, slope in slopes.items() if slope.requires_grad]
    generator = torch.Generator().manual_seed(task.seed)
    for _ in range(probes):
        signs = {
            name: (1 - 2 * torch.randint(2, p.shape, generator=generator)).to(p)
            for name, p in task.trained.items()
        }
        products = torch.autograd.grad(
            [slopes[name] for name in curved], list(task.trained.values()), [signs[name] for name in curved],
            retain_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        yield {name: signs[name] * product for name, product in zip(task.trained, products, strict=True)}


def _leveled(logs: Tensor, bound: float | None) -> Tensor:
    """The moves that bring all ``logs`` to one level, with sum 0 and within the bound where there is one."""
    if bound is None:
        return logs.mean() - logs
    low, high = logs.min() - bound, logs.max() + bound
    for _ in range(100):
        level = (low + high) / 2
        if (level - logs).clamp(-bound, bound).sum() < 0:
            low = level
        else:
            high = level
    return (low - logs).clamp(-bound, bound)
