"""The source of all randomness: seeds and generators named by their purpose, and the dtype to compute in.

A purpose is a few words and numbers, such as ``("epoch", seed, 3)``. Each has a seed of its own, so that a
draw added for one purpose changes no other, and a resumed job needs no hidden state.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*purpose: str | int) -> int:
    """63 bits of a hash of the purpose.

    A hash, because sums such as ``seed + epoch`` give neighboring seeds the same epochs, shifted by one.
    (torch's CPU generator uses only the lower 32 bits of a seed.)
    """
    digest = hashlib.sha256(" ".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(*purpose: str | int) -> torch.Generator:
    """A new CPU generator, seeded by ``seed_of``."""
    return torch.Generator().manual_seed(seed_of(*purpose))


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device supports it."""
    return torch.float32 if device.type == "mps" else torch.float64
