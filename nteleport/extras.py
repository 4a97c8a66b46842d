"""Packages that few need: imported when used, and missed with a message that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from nteleport.errors import MissingExtraError

__all__ = ["import_extra"]


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, which `pip install 'nteleport[extra]'` installs.

    Args:
        module: its full name.
        extra: the extra of nteleport that brings it.
        purpose: what needs it, for the message: "nteleport submit".

    Raises:
        MissingExtraError: it is not installed, or it is broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        found = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if found else f"cannot be imported ({error})"
        message = f"{purpose} needs the package {package}, which {state}: pip install 'nteleport[{extra}]'"
        raise MissingExtraError(message) from error
