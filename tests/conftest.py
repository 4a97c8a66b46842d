"""`pytest --device cuda`: tensors and networks that tests make or ask the package for lie on that device.

What the package makes for itself lies where it says: a tensor that it forgets on the CPU makes a test fail.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._device import _device_constructors

from nteleport.core import cob
from nteleport.errors import JobError
from nteleport.networks import models
from nteleport.training.device import find_device

_MAKERS = (
    "arange as_tensor empty eye full linspace logspace ones tensor tril_indices triu_indices zeros".split()
)
_MOVED = "from_numpy rand randint randn randperm".split()
"""Made on the CPU at first, where their generators are and their numbers do not depend on the device."""

_ON_THE_HOST = (
    "test_parameter_views test_models test_pretrained test_checkpoints test_landscape test_points "
    "test_recover test_checkpoint test_loop test_training_options"
).split()
"""Tests of what the package does on the CPU, of files, and of jobs that are trained there or say where."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tensors and networks of tests lie (default: cpu)")


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--device")
    if name == "cpu":
        return
    try:
        device = find_device(name)
    except JobError as error:
        raise pytest.UsageError(f"--device: {error}") from error
    torch.backends.cudnn.allow_tf32 = False  # tolerances are those of float32
    torch.use_deterministic_algorithms(True, warn_only=True)  # many laws hold bit for bit
    # Before torch's constructors are replaced: the first reads their source, the second remembers them.
    importlib.import_module("torch._decomp.decompositions_for_jvp")
    _device_constructors()
    for name in _MAKERS:
        setattr(torch, name, _asked_for(getattr(torch, name), device))
    of_torch = ((torch, name) for name in _MOVED)
    for owner, name in (*of_torch, (cob, "sample_cob"), (models, "build_model")):
        setattr(owner, name, _moved(getattr(owner, name), device))


def _asked_for(make: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`make` with `device=` for tests that do not say it."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is None and _is_for_a_test():
            kwargs["device"] = device
        return make(*args, **kwargs)

    return made


def _moved(make: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`make`, moved to `device` for tests that do not say where."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        found = make(*args, **kwargs)
        if kwargs.get("device") is not None or not _is_for_a_test():
            return found
        if isinstance(found, nn.Module):
            return found.to(device)
        return found.detach().to(device).requires_grad_(found.requires_grad)

    return made


def _is_for_a_test() -> bool:
    """Whether a test asks, perhaps through a layer of torch, rather than the package or torch itself."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        package, _, name = module.partition(".")
        if package == "nteleport" or (package == "torch" and not name.startswith("nn.")):
            return False
        if package in ("tests", "support"):
            return module.rpartition(".")[2] not in _ON_THE_HOST
        frame = frame.f_back
    return False
