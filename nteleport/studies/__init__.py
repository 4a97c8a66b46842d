"""The studies of the paper as functions that return tidy tables; `nteleport study NAME` runs and draws one.

- `study`: which studies there are, and how one is run, written and run again. No torch.
- `settings`: what all of them can be told. No torch.
- `subject`: the networks, data and changes of basis that a study looks at.
- a package for each study: its settings, `compute` and, from the table alone, `picture`.

Example:
    >>> from nteleport.studies import MicroSettings, micro_angles
    >>> table = micro_angles(MicroSettings(datasets=("digits",)))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nteleport.studies.branches import BranchesSettings
    from nteleport.studies.branches.compute import branched_training
    from nteleport.studies.dot_product import DotProductSettings
    from nteleport.studies.dot_product.compute import weight_angles
    from nteleport.studies.gradients import GradientsSettings
    from nteleport.studies.gradients.compute import gradient_changes
    from nteleport.studies.interpolate import InterpolateSettings
    from nteleport.studies.interpolate.compute import interpolate_networks
    from nteleport.studies.landscape import LandscapeSettings
    from nteleport.studies.landscape.compute import loss_landscape
    from nteleport.studies.micro import MicroSettings
    from nteleport.studies.micro.compute import micro_angles
    from nteleport.studies.recover import RecoverSettings
    from nteleport.studies.recover.compute import recover_cob, solve_cob
    from nteleport.studies.settings import StudySettings
    from nteleport.studies.study import STUDIES, Study, find_study, load_study, run_study
    from nteleport.studies.weights import WeightsSettings
    from nteleport.studies.weights.compute import weight_densities

_HOMES = {
    "STUDIES": "study",
    "Study": "study",
    "find_study": "study",
    "load_study": "study",
    "run_study": "study",
    "StudySettings": "settings",
    "MicroSettings": "micro",
    "micro_angles": "micro.compute",
    "GradientsSettings": "gradients",
    "gradient_changes": "gradients.compute",
    "WeightsSettings": "weights",
    "weight_densities": "weights.compute",
    "DotProductSettings": "dot_product",
    "weight_angles": "dot_product.compute",
    "RecoverSettings": "recover",
    "recover_cob": "recover.compute",
    "solve_cob": "recover.compute",
    "InterpolateSettings": "interpolate",
    "interpolate_networks": "interpolate.compute",
    "LandscapeSettings": "landscape",
    "loss_landscape": "landscape.compute",
    "BranchesSettings": "branches",
    "branched_training": "branches.compute",
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
