"""Notice what others do to the parameters of a network between two steps of its optimizer.

Nothing here reads a value, so nothing waits for the device: torch counts the writes to a tensor
(``Tensor._version``), and a tensor that was moved, or whose ``data`` was set, lies somewhere else in memory.
Only writes through ``parameter.data`` (``p.data.fill_(0)``) leave no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nteleport.errors import TeleportationError


class Watch:
    """Remembers the state of some parameters of a network.

    Args:
        network: the network.
        parameters: those of its parameters to watch, by name.
    """

    def __init__(self, network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._network, self._parameters = network, parameters
        self._kinds = {name: _kind(p) for name, p in parameters.items()}
        self.note()

    def note(self) -> None:
        """Take the parameters as they are for unchanged."""
        self._seen = {name: (p.data_ptr(), _version(p)) for name, p in self._parameters.items()}

    def changed(self, *, written: bool) -> list[str]:
        """Names of the parameters that lie somewhere else since :meth:`note`; with ``written``, of those
        whose values were written to as well."""
        kept = 2 if written else 1
        return [
            name
            for name, p in self._parameters.items()
            if (p.data_ptr(), _version(p))[:kept] != self._seen[name][:kept]
        ]

    def check_kinds(self) -> None:
        """Raise :class:`TeleportationError` if a parameter has another dtype or device, or another shape,
        than at first."""
        for name, parameter in self._parameters.items():
            if _kind(parameter) != self._kinds[name]:
                raise TeleportationError(
                    f"parameter {name} is now {_words(*_kind(parameter))}, and was "
                    f"{_words(*self._kinds[name])} when its optimizer was made: make a new one"
                )

    def check_owner(self) -> None:
        """Raise :class:`TeleportationError` if the network no longer has these parameters."""
        current = dict(self._network.named_parameters())
        for name, parameter in self._parameters.items():
            if current.get(name) is not parameter:
                raise TeleportationError(
                    f"parameter {name} of the network was replaced by another (as load_state_dict with "
                    "assign=True does) after its optimizer was made: make a new one, or copy the values"
                )

    def __getstate__(self) -> dict[str, Any]:
        # Addresses and counts do not outlive the process, nor a copy.
        return {**self.__dict__, "_seen": self.changed(written=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        changed = self._seen
        self.note()
        self._seen.update(dict.fromkeys(changed, (-1, -1)))


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _kind(parameter: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return parameter.dtype, parameter.device, parameter.shape


def _words(dtype: torch.dtype, device: torch.device, shape: torch.Size) -> str:
    return f"{dtype} of shape {tuple(shape)} on {device}"
