"""Pictures of trained jobs, drawn from their files: mean curves and box plots, with the numbers beside them.

`plot_results` draws a folder. The parts, in the order in which it uses them:

- `grouping`: which jobs share a picture (`Panel`) and which are runs of the same thing (`Group`);
  `wording` finds their words and `completeness` counts their runs and says what is missing;
- `tables`: the numbers of a picture, also written beside it as CSV;
- `curves`, `boxes`: a table as a matplotlib figure; `style` has colours and sizes, `legend` the legend.

No torch is imported, nor matplotlib before something is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {"PlotReport": "report", "plot_results": "report"}

__all__ = ["PlotReport", "plot_results"]

if TYPE_CHECKING:
    from nteleport.plots.report import PlotReport, plot_results


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
