"""A report as HTML and as Markdown: complete, on its own, and with every name as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.reported import HOSTILE, write_everything, write_hostile, write_states

from nteleport.page import charts
from nteleport.page.html import as_html
from nteleport.page.markdown import as_markdown
from nteleport.page.parts import Code, Column, Note, Report, Section, Table
from nteleport.page.report import read_report

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")

ALLOWED = set(
    "html head meta title style body header h1 h2 h3 p span ul li nav a main section figure div figcaption "
    "table thead tbody tr th td button details summary pre code footer script".split()
)


class Reading(HTMLParser):
    """Elements, attributes, scripts and the text of cells, as a browser's tokenizer has them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.cells: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        if self._inside == "td":
            self.cells[-1] += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("hostile")
    write_hostile(out)
    return read_report(out)


def test_hostile_names_are_text_in_html(hostile: Report) -> None:
    page = Reading(as_html(hostile))
    assert set(page.elements) <= ALLOWED
    assert page.elements.count("script") == 3  # data, library, page
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert any(HOSTILE in cell for cell in page.cells)
    data = json.loads(page.scripts[0])
    measures = [measure["name"] for chart in data["charts"] for measure in chart["data"].get("measures", [])]
    assert "<svg onload=alert(3)>" in measures


def test_a_template_in_a_name_is_text() -> None:
    report = Report(
        "{{ 7*7777777 }}", "{% raw %}", ("{{ config }}",), (Section("a", "{{ 1 }}", (Note("{# c #}"),)),)
    )
    page = as_html(report)
    assert "{{ 7*7777777 }}" in page
    assert "54444439" not in page.partition("<body>")[2].partition("<script")[0]


def test_the_page_asks_no_network_for_anything(tmp_path: Path) -> None:
    write_everything(tmp_path)
    page = Reading(as_html(read_report(tmp_path)))
    policy = next(value for _, value in page.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert "unsafe" not in policy.partition("style-src")[0]
    assert not [
        value for name, value in page.attributes if name in ("src", "href") and not value.startswith("#")
    ]


def test_a_table_sorts_by_numbers_not_by_their_text() -> None:
    table = Table("T", (Column("a", "percent"), Column("b", "seconds")), [[0.98765, 7200.0], [None, 0.5]])
    page = Reading(as_html(Report("t", "", (), (Section("s", "S", (table,)),))))
    assert page.cells == ["98.77", "2 h 00 min", "", "0.5 s"]
    assert [value for name, value in page.attributes if name == "data-key"] == [
        "0.98765",
        "7200.0",
        "",
        "0.5",
    ]


def test_states_of_every_kind_are_rendered(tmp_path: Path) -> None:
    write_states(tmp_path)
    report = read_report(tmp_path)
    assert "out of memory" in as_html(report)
    assert "| failed | 1 | out of memory |" in as_markdown(report)


def test_hostile_names_are_text_in_markdown(hostile: Report) -> None:
    text = as_markdown(hostile)
    outside = re.sub(r"(?ms)^(`{3,})$.*?^\1$", "", text)  # what is fenced is shown as it is
    outside = re.sub(r"\\.", "", outside)
    outside = re.sub(r"(`+)[^`].*?[^`]\1(?!`)", "", outside)
    assert set(re.findall(r"<[^ >]*", outside)) <= {"<details", "<summary", "</summary", "</details"}
    assert not re.findall(r"@\w|#\d", outside)


def test_rows_of_markdown_have_as_many_cells_as_columns(hostile: Report) -> None:
    for block in re.findall(r"(?m)(?:^\|.*\n)+", as_markdown(hostile)):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_a_fence_is_longer_than_what_it_holds() -> None:
    report = Report("t", "", (), (Section("s", "S", (Code("c", "a\n````\nb"),)),))
    assert "`````\na\n````\nb\n`````" in as_markdown(report)


def test_specifications_are_vega_lite() -> None:
    """With their slots filled, each compiles to Vega."""
    vl_convert = pytest.importorskip("vl_convert")
    slots = {
        "colors": {"domain": [0], "range": ["red"]}, "dashes": {"domain": [0], "range": [[1, 0]]},
        "height": 40, "x": {"type": "linear"}, "y": {"type": "log"}, "y_title": "y",
        "tooltip": [{"field": "x", "type": "nominal"}],
    }  # fmt: skip

    def filled(part: object) -> object:
        if isinstance(part, dict):
            if set(part) == {"slot"}:
                return slots[part["slot"]]
            return {key: filled(value) for key, value in part.items()}
        return [filled(each) for each in part] if isinstance(part, list) else part

    specs = [
        charts.curves_spec(), charts.learning_rate_spec("lr", "s"), charts.forest_spec("d"),
        charts.pairs_spec("o"),
    ]  # fmt: skip
    for spec in specs:
        marks = vl_convert.vegalite_to_vega(filled(spec))["marks"]
        assert len(marks) >= 2
