"""Signals set a flag."""

from __future__ import annotations

import os
import signal

import pytest

from nteleport.runner.signals import stopping_on_signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_sets_the_flag_and_its_exit_code(name: str) -> None:
    number = getattr(signal, name)
    with stopping_on_signals() as flag:
        assert not flag()
        assert flag.exit_code == 0
        os.kill(os.getpid(), number)
        assert flag()

    assert flag.exit_code == 128 + number


def test_a_second_interrupt_ends_at_once() -> None:
    with stopping_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before
