"""The command line: a thin leaf over the library. Nothing here imports torch until a command needs it."""

from __future__ import annotations

from typing import Any

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    if name == "main":
        from nteleport.cli.main import main

        return main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
