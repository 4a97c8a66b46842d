"""Vega-Lite specifications: what is drawn, from which data set, and what a pointer can do.

The script of the page fills in what depends on the reader. `{"slot": NAME}` stands for it:

=============  =======================================================
`colors`       the scale of colors: arms that are shown, and theirs
`dashes`       likewise for dashes
`x`, `y`       the scales of the axes: linear or logarithmic, and the part that is zoomed in on
`y_title`      what is drawn
`tooltip`      what to show of each arm, where one pointer reads all arms
`height`       of a chart that has rows
=============  =======================================================

Colors are variables of the style sheet, which has values for light and for dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_BRUSH: Spec = {
    "name": "brush",
    "select": {
        "type": "interval",
        "mark": {"fill": "var(--accent)", "fillOpacity": 0.12, "stroke": "var(--accent)"},
    },
}
_INK = "var(--ink)"
_FORMAT = ".4~g"


def slot(name: str) -> Spec:
    """A place that the script of the page fills."""
    return {"slot": name}


def curves_spec() -> Spec:
    """Mean curves over epochs with bands and, on demand, single runs.

    Data sets: `curves` (g, x, y, low, high, and `whole`: y where no run of the group is missing), `runs`
    (g, r, x, y), `epochs` (x, the part of the axis `from` … `to` that is closest to it, and for each arm a
    column of text).
    """
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "epoch",
        "scale": slot("x"),
        "axis": {"tickMinStep": 1, "format": "~s"},
    }
    y = {"type": "quantitative", "scale": slot("y"), "title": slot("y_title")}
    return {
        **_frame(320),
        "encoding": {"x": x},
        "layer": [
            {
                "data": {"name": "curves"},
                "mark": {"type": "area", "opacity": 0.16, "clip": True},
                "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}, **_arms(dashed=False)},
            },
            {
                "data": {"name": "runs"},
                "mark": {"type": "line", "strokeWidth": 0.7, "opacity": 0.45, "clip": True},
                "encoding": {"y": {"field": "y", **y}, "detail": {"field": "r"}, **_arms()},
            },
            {
                "data": {"name": "curves"},
                "mark": {"type": "line", "strokeWidth": 0.8, "clip": True},
                "encoding": {"y": {"field": "y", **y}, **_arms()},
                "params": [_BRUSH],
            },
            {
                "data": {"name": "curves"},
                "mark": {"type": "line", "strokeWidth": 2.2, "clip": True},
                "encoding": {"y": {"field": "whole", **y}, **_arms()},
            },
            *_hover_layers(x, y),
        ],
    }


def _hover_layers(x: Spec, y: Spec) -> list[Spec]:
    """Layers that follow the pointer: a mark on each curve, a vertical line, and the tooltip of an epoch."""
    return [
        {
            "data": {"name": "curves"},
            "transform": [{"filter": {"param": "hover", "empty": False}}],
            "mark": {"type": "point", "filled": True, "size": 48, "opacity": 1, "clip": True},
            "encoding": {"y": {"field": "y", **y}, **_arms(dashed=False)},
        },
        {
            "data": {"name": "epochs"},
            "transform": [{"filter": {"param": "hover", "empty": False}}],
            "mark": {"type": "rule", "color": _INK, "opacity": 0.35, "clip": True},
        },
        {
            "data": {"name": "epochs"},
            "mark": {"type": "rect", "opacity": 0, "clip": True},
            "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "tooltip": slot("tooltip")},
            "params": [
                {
                    "name": "hover",
                    "select": {
                        "type": "point",
                        "fields": ["x"],
                        "on": "pointerover",
                        "clear": "pointerout",
                    },
                }
            ],
        },
    ]


def learning_rate_spec(key: str, score: str) -> Spec:
    """Scores over a tuned number. Data sets: `best` (g, x, y), `points` (g, x, y and words for tooltips)."""
    y = {"type": "quantitative", "scale": slot("y"), "title": score}
    tooltip = [_told("arm"), _told("point"), _told("score"), _told("runs"), _told("round"), _told("remark")]
    return {
        **_frame(300),
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": key,
                "scale": slot("x"),
                "axis": {"format": "~g"},
            },
        },
        "layer": [
            {
                "data": {"name": "best"},
                "mark": {"type": "line", "strokeWidth": 2, "clip": True},
                "encoding": {"y": {"field": "y", **y}, **_arms(dashed=False)},
                "params": [_BRUSH],
            },
            {
                "data": {"name": "points"},
                "mark": {"type": "point", "filled": True, "clip": True, "opacity": 0.9},
                "encoding": {
                    "y": {"field": "y", **y},
                    "size": {"condition": {"test": "datum.chosen", "value": 170}, "value": 45},
                    "shape": {"condition": {"test": "datum.chosen", "value": "diamond"}, "value": "circle"},
                    "tooltip": tooltip,
                    **_arms(dashed=False),
                },
            },
        ],
    }


def forest_spec(title: str) -> Spec:
    """Differences from the baseline with their intervals, a row for each arm of each cell.

    Data sets: `rows` (i, g, text, heading, mean, low, high, and words for tooltips), `band` (i, g, low, high)
    and `zero` (x).
    """
    x = {"type": "quantitative", "title": title, "axis": {"format": _FORMAT}}
    tooltip = [_told(each) for each in ("arm", "cell", "difference", "interval", "p", "pairs", "verdict")]
    row = {"field": "i", "type": "ordinal", "axis": None, "sort": "ascending"}
    return {
        **_frame(slot("height")),
        "layer": [
            {
                "data": {"name": "band"},
                "mark": {"type": "rect", "color": "var(--band)"},
                "encoding": {"y": row, "x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "data": {"name": "zero"},
                "mark": {"type": "rule", "color": _INK, "strokeDash": [3, 3]},
                "encoding": {"x": {"field": "x", **x}},
            },
            {
                "data": {"name": "rows"},
                "encoding": {"y": row, **_arms(dashed=False)},
                "layer": [
                    {
                        "mark": {"type": "rule", "strokeWidth": 2.5, "yOffset": 8},
                        "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "tooltip": tooltip},
                    },
                    {
                        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "yOffset": 8},
                        "encoding": {"x": {"field": "mean", **x}, "tooltip": tooltip},
                    },
                    {
                        "mark": {"type": "text", "align": "left", "dy": -8, "limit": {"expr": "width - 4"}},
                        "encoding": {
                            "x": {"value": 2},
                            "text": {"field": "text"},
                            "color": {"value": _INK},
                            "opacity": {"condition": {"test": "datum.heading", "value": 0.65}, "value": 1},
                        },
                    },
                ],
            },
        ],
    }


def pairs_spec(outcome: str) -> Spec:
    """Each pair of runs as a point: baseline and arm.

    Data sets: `pairs` (g, x, y, and words for tooltips), `diagonal` (x, y).
    """
    channels = {
        "x": {"field": "x", "type": "quantitative", "title": f"{outcome}, baseline", "scale": slot("x")},
        "y": {"field": "y", "type": "quantitative", "title": f"{outcome}, arm", "scale": slot("y")},
    }
    return {
        **_frame(340),
        "encoding": channels,
        "layer": [
            {
                "data": {"name": "diagonal"},
                "mark": {"type": "line", "color": _INK, "strokeDash": [3, 3], "strokeWidth": 1, "clip": True},
            },
            {
                "data": {"name": "pairs"},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8, "clip": True},
                "encoding": {
                    **_arms(dashed=False),
                    "tooltip": [_told(each) for each in ("arm", "cell", "run", "baseline", "value")],
                },
                "params": [_BRUSH],
            },
        ],
    }


def columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows as columns, which are shorter as JSON."""
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def _frame(height: int | Spec) -> Spec:
    return {"$schema": _SCHEMA, "width": "container", "height": height}


def _arms(*, dashed: bool = True) -> Spec:
    channels: Spec = {"color": {"field": "g", "type": "nominal", "scale": slot("colors"), "legend": None}}
    if dashed:
        channels["strokeDash"] = {"field": "g", "type": "nominal", "scale": slot("dashes"), "legend": None}
    return channels


def _told(field: str) -> Spec:
    return {"field": field, "type": "nominal", "title": field}
