"""What stands in the cells of a heatmap: the numbers, and that it is legible or left out with a word."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from widget_runs import Growing, space

from s3pet_viz import figures
from s3pet_viz.analysis.annotate import scaled, short_count
from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.cli._output import heatmap_text
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.figures._print import printed
from s3pet_viz.runs import open_run
from s3pet_viz.viewer.text import text_heatmap


def made(path, n_encoder, n_decoder, pets=4, **facts):
    gates = space(n_encoder, n_decoder, pets)
    inert = [gate for gate in gates if gate.row == "SelfAttn.K · BitFit"]
    rest = [replace(gate, index=i) for i, gate in enumerate(g for g in gates if g not in inert)]
    run = Growing(path, rest, inert=[gate.to_dict() for gate in inert], **facts)
    run.write(3)
    return run.end()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return made(tmp_path_factory.mktemp("n") / "run", 3, 2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return made(tmp_path_factory.mktemp("w") / "run", 24, 24)


def texts(figure):
    return {str(text) for row in figure.data[0].text for text in row} - {""}


def test_short_counts():
    found = {0: "", 7: "7", 999: "999", 1000: "1k", 1234: "1.2k", 9949: "9.9k", 9950: "10k", 64000: "64k"}
    found |= {999_499: "999k", 999_500: "1M", 2_400_000: "2.4M", 10**9: "1G", 10**12: "1T"}
    assert {n: short_count(n) for n in found} == found


def test_numbers_share_a_power_of_ten():
    assert scaled([0.0123, -0.0004, np.nan, 0], "x") == (["12", "0", "", "0"], "in cells: x × 1,000")
    assert scaled([12.0, 3.4], "x") == (["12", "3"], "in cells: x")
    assert scaled([0.997, 0.1], "x")[1] == "in cells: x × 10"
    assert scaled([99.7, 1], "x") == (["10", "0"], "in cells: x × 1e-1")
    assert scaled([0, 0], "x") == (["0", "0"], "in cells: x")
    assert scaled([np.nan], "x") == ([""], "in cells: x")


def test_each_kind_says_what_it_is(narrow, tmp_path):
    drawn = figures.heatmap(narrow, annotate="rank")
    assert texts(drawn) == {str(k) for k in range(1, 16)}
    assert "in cells: rank" in drawn.layout.title.text
    assert texts(figures.heatmap(narrow, annotate="params")) == {"10", "5"}
    assert "α ×" in figures.heatmap(narrow, annotate="alpha").layout.title.text.replace("<br>", " ")
    other = made(tmp_path / "other", 3, 2, seed=1, budget=20)
    assert texts(figures.heatmap([narrow, other], annotate="seeds")) <= {"1/2", "2/2"}
    inert = figures.heatmap(narrow, annotate="inert")
    letters = {trace.name: trace for trace in inert.data}["inert, named"]
    assert len(letters.text) == len(narrow.inert) == 5
    assert texts(inert) == set()


def test_importance_is_that_of_the_explanation(tmp_path):
    run = made(tmp_path / "run", 3, 2)
    with pytest.raises(RunError, match="not explained yet"):
        figures.heatmap(run, annotate="importance")
    chosen = run.structure().gates
    effects = tuple(GateEffect(gate, loss_increase=0.01 * (i + 1)) for i, gate in enumerate(chosen))
    Explanation(effects, "sentiment", "tiny").save(run)
    drawn = figures.heatmap(open_run(run.path), annotate="importance")
    assert texts(drawn) == {str(10 * (i + 1)) for i in range(len(chosen))}
    assert "rise of the loss without it × 1,000" in drawn.layout.title.text.replace("<br>", " ")


@pytest.mark.parametrize(("annotate", "words"), [("seeds", "several runs"), ("nonsense", "annotate: expected one of"), (3, "one of")])
def test_what_cannot_stand_there_is_refused(narrow, annotate, words):
    with pytest.raises(ConfigError, match=words):
        figures.heatmap(narrow, annotate=annotate)
    with pytest.raises(ConfigError):
        figures.heatmap(narrow.structure(), annotate="rank")
    with pytest.raises(ConfigError, match="importance"):
        figures.heatmap([narrow, narrow], annotate="importance")


def test_at_48_columns_it_is_legible_or_left_out_with_a_word(wide, tmp_path):
    drawn = figures.heatmap(wide, annotate="rank")
    size, width = drawn.data[0].textfont.size, drawn.layout.width
    labels = 7 * max(len(text) for text in drawn.layout.yaxis.ticktext)
    assert size >= 7
    assert 0.55 * size * 3 <= (width - labels - 150) / 49, "three characters fit a cell"
    assert figures.heatmap(wide, annotate="params").layout.width is None
    huge = made(tmp_path / "run", 90, 90, pets=2)
    left = figures.heatmap(huge, annotate="rank")
    assert texts(left) == set()
    assert "left out: the cells are too narrow" in left.layout.title.text.replace("<br>", " ")


def test_in_print_what_does_not_fit_is_left_out_with_a_warning(wide, narrow):
    with pytest.warns(UserWarning, match="do not fit 49 columns in 178 mm"):
        drawn = printed(figures.heatmap(wide, annotate="rank"), 178)
    assert drawn.data[0].text is None
    assert texts(printed(figures.heatmap(narrow, annotate="rank"), 178))


def test_in_a_terminal(narrow):
    console = Console(file=io.StringIO(), width=100)
    console.print(heatmap_text(narrow, 100, annotate="rank"))
    said = console.file.getvalue()
    assert "in cells: rank" in said
    first = next(gate for gate in narrow.gates().itertuples() if gate.rank == 1)
    assert "●1" in next(line for line in said.splitlines() if line.startswith(first.row.replace(" · ", " ")))
    with pytest.raises(ValueError, match="argument"):
        text_heatmap(narrow.gates_list, None, [True] * 15, texts=["1"])
