"""The words of a schedule mean what they mean in experiment files, and wrong ones are refused."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from nteleport.errors import MissingExtraError, TeleportationError
from nteleport.integrations.schedule import read_teleportation
from nteleport.integrations.teleporter import Teleporter

ARGUMENTS: dict[str, Any] = {
    "cob_range": 0.5,
    "sampling": "intra_landscape",
    "activations": "kept",
    "objective": None,
    "optimizer_state": "transport",
    "split_batch": None,
    "certificate": True,
    "seed": 0,
}


def teleports(schedule: Any, steps_per_epoch: int = 4, steps: int = 20) -> list[int]:
    """The steps before which there is work to do, of a teleporter that has analyzed its network."""
    teleporter = Teleporter(schedule, **ARGUMENTS)
    teleporter.quiver = object()  # type: ignore[assignment]  # what is asked of it here is whether it is there
    epochs = [step // steps_per_epoch if step % steps_per_epoch == 0 else None for step in range(steps)]
    return [step for step, epoch in enumerate(epochs) if teleporter.has_work(step, epoch)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"epochs": [0, 3]}, [0, 12]),
        ({"epochs": 2}, [8]),
        ({"epochs": range(1, 4)}, [4, 8, 12]),
        ({"every_n_epochs": 2}, [8, 16]),
        ({"every_n_epochs": 0}, [0]),
        ({"every_n_epochs": 3, "teleport_only_once": True}, [12]),
        ({"every_n_steps": 7}, [7, 14]),
        ({"every_n_steps": 7, "teleport_only_once": True}, [7]),
    ],
    ids=str,
)
def test_a_schedule_teleports_before_these_steps(schedule: Any, expected: list[int]) -> None:
    assert teleports(schedule) == expected


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"epochs": [0], "every_n_steps": 5}, "expected one of every_n_epochs, epochs, every_n_steps, got"),
        ({}, "expected one of every_n_epochs, epochs, every_n_steps, got none"),
        ({"every_n_step": 5}, "unknown key 'every_n_step' in schedule, .* did you mean 'every_n_steps'"),
        ({"on_plateau": {"patience": 3}}, "unknown key 'on_plateau' in schedule"),
        ({"every_n_steps": 0}, "every_n_steps: the number 0, expected a whole number of at least 1"),
        ({"every_n_steps": True}, "every_n_steps: true, expected a whole number"),
        ({"epochs": []}, "epochs: an empty list"),
        ({"epochs": [-1]}, "epochs: the number -1"),
        pytest.param({"epochs": [object()]}, "epochs: the text '<object", id="an object"),
        ({"epochs": [1], "teleport_only_once": True}, "teleport_only_once has no effect with epochs"),
        ({3: 4}, "unknown key '3'"),
        ("epochs", "schedule: the text 'epochs', expected a mapping"),
        (None, "schedule: nothing, expected a mapping"),
    ],
    ids=str,
)
def test_a_wrong_schedule_is_one_clear_error(schedule: Any, message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        read_teleportation(schedule, {})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("cob_range", 2, "cob_range 2 is forbidden by intra_landscape"),
        ("cob_range", "wide", "cob_range: the text 'wide'"),
        ("sampling", "inter", "did you mean 'inter_landscape'"),
        ("activations", "keep", "did you mean 'kept'|expected conjugated or kept"),
        ("objective", "balanced", "objective: .*did you mean 'balance'"),
        ("objective", "nearest", "objective: the text 'nearest'"),
        ("optimizer_state", "transports", "optimizer_state is one of .*did you mean 'transport'"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(argument: str, value: Any, message: str) -> None:
    with pytest.raises(TeleportationError, match=message):
        Teleporter({"epochs": [0]}, **{**ARGUMENTS, argument: value})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(TeleportationError, match=r"epochs: .*; cob_range: .*; activations: "):
        Teleporter({"epochs": -1}, **{**ARGUMENTS, "cob_range": -1, "activations": "keep"})


@pytest.mark.parametrize(
    ("module", "package"), [("lightning", "lightning.pytorch.callbacks"), ("transformers", "transformers")]
)
def test_a_framework_that_is_missing_is_named_with_its_extra(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"nteleport.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=rf"pip install 'nteleport\[{module}\]'"):
        importlib.import_module(f"nteleport.integrations.{module}")


@pytest.mark.parametrize(
    "state",
    [
        {},
        [1],
        {"activations": "kept", "cob": [1.0], "last": None},
        {"activations": "kept", "cob": 3, "last": None, "teleported_weights": {}},
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(state: Any) -> None:
    with pytest.raises(TeleportationError, match="a saved state of a teleportation has the keys"):
        Teleporter({"epochs": [0]}, **ARGUMENTS).load_state_dict(state)
