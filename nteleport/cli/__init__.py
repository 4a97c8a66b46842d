"""The command line: a thin layer over the library.

``main`` is the entry point of the console script ``nteleport``. Each command is a separate module, imported
when it is requested; torch, pandas and matplotlib are imported even later, when the command starts working.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

__all__ = ["main"]


def main(*args: Any, **kwargs: Any) -> None:
    """Run the command line on ``sys.argv``, or on the arguments given as a list. Always exits."""
    try:
        from nteleport.cli.app import nteleport
    except KeyboardInterrupt:  # before the command line handles it itself, in the same way
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)

    nteleport(*args, **kwargs)
