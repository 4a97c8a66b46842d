"""The studies of the paper as functions that return tidy tables; `nteleport study NAME` runs and draws one.

- `study`: which studies there are, and how one is run, written and run again. No torch.
- `settings`: what each can be told. No torch.
- `subject`: the networks, data and changes of basis that a study looks at.
- each other module: the computing of one study. Its picture is drawn by the module of the same name in
  `nteleport.plots.studies`, from the table alone.

Example:
    >>> from nteleport.studies import MicroSettings, micro_angles
    >>> table = micro_angles(MicroSettings(datasets=("digits",)))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nteleport.studies.branches import branched_training
    from nteleport.studies.dot_product import weight_angles
    from nteleport.studies.gradients import gradient_changes
    from nteleport.studies.interpolate import interpolate_networks
    from nteleport.studies.landscape import loss_landscape
    from nteleport.studies.micro import micro_angles
    from nteleport.studies.recover import recover_cob, solve_cob
    from nteleport.studies.settings.branches import BranchesSettings
    from nteleport.studies.settings.dot_product import DotProductSettings
    from nteleport.studies.settings.gradients import GradientsSettings
    from nteleport.studies.settings.interpolate import InterpolateSettings
    from nteleport.studies.settings.landscape import LandscapeSettings
    from nteleport.studies.settings.micro import MicroSettings
    from nteleport.studies.settings.recover import RecoverSettings
    from nteleport.studies.settings.shared import StudySettings
    from nteleport.studies.settings.weights import WeightsSettings
    from nteleport.studies.study import STUDIES, Study, find_study, load_study, run_study
    from nteleport.studies.weights import weight_densities

_HOMES = {
    "STUDIES": "study",
    "Study": "study",
    "find_study": "study",
    "load_study": "study",
    "run_study": "study",
    "StudySettings": "settings.shared",
    "MicroSettings": "settings.micro",
    "micro_angles": "micro",
    "GradientsSettings": "settings.gradients",
    "gradient_changes": "gradients",
    "WeightsSettings": "settings.weights",
    "weight_densities": "weights",
    "DotProductSettings": "settings.dot_product",
    "weight_angles": "dot_product",
    "RecoverSettings": "settings.recover",
    "recover_cob": "recover",
    "solve_cob": "recover",
    "InterpolateSettings": "settings.interpolate",
    "interpolate_networks": "interpolate",
    "LandscapeSettings": "settings.landscape",
    "loss_landscape": "landscape",
    "BranchesSettings": "settings.branches",
    "branched_training": "branches",
}

__all__ = [
    "STUDIES",
    "BranchesSettings",
    "DotProductSettings",
    "GradientsSettings",
    "InterpolateSettings",
    "LandscapeSettings",
    "MicroSettings",
    "RecoverSettings",
    "Study",
    "StudySettings",
    "WeightsSettings",
    "branched_training",
    "find_study",
    "gradient_changes",
    "interpolate_networks",
    "load_study",
    "loss_landscape",
    "micro_angles",
    "recover_cob",
    "run_study",
    "solve_cob",
    "weight_angles",
    "weight_densities",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
