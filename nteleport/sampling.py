"""Which ways of sampling a change of basis there are, and which ranges they allow. No torch is imported."""

from __future__ import annotations

import math

from nteleport.errors import nearest

SAMPLINGS = ("intra_landscape", "inter_landscape", "positive", "negative", "centered")


def sampling_problem(sampling: str, cob_range: float, center: float = 1.0) -> str | None:
    """Say why changes of basis cannot be drawn like this, or return None if they can.

    With r = `cob_range`: `intra_landscape` needs 0 ≤ r ≤ 1 and `inter_landscape` r ≥ 0; `positive` and
    `negative` need r > 0; `centered` needs 0 < r ≤ `center`.
    """
    if sampling not in SAMPLINGS:
        names = ", ".join(SAMPLINGS)
        return f"unknown sampling {sampling!r}, expected one of {names}{nearest(sampling, SAMPLINGS)}"
    if not (math.isfinite(cob_range) and math.isfinite(center)):
        return f"cob_range {cob_range:g} with center {center:g}: expected finite numbers"
    expected = {
        "intra_landscape": (0 <= cob_range <= 1, "a range from 0 to 1"),
        "inter_landscape": (cob_range >= 0, "a range of at least 0"),
        "positive": (cob_range > 0, "a range above 0"),
        "negative": (cob_range > 0, "a range above 0"),
        "centered": (0 < cob_range <= center, f"a range above 0 and at most its center {center:g}"),
    }
    allowed, wanted = expected[sampling]
    return None if allowed else f"cob_range {cob_range:g} is forbidden by {sampling}: expected {wanted}"
