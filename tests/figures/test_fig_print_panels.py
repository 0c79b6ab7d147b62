"""Small heatmaps in print: their heads, the names of columns and axis titles have the room that they need."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest

import s3pet_viz as s3
from s3pet_viz import figures
from s3pet_viz.figures._print import PX_PER_MM, printed
from s3pet_viz.figures._style import CHAR

RUNS = [f"sentiment-0.2pct-s{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def drawn():
    own = {"the first of three ways": RUNS, "another way": RUNS[0], "and a third one": RUNS[1]}
    return {"multiples": figures.multiples(RUNS), "ways": figures.ways(own, draws=5)}


@pytest.mark.parametrize(("mm", "across"), [(84, 1), (178, 3)])
@pytest.mark.parametrize("name", ["multiples", "ways"])
def test_panels_are_as_many_beside_each_other_as_their_heads_allow(drawn, name, mm, across):
    made = printed(drawn[name], mm)
    x_axes, y_axes = (list(axes)[:3] for axes in (made.select_xaxes(), made.select_yaxes()))
    starts = sorted({round(axis.domain[0], 6) for axis in x_axes})
    assert len(starts) == min(across, len(starts))
    assert len(starts) > 1 or mm == 84
    plot = mm * PX_PER_MM - 24 - CHAR * 10 * max(len(label) for label in y_axes[0].ticktext)
    for axis, head in zip(x_axes, made.layout.annotations, strict=False):
        width = (axis.domain[1] - axis.domain[0]) * plot
        assert CHAR * head.font.size * max(map(len, head.text.split("<br>"))) <= max(width, 1.05 * plot / len(starts))
    rows = sorted({axis.domain for axis in y_axes}, reverse=True)
    for above, below in pairwise(rows):
        assert above[0] > below[1]
    for axis in y_axes:
        left = x_axes[y_axes.index(axis)].domain[0] == 0
        assert axis.showticklabels is left


def test_no_column_of_the_matrix_loses_its_name(drawn):
    made = printed(drawn["ways"], 84)
    last = list(made.select_xaxes())[-1]
    assert len(last.ticktext) == 3
    assert last.tickangle == -90
    before = list(drawn["ways"].select_xaxes())[-1]
    assert before.tickangle == 0


def test_an_axis_title_is_no_wider_than_its_axis():
    figure = figures.cut(RUNS[0], seeds=RUNS[1:])
    wide, narrow = (printed(figure, mm).layout.xaxis.title.text for mm in (178, 84))
    assert "<br>" not in wide
    assert narrow.replace("<br>", " ") == wide
    assert max(map(len, narrow.split("<br>"))) < 30


def test_marks_are_no_larger_than_their_cells():
    made, whole = (printed(figures.compare(*RUNS[:2]), mm) for mm in (40, 178))
    sizes = [[t.marker.size for t in one.data if t.type == "scatter" and t.mode == "markers"] for one in (made, whole)]
    assert max(sizes[0]) < max(sizes[1])
    assert made.layout.legend.itemsizing == "constant"


def test_more_panels_than_a_page_holds_are_said(tmp_path):
    """Of nine runs a column's page holds three; on a page's width as many stand beside each other as fit."""
    runs = [shutil.copytree(s3.open_run(RUNS[i % 3]).path, tmp_path / f"{i}-of-nine") for i in range(9)]
    figure = figures.multiples(runs)
    with pytest.warns(UserWarning, match=r"9 panels are \d+ mm tall in 84 mm: a page \(A4\) holds 3; draw them in parts"):
        printed(figure, 84)
    assert printed(figure, 178).layout.height < 297 * PX_PER_MM


def test_panels_with_axes_of_their_own_are_laid_anew():
    figure = figures.budgets("tiny-t5")
    for mm, across in ((84, 2), (178, 3)):
        made = printed(figure, mm)
        x_axes = list(made.select_xaxes())
        assert len({round(axis.domain[0], 6) for axis in x_axes}) == across
        assert [bool(axis.title.text) for axis in x_axes] == [i + across >= 5 for i in range(5)]
        assert all(axis.showticklabels is not False for axis in made.select_yaxes())
