"""Settings of the study `dot-product`."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.studies.settings import RangesSettings


@dataclass(frozen=True, kw_only=True)
class DotProductSettings(RangesSettings):
    """Cosine and angle between the weights and the teleported weights, against the range of the CoB."""
