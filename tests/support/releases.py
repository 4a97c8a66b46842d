"""Releases of torch: what `torch.export` of an older one cannot trace, or says in other words."""

from __future__ import annotations

import pytest
import torch


def torch_is(release: str) -> bool:
    """Whether the installed torch is this release, such as "2.10", or a later one."""
    installed, wanted = (tuple(map(int, each.split(".")[:2])) for each in (torch.__version__, release))
    return installed >= wanted


def needs_torch(release: str) -> pytest.MarkDecorator:
    """Skip a test where torch is older than `release`."""
    return pytest.mark.skipif(not torch_is(release), reason=f"needs torch {release}")
