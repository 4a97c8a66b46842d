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

    Raises:
        TeleportationError: a parameter that was made in inference mode; torch counts no writes to it.
    """

    def __init__(self, network: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        for name, parameter in parameters.items():
            if parameter.is_inference():
                raise TeleportationError(f"parameter {name} was made in inference mode: it cannot be trained")
        self._network, self._parameters = network, parameters
        self._kinds = {name: _kind(p) for name, p in parameters.items()}
        self.note()

    def note(self) -> None:
        """Take the parameters as they are for unchanged."""
        self._places, self._writes = self._places_now(), self._writes_now()

    def note_writes(self) -> None:
        """Take the values that the parameters have for unchanged."""
        self._writes = self._writes_now()

    def changed(self, *, written: bool) -> list[str]:
        """Names of the parameters that lie somewhere else since ``note``; with ``written``, of those
        whose values were written to as well."""
        places = self._places_now()
        writes = self._writes_now() if written else self._writes
        if places == self._places and writes == self._writes:
            return []
        now, then = zip(places, writes, strict=True), zip(self._places, self._writes, strict=True)
        return [name for name, a, b in zip(self._parameters, now, then, strict=True) if a != b]

    def _places_now(self) -> list[int]:
        return [p.data_ptr() for p in self._parameters.values()]

    def _writes_now(self) -> list[int]:
        return [p._version for p in self._parameters.values()]

    def check_kinds(self) -> None:
        """Raise ``TeleportationError`` if a parameter has another dtype or device, or another shape,
        than at first."""
        for name, parameter in self._parameters.items():
            if _kind(parameter) != self._kinds[name]:
                raise TeleportationError(
                    f"parameter {name} is now {_words(*_kind(parameter))}, and was "
                    f"{_words(*self._kinds[name])} when its optimizer was made: make a new one"
                )

    def check_owner(self) -> None:
        """Raise ``TeleportationError`` if the network no longer has these parameters."""
        current = dict(self._network.named_parameters())
        for name, parameter in self._parameters.items():
            if current.get(name) is not parameter:
                raise TeleportationError(
                    f"parameter {name} of the network was replaced by another (as load_state_dict with "
                    "assign=True does) after its optimizer was made: make a new one, or copy the values"
                )

    def check_kept(self) -> None:
        """Both checks; for entry points, as it walks the network."""
        self.check_owner()
        self.check_kinds()

    def __getstate__(self) -> dict[str, Any]:
        # Addresses and counts outlive neither the process nor a copy.
        return {**self.__dict__, "_places": [], "_writes": self.changed(written=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        written = state["_writes"]
        self.note()
        self._places = [
            -1 if name in written else place
            for name, place in zip(self._parameters, self._places, strict=True)
        ]


def _kind(parameter: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return parameter.dtype, parameter.device, parameter.shape


def _words(dtype: torch.dtype, device: torch.device, shape: torch.Size) -> str:
    return f"{dtype} of shape {tuple(shape)} on {device}"
