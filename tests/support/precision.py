"""Double precision for a whole module of tests: `_double = pytest.fixture(autouse=True)(double)`."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def double() -> Iterator[None]:
    """Each test runs in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def double_and_seeded() -> Iterator[None]:
    """Each test runs in float64, from the same random numbers."""
    torch.manual_seed(0)
    yield from double()
