"""Cost against size: how a teleported step, the analysis and memory grow with depth and width.

Two exponents are fitted, by least squares on logarithms over all networks: of the time of the whole analysis,
and of its own part without `torch.export`, against the number of operators in the graph. 1 is linear.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from nteleport import analyze

from .baselines.plain_loop import plain_step
from .memory import peaks
from .networks import INPUT_SHAPE, make_network, plain, random_batch, teleported
from .timing import Setting, take_turns

OPTIMIZER = "SGD momentum"
BATCH = 8
MLP_BATCH = 64
WIDTH = 256

SERIES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "MLP, depth 2 to 64": [
        (f"{depth} × {WIDTH}", "mlp", {"hidden_layers": [WIDTH] * depth}) for depth in (2, 4, 8, 16, 32, 64)
    ],
    "MLP, width 128 to 2048": [
        (f"5 × {width}", "mlp", {"hidden_layers": [width] * 5}) for width in (128, 256, 512, 1024, 2048)
    ],
    "ResNet-18 to 152": [(f"resnet{depth}", f"resnet{depth}", {}) for depth in (18, 34, 50, 101, 152)],
}


@dataclass(frozen=True)
class Size:
    """What one network costs. Times are medians in seconds, memory is in bytes."""

    series: str
    network: str
    parameters: int
    operators: int
    export: float
    analysis: float
    own_analysis: float
    plain_step: float
    teleported_step: float
    plain_memory: int
    teleported_memory: int

    @property
    def step_ratio(self) -> float:
        return self.teleported_step / self.plain_step

    @property
    def memory_ratio(self) -> float:
        return self.teleported_memory / self.plain_memory


def measure_growth(setting: Setting) -> Iterator[Size]:
    """Every network of every series."""
    for series, networks in SERIES.items():
        for label, name, arguments in networks:
            yield _measure(series, label, name, arguments, setting)


def _measure(series: str, label: str, name: str, arguments: dict[str, Any], setting: Setting) -> Size:
    size = MLP_BATCH if name == "mlp" else BATCH
    batch = random_batch(setting, size)
    networks = [make_network(name, setting.device, **arguments) for _ in range(2)]
    inputs = (torch.zeros(2, *INPUT_SHAPE, device=setting.device),)
    export_time, analysis, own, operators = _analysis_times(networks[0], inputs, setting)
    quiver = analyze(networks[0], inputs)
    optimizers = [plain(networks[0], OPTIMIZER), teleported(networks[1], OPTIMIZER, quiver)]
    actions = [
        partial(plain_step, network, made, *batch) for network, made in zip(networks, optimizers, strict=True)
    ]
    steps = [statistics.median(times) for times in take_turns(actions, setting, 1.0, at_least=3, warm_up=1)]
    ours, theirs = peaks(name, OPTIMIZER, size, quiver, **arguments)
    count = sum(parameter.numel() for parameter in networks[0].parameters())
    return Size(series, label, count, operators, export_time, analysis, own, *steps, theirs[0], ours[0])


def _analysis_times(
    network: torch.nn.Module, inputs: tuple[torch.Tensor], setting: Setting
) -> tuple[float, float, float, int]:
    """Seconds of the export, of the analysis, and of the analysis of a graph that is there already; and the
    number of operators.
    """
    export = partial(torch.export.export, network, inputs, strict=False)
    program = export()
    operators = sum(node.op == "call_function" for node in program.graph.nodes)

    def own_part() -> None:
        with mock.patch("nteleport.core.network_graph.trace", return_value=(program, network.training)):
            analyze(network, inputs)

    actions = [export, partial(analyze, network, inputs), own_part]
    times = take_turns(actions, setting, 0.5, at_least=2, warm_up=0)
    exported, analyzed, own = (statistics.median(series) for series in times)
    return exported, analyzed, own, operators


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The k of cost = c · size^k."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def summarize(found: list[Size]) -> dict[str, Any]:
    """The fitted exponents, the widest step and memory ratios, and everything measured."""
    operators = [float(size.operators) for size in found]
    deep = [size for size in found if size.operators > statistics.median(operators)] or found
    return {
        "exponent of the analysis": exponent(operators, [size.analysis for size in found]),
        "exponent of its own part": exponent(operators, [size.own_analysis for size in found]),
        "exponent of its own part, larger half": exponent(
            [float(size.operators) for size in deep], [size.own_analysis for size in deep]
        ),
        "step ratio, geometric mean": math.exp(statistics.mean(math.log(s.step_ratio) for s in found)),
        "step ratio, largest": max(size.step_ratio for size in found),
        "memory ratio, largest": max(size.memory_ratio for size in found),
        "sizes": [
            {**asdict(size), "step_ratio": size.step_ratio, "memory_ratio": size.memory_ratio}
            for size in found
        ],
    }


def draw_growth(found: list[Size], path: Path) -> None:
    """The picture: step, analysis and memory against size."""
    from matplotlib import pyplot

    figure, (steps, analyses, memory) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for color, series in zip(("C0", "C1", "C2"), SERIES, strict=True):
        sizes = [size for size in found if size.series == series]
        parameters = [size.parameters for size in sizes]
        operators = [size.operators for size in sizes]
        style = {"color": color, "marker": "o", "label": series}
        steps.plot(parameters, [size.step_ratio for size in sizes], **style)
        memory.plot(parameters, [size.memory_ratio for size in sizes], **style)
        if len(set(operators)) > 1:
            analyses.plot(operators, [size.analysis for size in sizes], **style)
            own = {**style, "marker": "s", "linestyle": ":", "label": None}
            analyses.plot(operators, [size.own_analysis for size in sizes], **own)
    _finish(steps, "teleported step / plain step", "parameters", "ratio of medians")
    _finish(memory, "peak memory, teleported / plain", "parameters", "ratio")
    _finish(analyses, "analysis; dotted: without torch.export", "operators in the graph", "seconds")
    analyses.set_yscale("log")
    for axes, top in ((steps, 1.2), (memory, 1.3)):
        axes.axhline(1, color="0.6", linewidth=1, zorder=0)
        axes.set_ylim(0.8, max(top, axes.get_ylim()[1]))
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
