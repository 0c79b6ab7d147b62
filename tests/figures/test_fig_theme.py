"""The dark theme of every figure: nothing vanishes, scales work, rings are seen; on paper a figure is light."""

from __future__ import annotations

import inspect
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from figure_problems import DRAWING, every_figure

from s3pet_viz import figures
from s3pet_viz.errors import ConfigError
from s3pet_viz.figures import _style
from s3pet_viz.figures._print import printed
from s3pet_viz.figures._theme import DARK, LIGHT, recoloured

GROUND = {"light": "#ffffff", "dark": DARK["white"]}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, dict[str, go.Figure]]:
    made = every_figure(tmp_path_factory.mktemp("figures"))
    return {theme: {name: draw(theme=theme) for name, draw in made.items()} for theme in ("light", "dark")}


def luminance(colour: str) -> float:
    """Relative, 0 to 1. Source: WCAG 2.2."""
    colour = {"white": "#ffffff"}.get(colour, colour)
    part = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colours(node: object, path: str = "") -> list[tuple[str, str]]:
    """Every colour in a figure's JSON form, with the names of the keys above it."""
    if isinstance(node, dict):
        return [found for key, value in node.items() for found in colours(value, f"{path}.{key}")]
    if isinstance(node, (list, tuple)):
        return [found for value in node for found in colours(value, path)]
    return [(path, node.lower())] if isinstance(node, str) and "color" in path.rpartition(".")[2] else []


def at(scale, value: float) -> str:
    """The colour of a value, 0 to 1, on a scale."""
    places = [place for place, _ in scale]
    rgb = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in scale]
    return "#" + "".join(f"{round(np.interp(value, places, channel)):02x}" for channel in zip(*rgb, strict=True))


# -- the keyword -------------------------------------------------------------------------------------------


def test_every_figure_has_the_keyword():
    for name in DRAWING:
        theme = inspect.signature(getattr(figures, name)).parameters["theme"]
        assert (theme.kind, theme.default) == (inspect.Parameter.KEYWORD_ONLY, "light")
        assert "theme: ``light`` or ``dark``" in inspect.getdoc(getattr(figures, name))


def test_an_unknown_theme_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="theme: expected one of light, dark, found 'solarized'"):
        figures.heatmap("no such run", theme="solarized")


# -- colours -----------------------------------------------------------------------------------------------


def test_the_two_themes_are_each_others_mirror():
    assert len(LIGHT) == len(DARK)
    assert not set(LIGHT) & set(DARK)
    names = ["INK", "MUTED", "PALE", "GROUND", "OUTLINE"]
    used = [getattr(_style, name) for name in names] + list(_style.CATEGORICAL)
    used += [colour for scale in (_style.SEQUENTIAL, _style.REVERSED, _style.DIVERGING, _style.BINARY) for _, colour in scale]
    assert set(used) <= set(DARK)


def test_every_colour_of_a_dark_figure_is_of_the_dark_theme(drawn):
    for name, figure in drawn["dark"].items():
        found = dict(colours(figure.to_plotly_json()))
        strange = {path: colour for path, colour in found.items() if re.fullmatch("#[0-9a-f]{6}|[a-z]+", colour) and colour not in LIGHT}
        assert not strange, name
        assert figure.layout.template.layout.paper_bgcolor == DARK["white"]


def test_a_dark_figure_differs_in_its_colours_alone(drawn):
    for name, figure in drawn["dark"].items():
        back = recoloured(json.loads(figure.to_json()), LIGHT)
        assert back == json.loads(drawn["light"][name].to_json()), name


def test_texts_that_are_names_of_colours_stay(run):
    figure = figures.heatmap(run, title="white", theme="dark")
    assert figure.layout.title.text == "white"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_vanishes(drawn, theme):
    """Texts, lines and marks against the ground: WCAG asks for 4.5 and 3; what stands behind the rest is pale on purpose."""
    pale = {("#c3cbd3"), "#e8ecf0", "#9aa5b1", "#d3e2f1", "white"}
    for name, figure in drawn[theme].items():
        for path, colour in colours(figure.to_plotly_json()):
            plain = colour if theme == "light" else LIGHT.get(colour, colour)
            if not re.fullmatch("#[0-9a-f]{6}", colour) or plain in pale or "colorscale" in path or "bgcolor" in path:
                continue
            # Okabe and Ito's two lightest are lines of 2 px on white; legends and hover name them.
            least = 4.4 if "font" in path and plain != "#7b8794" else 1.9 if plain in ("#56b4e9", "#e69f00", "#86b3d9", "#cc79a7", "#a89a00") else 2.9
            assert contrast(colour, GROUND[theme]) >= least, (name, path, colour)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_scales_run_one_way_and_part_from_the_ground(theme):
    turn = (lambda scale: scale) if theme == "light" else lambda scale: [(place, DARK[colour]) for place, colour in scale]
    sequential = [luminance(at(turn(_style.SEQUENTIAL), v)) for v in np.linspace(0, 1, 101)]
    assert (np.diff(sequential) < 0).all() if theme == "light" else (np.diff(sequential) > 0).all()
    assert max(contrast(at(turn(_style.SEQUENTIAL), v), at(turn(_style.SEQUENTIAL), v + 0.2)) for v in (0, 0.4, 0.8)) > 1.2
    # 'No such gate' is the ground; the lowest p is not.
    assert contrast(turn(_style.SEQUENTIAL)[0][1], GROUND[theme]) > 1.15
    ends = [luminance(at(turn(_style.DIVERGING), v)) for v in np.linspace(0, 1, 101)]
    sign = 1 if theme == "light" else -1
    assert (sign * np.diff(ends)[:50] > 0).all()
    assert (sign * np.diff(ends)[50:] < 0).all()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_ring_is_seen_on_every_cell(drawn, theme):
    """Of ring and casing one stands out from any cell, and they from each other."""
    rings = 0
    for name, figure in drawn[theme].items():
        cells = [t for t in figure.data if t.type == "heatmap"]
        casings = [t for t in figure.data if t.name == "casing"]
        outlines = [t for t in figure.data if t.type == "scatter" and t.mode == "lines" and t.name != "casing"] if cells else []
        if outlines:
            assert casings, name
        for ring in outlines:
            rings += 1
            casing = casings[0].line
            assert casing.width >= ring.line.width + 1
            inner = casing.color if theme == "dark" else "#ffffff"
            assert contrast(ring.line.color, inner) >= 2.9, (name, ring.name)
            for value in np.linspace(0, 1, 101):
                cell = at(cells[0].colorscale, value)
                assert max(contrast(ring.line.color, cell), contrast(inner, cell)) >= 1.7, (name, ring.name, value)
    assert rings > 10


# -- paper -------------------------------------------------------------------------------------------------


def test_on_paper_a_dark_figure_is_the_light_one(drawn):
    for name, figure in drawn["dark"].items():
        assert printed(figure, 178).to_json() == printed(drawn["light"][name], 178).to_json(), name
