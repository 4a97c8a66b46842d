"""The command line: a thin leaf over the library.

``main`` is what the console script ``nteleport`` runs. Each command is a module of its own, imported when it
is asked for; torch, pandas and matplotlib are imported later still, when the command truly works.
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
    except KeyboardInterrupt:  # a moment later the command line itself would end like this
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)

    nteleport(*args, **kwargs)
