"""Choose a change of basis for an objective, instead of drawing it.

``choose_cob`` measures the network once, as the objective asks for (``nteleport.core.objectives``), and then
searches over ``log|τ|`` without running it: by sweeps of closed forms over layers where there are such,
otherwise by L-BFGS between bounds (``nteleport.core.descent``).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nteleport.core.checks import check_cob, check_network
from nteleport.core.descent import Evaluate, minimize
from nteleport.core.objectives import OBJECTIVES, Search, Step, UserFunction, of_user
from nteleport.core.quiver import Quiver
from nteleport.core.task import Batch, Task, batches_of
from nteleport.errors import TeleportationError, nearest
from nteleport.randomness import seed_of
from nteleport.vocabulary import Objective

_SWEEPS = 100
"""Where these do not converge, as in deep networks, descent finishes what they began."""

_CONVEX_STEPS = 500
_STILL = 1e-9


@dataclass(frozen=True, eq=False)
class Chosen:
    """A chosen change of basis.

    Attributes:
        cob: shape ``(cob_size,)``, in the dtype and on the device of the network's changes of basis.
        history: the objective at the CoB of ones and after each step, in its own units; for ``nearest``, from
            the closed form on.
        seconds: what the choice took, passes through the network included.
        standard_error: of the last value, where it is an estimate (``sharpness``).
    """

    cob: Tensor
    history: tuple[float, ...]
    seconds: float
    standard_error: float | None = None


def choose_cob(
    quiver: Quiver,
    network: nn.Module,
    objective: Objective | UserFunction,
    *,
    batches: Iterable[Batch] | None = None,
    steps: int = 50,
    max_log_range: float | Literal["default"] | None = "default",
    generator: torch.Generator | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    **options: object,
) -> Chosen:
    """Choose the change of basis that is best for an objective.

    | objective | is best where | options | batches need |
    |---|---|---|---|
    | ``grad_norm`` | the gradient norm ‖g/s‖ is largest | | labels |
    | ``weighted_grad_norm`` | ‖g/(s²θ)‖ is largest | | labels |
    | ``lookahead`` | the loss after one step is lowest | ``optimizer`` | labels |
    | ``balance`` | Σ ‖W‖ₚᵖ is least | ``p=2`` | none needed |
    | ``path_conditioning`` | the path kernel is best conditioned | | inputs |
    | ``activation_range`` | activations spread least | | inputs |
    | ``sharpness`` | the trace of the Hessian is least | ``goal="minimum"``, ``probes=16`` | labels |
    | ``nearest`` | weights are nearest to a target | ``target`` | none needed |
    | a function | it is least | | labels, if it reads gradients |

    Formulas and sources are in ``nteleport.core.objectives``. The search is over ``log|τ|``, from a CoB of
    ones, and its result is never worse. Signs are left alone: entries that admit only a sign stay 1, all
    others are positive (``nearest`` alone takes the signs that it finds where they are admitted). The result
    is the same for the same arguments.

    Args:
        quiver: of the network, with activations conjugated or kept. With ``norms="up_to_eps"`` corrections
            for ``eps`` are left out of account; ``path_conditioning`` takes no such quiver, and ``nearest``
            none that moves running statistics.
        network: at the CoB of ones; it is left unchanged, and measured in its present mode.
        objective: a name of the table, or a function to minimize, ``(scales, parameters, gradients) ->
            Tensor``. All three are by parameter name, in the shape of each parameter; parameters and
            gradients are those before the move, and gradients are empty without batches. The result is one
            number, differentiable in the scales.
        batches: pairs of inputs and labels; labels may be None where none are needed. Of
            ``path_conditioning`` only the shape of the first inputs matters.
        steps: of the descent, at most. Convex objectives (``balance``, ``path_conditioning``) take what they
            need to converge: up to 100 sweeps of closed forms, and where these are slow, 500 steps more.
        max_log_range: bound of ``|log|τ||``. None is no bound, where the objective has a minimum without one.
            By default 1, and none for ``balance``, ``path_conditioning``, ``activation_range`` and
            ``nearest``.
        generator: source of the randomness of dropout and probes; always the same if None.
        loss: from outputs, or their entry ``logits``, and labels to their mean; by default the cross-entropy.
        **options: of the objective. ``optimizer`` makes a torch optimizer of a list of tensors, such as
            ``partial(torch.optim.SGD, lr=0.1)``, and accepts ``differentiable=True``; ``p`` is 1 or 2;
            ``goal`` is ``minimum`` or ``maximum``; ``probes`` counts those of Hutchinson's estimate;
            ``target`` is as for ``nteleport.solve_cob``.

    Raises:
        TeleportationError: the quiver of another network, an unknown objective or option, batches that are
            missing, or an objective that is not defined or has no minimum here.
        AnalysisError: ``activation_range`` cannot trace the network on these batches.
    """
    began = time.perf_counter()
    check_network(network, quiver)
    _check_numbers(steps, max_log_range)
    name = objective if isinstance(objective, str) else getattr(objective, "__name__", "objective")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    seed = seed_of("choose") if generator is None else int(
        torch.randint(2**62, (), generator=generator, device=generator.device)
    )  # fmt: skip
    task = Task(quiver.to(device), network, batches_of(batches, device), seed, name, loss)
    with task.preserved():
        search = _search(task, objective, options)
        bound = search.bound if max_log_range == "default" else max_log_range
        if bound is None and search.unbounded:
            raise TeleportationError(f"{name} needs a bound, max_log_range: {search.unbounded}")
        logarithm, values = _solve(_restricted(search, task), task, bound, steps)
        if not math.isfinite(values[0]):
            raise TeleportationError(f"{name} is {values[0]} for this network on these batches")
        error = None if search.standard_error is None else search.standard_error(logarithm)
    cob = task.cob(logarithm)
    cob = cob if search.signs is None else cob * search.signs.to(cob)
    check_cob(quiver, cob)
    history = tuple(search.reported(value) for value in values)
    return Chosen(cob, history, time.perf_counter() - began, error)


def _check_numbers(steps: object, max_log_range: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TeleportationError(f"steps is a whole number of at least 1, got {steps!r}")
    if max_log_range is None or max_log_range == "default":
        return
    number = isinstance(max_log_range, (int, float)) and not isinstance(max_log_range, bool)
    if not number or not (0 < float(max_log_range) < math.inf):  # type: ignore[arg-type]
        raise TeleportationError(f"max_log_range is a number above 0, or None; got {max_log_range!r}")


def _search(task: Task, objective: object, options: dict[str, object]) -> Search:
    """What an objective searches for on a task; measures the network."""
    if isinstance(objective, str):
        made = {str(name): each for name, each in OBJECTIVES.items()}.get(objective)
        if made is None:
            known = ", ".join(OBJECTIVES)
            raise TeleportationError(
                f"unknown objective {objective!r}: expected a function or one of {known}"
                f"{nearest(objective, OBJECTIVES)}"
            )
        _check_options(objective, made, options)
        return made(task, **options)
    if not callable(objective):
        raise TeleportationError(
            f"an objective is a name or a function, got an object of type {type(objective).__name__}"
        )
    if options:
        raise TeleportationError(f"a function takes no options, got {', '.join(options)}")
    return of_user(task, objective)


def _check_options(objective: str, made: Callable[..., Search], options: dict[str, object]) -> None:
    _, *known = inspect.signature(made).parameters.values()
    names = [parameter.name for parameter in known]
    for option in options:
        if option not in names:
            expected = f"expected {' or '.join(names)}" if names else "it has none"
            raise TeleportationError(
                f"{objective} has no option {option!r}: {expected}{nearest(option, names)}"
            )
    for parameter in known:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise TeleportationError(f"{objective} needs the option {parameter.name!r}")


def _restricted(search: Search, task: Task) -> Search:
    """The search over the entries that it moves and that admit more than a sign."""
    movable = task.scalable if search.movable is None else task.scalable & search.movable
    inner, closed = search.evaluate, search.step

    def evaluate(logarithm: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = inner(logarithm)
        return value, torch.where(movable, gradient, 0)

    def step(logarithm: Tensor, bound: float | None) -> Tensor:
        assert closed is not None
        return torch.where(movable, closed(logarithm, bound), 0)

    start = None if search.start is None else torch.where(movable, search.start, 0)
    return replace(search, evaluate=evaluate, step=closed and step, start=start)


def _solve(search: Search, task: Task, bound: float | None, steps: int) -> tuple[Tensor, list[float]]:
    """``log|τ|`` and the values on the way there."""
    start = task.start() if search.start is None else search.start
    start = start if bound is None else start.clamp(-bound, bound)
    if search.solution is not None:
        solution = search.solution(bound)
        return solution, [float(search.evaluate(each)[0]) for each in (start, solution)]
    groups = None if search.sums is None else search.sums.independent(_runs(task.quiver))
    if search.step is None or groups is None:
        return minimize(search.evaluate, start, bound, _CONVEX_STEPS if search.convex else steps)
    if search.convex:
        swept, values = _sweep(search.evaluate, search.step, groups, start, bound)
        if len(values) <= _SWEEPS:
            return swept, values
        point, more = minimize(search.evaluate, swept, bound, _CONVEX_STEPS)
        return point, values + more[1:]
    descended, values = minimize(search.evaluate, start, bound, steps)
    ways = [(values[:-1], descended), ([], start)]
    ways += [([values[0]], drawn) for drawn in _other_starts(search, task, bound)]
    results = []
    for before, point in ways:
        swept, after = _sweep(search.evaluate, search.step, groups, point, bound)
        results.append((swept, [*before, *after]))
    return min(results, key=lambda result: result[1][-1])


def _other_starts(search: Search, task: Task, bound: float | None) -> Iterator[Tensor]:
    """Points drawn between the bounds."""
    random = torch.Generator().manual_seed(task.seed)
    for _ in range(search.restarts):
        drawn = (2 * torch.rand(task.quiver.cob_size, generator=random) - 1) * (bound or 1.0)
        yield torch.where(task.scalable, drawn.to(task.start()), 0)


def _sweep(
    evaluate: Evaluate, step: Step, groups: list[Tensor], start: Tensor, bound: float | None
) -> tuple[Tensor, list[float]]:
    """Minimize over one group of entries after the other, in closed form, until nothing moves."""
    point, values = start, [float(evaluate(start)[0])]
    for _ in range(_SWEEPS if groups else 0):
        before = point
        for group in groups:
            moved = torch.where(group, point + step(point, bound), point)
            point = moved if bound is None else moved.clamp(-bound, bound)
        values.append(float(evaluate(point)[0]))
        if float((point - before).abs().max()) <= _STILL:
            break
    return point, values


def _runs(quiver: Quiver) -> list[slice]:
    return [slice(layer.start, layer.start + layer.size) for layer in quiver.layers]
