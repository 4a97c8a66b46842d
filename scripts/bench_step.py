#!/usr/bin/env python3
"""What a training step costs when it is teleported, against the plain network with the same optimizer.

Both networks are the same, are fed the same batch and take steps of the same fused SGD with momentum 0.9; one
through ``TeleportedOptimizer`` after an ``inter_landscape`` teleportation of range 0.9. The two take turns,
step by step, and swap who goes first, so that whatever else the machine does meets both. Shown are the
medians, their ratio and its quartiles. ``scripts/bench`` makes this comparison and all others.

    python scripts/bench_step.py                        # four networks, about four minutes on two cores
    python scripts/bench_step.py mlp --seconds 10 --json step.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from benchmarks.machine import describe, keep_freed_memory
from benchmarks.networks import BATCH_SIZES
from benchmarks.steps import compare_steps
from benchmarks.table import header, row
from benchmarks.timing import Setting


def main() -> None:
    """Run the comparisons asked for on the command line and show them."""
    arguments = parse_arguments()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    setting = Setting(torch.device(arguments.device))
    machine = describe(setting.device)
    print(f"{machine['device']}; {torch.get_num_threads()} threads; torch {torch.__version__}\n")
    print(header())
    figures = []
    for network in arguments.networks:
        for figure in compare_steps(
            network, "SGD momentum", setting, arguments.seconds, against_rescaling=False
        ):
            print(row(figure), flush=True)
            figures.append(asdict(figure))
    if arguments.json:
        content = {"machine": machine, "figures": figures}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(BATCH_SIZES), help=", ".join(BATCH_SIZES))
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each network (default 60)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    arguments = parser.parse_args()
    unknown = set(arguments.networks) - set(BATCH_SIZES)
    if unknown:
        parser.error(f"unknown network {', '.join(sorted(unknown))}: expected {', '.join(BATCH_SIZES)}")
    return arguments


if __name__ == "__main__":
    main()
