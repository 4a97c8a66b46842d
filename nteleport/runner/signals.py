"""Stop signals only set a flag: the run stops at a point from which it can resume exactly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def stop_signals() -> tuple[int, ...]:
    """The stop signals that this system has."""
    return tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class StopFlag:
    """Set by the first signal; `signal_number` says which it was."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """128 + signal number, as shells report a program ended by a signal; 0 without a signal."""
        return 0 if self.signal_number is None else 128 + self.signal_number


@contextmanager
def stopping_on_signals() -> Iterator[StopFlag]:
    """Within the block, SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 set the yielded flag.

    A second SIGINT raises `KeyboardInterrupt` at once. SIGHUP is ignored: a run outlives its terminal. Call
    it only in the main thread.
    """
    flag = StopFlag()

    def request(number: int, frame: FrameType | None) -> None:
        if flag() and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal_number = flag.signal_number or number

    before = {number: signal.signal(number, request) for number in stop_signals()}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
