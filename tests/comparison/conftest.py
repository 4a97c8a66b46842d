"""For all tests of comparisons."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _little_garbage_to_look_through() -> Iterator[None]:
    """statsmodels collects garbage whenever it adjusts p values: slow beside all that torch holds."""
    gc.freeze()
    yield
    gc.unfreeze()
