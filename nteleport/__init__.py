"""Neural teleportation: move a network's weights without changing its function, and train from there.

Any ``nn.Module`` can be teleported as it is. Start with ``TeleportableModel``; train at full speed with
``TeleportedOptimizer``. What ``__init__.pyi`` lists is public; all else may change. The names load on
first use, so that importing the package does not import torch.
"""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # from the tag it was built at
        from importlib.metadata import version

        return version("nteleport")
    return _load(name)
