"""Marks that run a law on each construct; the tests take `name`, and `training` where they need a mode."""

from __future__ import annotations

import pytest

from .networks import CONSTRUCTS

each_construct = pytest.mark.parametrize("name", CONSTRUCTS)
each_construct_and_mode = pytest.mark.parametrize(
    ("name", "training"), [(name, mode) for name, construct in CONSTRUCTS.items() for mode in construct.modes]
)
each_construct_and_traced_mode = pytest.mark.parametrize(
    ("name", "training"),
    [
        (name, mode)
        for name, construct in CONSTRUCTS.items()
        for mode in construct.modes
        if mode in construct.traced
    ],
)
each_construct_of_both_modes = pytest.mark.parametrize(
    "name",
    [name for name, construct in CONSTRUCTS.items() if len(construct.modes) == len(construct.traced) == 2],
)
