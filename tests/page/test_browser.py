"""The page in a browser: no error, every chart drawn, and charts that answer to the pointer.

Needs playwright (the extra `browser`) and Chromium on the PATH, or in $CHROMIUM.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reported import write_everything, write_hostile, write_states
from support.synthetic_results import make_job, matrix, write_job, write_jobs

from nteleport.page.html import as_html
from nteleport.page.report import read_report
from nteleport.page.server import HOST, Live, server

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: there is no `chromium` on the PATH"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        chosen = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chosen
        chosen.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, write in (("all", write_everything), ("states", write_states), ("hostile", write_hostile)):
        out = tmp_path_factory.mktemp(name)
        write(out)
        made[name] = out / "report.html"
        made[name].write_text(as_html(read_report(out)))
    return made


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page once all charts are drawn, and all that it said or asked for."""
    page = browser.new_context(**options).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith("file:") or said.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn=yes]", timeout=20_000)
    return page, said


@pytest.mark.parametrize("name", ["all", "states", "hostile"])
@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}, "has_touch": True}],
    ids=["light", "dark", "telephone"],
)
def test_every_chart_is_drawn_without_a_word(
    browser: Any, pages: dict[str, Path], name: str, options: Any
) -> None:
    page, said = opened(browser, pages[name], **options)
    assert said == []
    figures = page.locator("figure[data-chart]")
    assert figures.count() >= 1
    for number in range(figures.count()):
        figure = figures.nth(number)
        assert figure.get_attribute("data-drawn") == "yes"
        assert figure.locator(".chart svg .role-mark path, .chart svg .role-mark line").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


def curves(page: Any) -> Any:
    """The first chart of curves."""
    return page.locator("figure", has=page.locator("select")).first


def lines(figure: Any) -> int:
    """How many lines are drawn thick."""
    return int(figure.locator('.chart path[stroke-width="2.2"]').count())


def test_hover_reads_the_value_of_each_arm(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["all"])
    chart = curves(page).locator(".chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.move(box["x"] + 0.96 * box["width"], box["y"] + 0.5 * box["height"])
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5000)
    measure = page.evaluate(
        "JSON.parse(document.getElementById('data').textContent)"
        ".charts.find(each => each.kind === 'curves').data.measures[0]"
    )
    text = tooltip.inner_text()
    assert "epoch\t3" in text
    for group, label in enumerate(("lr 0.01, teleported", "lr 0.1, no teleport")):
        assert f"{label}\t{measure['mean'][group][3]:g} ±" in text
    page.context.close()


def test_arms_runs_measures_axes_and_zoom_answer(browser: Any, pages: dict[str, Path]) -> None:
    page, said = opened(browser, pages["all"])
    figure = curves(page)
    settled = "() => new Promise(done => setTimeout(done, 150))"
    assert lines(figure) == 2
    figure.locator(".arms button").first.click()
    page.evaluate(settled)
    assert lines(figure) == 1
    assert figure.locator(".arms button").first.get_attribute("aria-pressed") == "false"
    figure.get_by_label("single runs").check()
    page.evaluate(settled)
    assert figure.locator('.chart path[stroke-width="0.7"]').count() == 6
    figure.locator("select").select_option(label="training loss (nats)")
    figure.get_by_label("logarithmic y axis").check()
    page.evaluate(settled)
    assert "training loss (nats)" in figure.locator(".chart").inner_text()
    assert page.evaluate("document.querySelectorAll('figure')[2].view.scale('y').type") == "log"
    box = figure.locator(".chart").bounding_box()
    left, top = box["x"] + 0.4 * box["width"], box["y"] + 80
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 100, top + 40, steps=4)
    page.mouse.move(left + 200, top + 80, steps=4)
    page.mouse.up()
    figure.locator(".unzoom:not([hidden])").wait_for(timeout=5000)
    page.evaluate(settled)
    low, high = page.evaluate("document.querySelectorAll('figure')[2].view.scale('x').domain()")
    assert 0 < low < high < 3
    figure.locator(".unzoom").click()
    page.evaluate(settled)
    assert page.evaluate("document.querySelectorAll('figure')[2].view.scale('x').domain()[0]") < 0
    assert said == []
    page.context.close()


def test_tables_sort_up_and_down(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["all"])
    table = page.locator("h3", has_text="Jobs and seconds").locator("xpath=following::table[1]")
    head = table.locator("th").first
    orders = []
    for expected in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == expected
        orders.append(table.locator("tbody tr td:first-child").all_inner_texts())
    assert orders == [["no teleport", "teleported"], ["teleported", "no teleport"]]
    page.context.close()


def test_hostile_names_run_nothing_and_are_read_as_they_are(browser: Any, pages: dict[str, Path]) -> None:
    page, said = opened(browser, pages["hostile"])
    assert said == []
    assert page.locator("img").count() == 0
    assert page.locator("td", has_text="</script><script>alert(1)</script>").count() >= 1
    page.context.close()


def test_the_page_prints(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    page, _ = opened(browser, pages["all"], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
    page.context.close()


def test_a_served_page_follows_the_jobs_and_keeps_what_was_chosen(browser: Any, tmp_path: Path) -> None:
    write_jobs(tmp_path, matrix(runs=2, epochs=2))
    with server(Live(tmp_path, 0.2)) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            page = browser.new_page()
            page.goto(f"http://{HOST}:{serving.server_address[1]}/")
            page.wait_for_selector("body[data-drawn=yes]")
            curves(page).locator(".arms button").last.click()
            page.wait_for_timeout(600)  # it knows its version by then
            write_job(tmp_path, make_job(run=7, epochs=2))
            page.locator(".summary", has_text="5 jobs").wait_for(timeout=15_000)
            page.wait_for_selector("body[data-drawn=yes]")
            assert curves(page).locator(".arms button").last.get_attribute("aria-pressed") == "false"
            page.close()
        finally:
            serving.shutdown()
            thread.join()
