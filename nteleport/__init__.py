"""Neural teleportation: move a network's weights without changing its function, and train from there.

Any ``nn.Module`` can be teleported as it is. Start with ``TeleportableModel``; train at full speed with
``TeleportedOptimizer``. What ``__init__.pyi`` lists is public; all else may change. The names load on
first use, so that importing the package does not import torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
