"""The command line: a thin layer over the library.

``main`` is the entry point of the console script ``nteleport``. Each command is a separate module, imported
when it is requested; torch, pandas and matplotlib are imported even later, when the command starts working.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

__all__ = ["main"]


def main(*args: Any, **kwargs: Any) -> None:
    """Run the command line on ``sys.argv``, or on the arguments given as a list. Always exits."""
    _open_missing_streams()
    try:
        from nteleport.cli.app import nteleport
    except KeyboardInterrupt:  # before the command line handles it itself, in the same way
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)

    nteleport(*args, **kwargs)


def _open_missing_streams() -> None:
    """Send what goes to a closed stream (``>&-``) nowhere, rather than to the next file that is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # for worker processes
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
