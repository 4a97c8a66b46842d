"""A report as one HTML page that holds its own style, script and data, and asks no network for anything.

The only place where text becomes HTML: Jinja escapes whatever the template names, and JSON has no `<`, `>` or
`&`. A policy in the page forbids every request and every script but those of the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from nteleport import __version__
from nteleport.extras import import_extra
from nteleport.page.numbers import in_words
from nteleport.page.parts import MOST_ROWS, Chart, Code, Kind, Note, Report, Table, Value

_NUMERIC: tuple[Kind, ...] = ("number", "percent", "seconds")


def as_html(report: Report, *, refresh: float | None = None) -> str:
    """The page.

    Args:
        report: what it says.
        refresh: for a page that `server` serves: it asks after so many seconds whether it has changed.

    Raises:
        MissingExtraError: a package of the extra `report` is missing.
    """
    charts = [part for section in report.sections for part in section.parts if isinstance(part, Chart)]
    data = {"refresh": refresh, "charts": [_chart(chart) for chart in charts]}
    scripts = [_library(), _resource("page.js")] if charts else [_resource("page.js")]
    text: str = _template().render(
        report=report,
        version=__version__,
        style=_resource("page.css"),
        data=_json(data),
        scripts=scripts,
        policy=_policy(scripts, refresh=refresh is not None),
    )
    return text


def _policy(scripts: list[str], *, refresh: bool) -> str:
    """What the page may do: run its own scripts, by their digests, and nothing else."""
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    connect = "connect-src 'self'; " if refresh else ""
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; {connect}"
        "base-uri 'none'; form-action 'none'"
    )


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "kind": chart.kind,
        "spec": chart.spec,
        "data": chart.data,
        "arms": chart.arms,
        "logarithmic": chart.logarithmic,
    }


def _json(content: Any) -> str:
    """JSON that is safe inside a `script` element, and has no name that ends it."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines `window.vegaEmbed`."""
    vl_convert = import_extra("vl_convert", extra="report", purpose="nteleport report")
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _resource(name: str) -> str:
    return files("nteleport.page").joinpath("web", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Any:
    jinja2 = import_extra("jinja2", extra="report", purpose="nteleport report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.tests.update(
        note=lambda part: isinstance(part, Note),
        table=lambda part: isinstance(part, Table),
        chart=lambda part: isinstance(part, Chart),
        code=lambda part: isinstance(part, Code),
        numeric=lambda kind: kind in _NUMERIC,
    )
    environment.filters.update(
        words=in_words, sort_key=_sort_key, rows=lambda table: table.rows[:MOST_ROWS]
    )
    return environment.from_string(_resource("page.html"))


def _sort_key(value: Value, kind: Kind) -> str:
    """What a column sorts by; "" comes last."""
    return in_words(value, kind) if kind not in _NUMERIC or value is None else repr(float(value))



