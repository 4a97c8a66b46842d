"""Neural teleportation: move a network's weights without changing its function, and train from there."""

from __future__ import annotations

__version__ = "0.1.0"
