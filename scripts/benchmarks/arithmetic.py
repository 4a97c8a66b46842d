"""The arithmetic limit: a training step takes at least its floating-point operations over the rate at which
the machine multiplies matrices.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.flop_counter import FlopCounterMode

from .machine import matmul_rate
from .networks import BATCH_SIZES, random_batch
from .steps import teleported_action
from .timing import Figure, Setting, compare, take_turns


def arithmetic_limit(setting: Setting) -> Iterator[Figure]:
    """A teleported step against its limit, every network."""
    rate = matmul_rate(setting)
    for name, size in BATCH_SIZES.items():
        step = teleported_action(name, "SGD momentum", random_batch(setting, size))
        with FlopCounterMode(display=False) as counter:
            step()
        operations = counter.get_total_flops()
        (times,) = take_turns([step], setting, 3.0)
        against = f"{operations / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
        limit = [operations / rate] * len(times)
        yield compare("limit", f"step, SGD momentum: {name}", against, times, limit)
