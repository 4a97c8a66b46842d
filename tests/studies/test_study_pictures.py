"""The pictures of studies: drawn from tables alone, at the width of a column, with labels and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nteleport.studies.dot_product import picture as dot_product
from nteleport.studies.gradients import picture as gradients
from nteleport.studies.micro import picture as micro
from nteleport.studies.weights import picture as weights

GENERATOR = np.random.default_rng(3)
SUBJECTS = [("mlp", "digits"), ("resnet18", "digits")]
PAIRS = [
    "gradient, teleportation",
    "gradient, random vector",
    "teleportation, random vector",
    "two random vectors",
]


def micro_table() -> pd.DataFrame:
    rows = [
        {
            "model": m,
            "dataset": d,
            "batch_size": b,
            "repeat": k,
            "pair": p,
            "angle": 90 + GENERATOR.normal() / 10,
        }
        for m, d in SUBJECTS
        for b in (8, 64)
        for p in PAIRS
        for k in range(20)
    ]
    return pd.DataFrame(rows)


def gradient_tables() -> dict[str, pd.DataFrame]:
    rows = [
        {"model": m, "dataset": d, "batch": b, "cob_range": r, "teleportation": t,
         "difference": r * (1 + b + t) / 9, "angle": 40 * r + b}
        for m, d in SUBJECTS
        for b in range(3)
        for r in (0.1, 0.5, 0.9)
        for t in range(2)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return {"gradients": table, "gradients-angles": table}


def dot_product_table() -> pd.DataFrame:
    return gradient_tables()["gradients"].assign(cosine=lambda t: np.cos(np.radians(t["angle"])))


def weight_table(layers: int) -> pd.DataFrame:
    edges = {"whole": np.linspace(-1, 1, 31), "zoom": np.linspace(-0.1, 0.1, 31)}
    frames = [
        pd.DataFrame(
            {"model": "mlp", "dataset": "digits", "layer": str(layer), "view": view, "weights": which,
             "left": bins[:-1], "right": bins[1:], "density": np.exp(-((bins[1:] * 9) ** 2))}
        )
        for layer in range(layers)
        for view, bins in edges.items()
        for which in ("before", "after", "same_distr")
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


FIGURES: Mapping[str, Any] = {
    "micro": lambda: micro.draw(micro_table()),
    "gradients": lambda: gradients.draw(gradient_tables())["gradients"],
    "gradients-angles": lambda: gradients.draw(gradient_tables())["gradients-angles"],
    "dot-product": lambda: dot_product.draw(dot_product_table()),
    "weights": lambda: weights.draw(weight_table(1)),
}
LABELS = {
    "micro": {"angle (degrees)", "number of angles between"},
    "gradients": {"range of the change of basis", "| ‖dW‖/‖W‖ − ‖dTW‖/‖TW‖ |"},
    "gradients-angles": {"angle between dW and dTW (degrees)", "gradients (%)"},
    "dot-product": {"range of the change of basis", "angle (degrees)", "cosine of W and T(W)"},
    "weights": {"weight", "density (logarithmic; inset linear)"},
}


def texts(figure: Figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_fits_a_column_says_what_its_axes_are_and_is_legible(name: str) -> None:
    figure = FIGURES[name]()
    shown = texts(figure)
    assert figure.get_figwidth() == pytest.approx(3.4)
    assert LABELS[name] <= {text.get_text() for text in shown}
    assert min(text.get_fontsize() for text in shown) >= 6


@pytest.mark.parametrize("name", FIGURES)
def test_no_word_of_a_picture_is_cut_off(name: str) -> None:
    figure = FIGURES[name]()
    for text in texts(figure):
        if text.get_text().startswith("$") or not any(letter.isalpha() for letter in text.get_text()):
            continue  # a number: ticks beyond the limits exist, but are not drawn
        box = text.get_window_extent()
        assert box.x0 >= figure.bbox.x0 - 1, text.get_text()
        assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
        assert box.y0 >= figure.bbox.y0 - 1, text.get_text()
        assert box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_differences_show_the_mean_over_batches_and_teleportations_of_each_model() -> None:
    figure = FIGURES["gradients"]()
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["mlp", "resnet18"]
    means = [r * (1 + 1 + 0.5) / 9 for r in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(lines[0].get_ydata(), means)


def test_gradients_that_do_not_differ_at_all_can_be_drawn() -> None:
    tables = {name: table.assign(difference=0.0, angle=0.0) for name, table in gradient_tables().items()}
    assert len(gradients.draw(tables)["gradients"].axes[0].get_lines()) == 2


def test_numbers_of_angles_are_whole() -> None:
    figure = micro.draw(micro_table().query("repeat < 4").assign(angle=90.1))
    texts(figure)  # panels have their size, and so their ticks, once they are drawn
    assert all(float(tick).is_integer() for panel in figure.axes for tick in panel.get_yticks())


def test_one_angle_has_no_spread() -> None:
    shown = texts(micro.draw(micro_table().query("repeat == 0 and batch_size == 8")))
    assert not any("nan" in text.get_text() for text in shown)


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("name", ["gradients", "dot-product"])
def test_the_names_of_lines_stand_beside_the_panels_and_no_two_lines_look_alike(
    name: str, count: int
) -> None:
    models = [f"mlp hidden_layers=[{k}]" for k in range(count)]
    table = pd.concat([dot_product_table().query("model == 'mlp'").assign(model=m) for m in models])
    figure = dot_product.draw(table) if name == "dot-product" else gradients.draw({name: table})[name]
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == models
    assert not any(legend.get_window_extent().overlaps(panel.bbox) for panel in figure.axes)
    looks = {
        (line.get_color(), line.get_marker())
        for line in figure.axes[0].get_lines()
        if line.get_marker() in "os^DvP"
    }
    assert len(looks) == count


@pytest.mark.parametrize(("layers", "width"), [(1, 3.4), (6, 3.4), (7, 7.0), (21, 7.0)])
def test_layers_fill_a_column_or_the_page_and_stay_legible(layers: int, width: float) -> None:
    figure = weights.draw(weight_table(layers))
    assert figure.get_figwidth() == pytest.approx(width)
    assert figure.get_figheight() < 11
    assert min(text.get_fontsize() for text in texts(figure)) >= 6


def test_every_layer_has_a_panel() -> None:
    figure = weights.draw(weight_table(5))
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [f"layer {k}" for k in range(5)]
