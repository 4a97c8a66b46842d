#!/usr/bin/env python3
"""What a training step costs when it is teleported, against the plain network with the same optimizer.

Both networks are the same, are fed the same batch and take steps of the same fused SGD with momentum 0.9; one
through ``TeleportedOptimizer`` after an ``inter_landscape`` teleportation of range 0.9. The two take turns,
step by step, and swap who goes first, so that whatever else the machine does meets both. Shown are the
medians, their ratio, and its spread: the 25th and 75th percentile of the ratio over the pairs of neighbours.

    python scripts/bench_step.py                        # all three networks, about three minutes on two cores
    python scripts/bench_step.py mlp --seconds 10 --json step.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nteleport import TeleportedOptimizer, analyze, sample_cob
from nteleport.models import build_model

INPUT_SHAPE = (3, 32, 32)
NUM_CLASSES = 10
WARM_UP_STEPS = 5
MINIMUM_PAIRS = 10
#: So small that weights stay put: a run that diverges would measure the arithmetic of infinities.
LEARNING_RATE = 1e-9

HYPER_PARAMETERS = {"lr": LEARNING_RATE, "momentum": 0.9, "fused": True}

BATCH_SIZES = {"mlp": 256, "resnet18": 32, "densenet121": 32}


@dataclass(frozen=True)
class Comparison:
    """Medians of both kinds of step in milliseconds, and the ratio of the teleported to the plain one."""

    network: str
    batch_size: int
    pairs: int
    plain_ms: float
    teleported_ms: float
    ratio: float
    ratio_p25: float
    ratio_p75: float


def main() -> None:
    """Run the comparisons asked for on the command line and show them."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(f"{machine(device)}; median step in ms, SGD momentum 0.9, 3×32×32 input\n")
    print(
        f"{'network':<14}{'batch':>6}{'plain':>10}{'teleported':>12}{'ratio':>9}{'p25–p75':>16}{'pairs':>7}"
    )
    comparisons = []
    for network in arguments.networks:
        found = compare(network, BATCH_SIZES[network], device, arguments.seconds)
        spread = f"{found.ratio_p25:.3f}–{found.ratio_p75:.3f}"
        print(
            f"{network:<14}{found.batch_size:>6}{found.plain_ms:>10.2f}{found.teleported_ms:>12.2f}"
            f"{found.ratio:>9.3f}{spread:>16}{found.pairs:>7}",
            flush=True,
        )
        comparisons.append(asdict(found))
    if arguments.json:
        content = {"machine": machine(device), "comparisons": comparisons}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(BATCH_SIZES), help="mlp, resnet18, densenet121")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each network (default 60)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    arguments = parser.parse_args()
    unknown = set(arguments.networks) - set(BATCH_SIZES)
    if unknown:
        parser.error(f"unknown network {', '.join(sorted(unknown))}: expected {', '.join(BATCH_SIZES)}")
    return arguments


def machine(device: torch.device) -> str:
    """The device and the versions, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def compare(name: str, batch_size: int, device: torch.device, seconds: float) -> Comparison:
    """Time both kinds of step of one network, in turns, for about `seconds`."""
    images = torch.randn(batch_size, *INPUT_SHAPE, device=device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    steps = [
        training_step(*make(name, images), images, labels) for make in (plain_network, teleported_network)
    ]
    for step in steps:
        for _ in range(WARM_UP_STEPS):
            step()
    pairs = list(timed_pairs(steps, device, seconds))
    plain, teleported = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    p25, _, p75 = statistics.quantiles(ratios, n=4)
    return Comparison(
        name, batch_size, len(pairs), plain * 1e3, teleported * 1e3, teleported / plain, p25, p75
    )


def plain_network(name: str, images: torch.Tensor) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and the optimizer as anybody would write them."""
    torch.manual_seed(0)
    network = build_model(name, input_shape=INPUT_SHAPE, num_classes=NUM_CLASSES).to(images.device)
    return network, torch.optim.SGD(network.parameters(), **HYPER_PARAMETERS)


def teleported_network(name: str, images: torch.Tensor) -> tuple[nn.Module, TeleportedOptimizer]:
    """The same network, teleported, and trained at its teleported weights."""
    torch.manual_seed(0)
    network = build_model(name, input_shape=INPUT_SHAPE, num_classes=NUM_CLASSES).to(images.device)
    quiver = analyze(network, images[:2])
    optimizer = TeleportedOptimizer(network, quiver, torch.optim.SGD, **HYPER_PARAMETERS)
    generator = torch.Generator().manual_seed(1)
    cob = sample_cob(quiver.cob_size, 0.9, "inter_landscape", generator=generator)
    optimizer.teleport(cob.to(images.device))
    return network, optimizer


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer | TeleportedOptimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> Callable[[], None]:
    """One step of the simplest correct training loop, as a function without arguments."""
    network.train()

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def timed_pairs(
    steps: list[Callable[[], None]], device: torch.device, seconds: float
) -> Iterator[tuple[float, float]]:
    """Seconds of the (plain, teleported) step, over and over; who goes first alternates."""
    start = time.perf_counter()
    for turn in itertools.count():
        times = [0.0, 0.0]
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            began = time.perf_counter()
            steps[which]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[which] = time.perf_counter() - began
        yield times[0], times[1]
        if turn + 1 >= MINIMUM_PAIRS and time.perf_counter() - start > seconds:
            return


if __name__ == "__main__":
    main()
