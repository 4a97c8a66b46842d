"""Neural teleportation: move a network's weights without changing its function, and train from there.

Any ``nn.Module`` can be teleported as it is. Start with :class:`TeleportableModel`; train at full speed with
:class:`TeleportedOptimizer`. The names below load on first use, so that importing the package does not import
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Quiver": "core.quiver",
    "scales": "core.quiver",
    "analyze": "core.analysis",
    "sample_cob": "core.cob",
    "TeleportableModel": "core.model",
    "TeleportedOptimizer": "core.optimizer",
    "materialize": "core.materialization",
}

__all__ = [
    "Quiver",
    "TeleportableModel",
    "TeleportedOptimizer",
    "__version__",
    "analyze",
    "materialize",
    "sample_cob",
    "scales",
]

if TYPE_CHECKING:
    from nteleport.core.analysis import analyze
    from nteleport.core.cob import sample_cob
    from nteleport.core.materialization import materialize
    from nteleport.core.model import TeleportableModel
    from nteleport.core.optimizer import TeleportedOptimizer
    from nteleport.core.quiver import Quiver, scales


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
