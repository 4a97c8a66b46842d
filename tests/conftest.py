"""`pytest --device cuda`: tensors and networks that tests make lie on that device.

The package is left alone: what it makes lies where it asks for, so that a tensor that it forgets on the CPU fails.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nteleport.core import cob

_MAKERS = "arange as_tensor empty eye full linspace logspace ones tensor tril_indices triu_indices zeros".split()
_MOVED = "from_numpy rand randint randn randperm".split()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tensors and networks of tests lie (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    device = torch.device(config.getoption("--device"))
    if device.type == "cpu":
        return
    torch.empty(0, device=device)  # fails here, once, where there is none
    for name in (*_MAKERS, *_MOVED):
        setattr(torch, name, _made_on(device, getattr(torch, name), moved=name in _MOVED))
    cob.sample_cob = _made_on(device, cob.sample_cob, moved=True)


def _made_on(device: torch.device, make: Callable[..., Tensor], *, moved: bool) -> Callable[..., Tensor]:
    """`make`, whose tensor tests find on `device`; random ones are moved, as their generator is of the CPU."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") is not None or not _asked_by_a_test():
            return make(*args, **kwargs)
        if not moved:
            return make(*args, **{**kwargs, "device": device})
        tensor = make(*args, **kwargs)
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

    return made


def _asked_by_a_test() -> bool:
    """Whether a tensor is for a test, perhaps for a layer that it makes, rather than for the package or torch."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        package = module.partition(".")[0]
        if package == "nteleport" or (package == "torch" and not module.startswith("torch.nn.")):
            return False
        if package in ("tests", "support") or package.startswith("test_"):
            return True
        frame = frame.f_back
    return False
