"""The transfer explorer: a cell and the two structures behind it, by click and by name; what is missing is said."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from transfer_problems import TASKS, even, recorded, write_study, write_transfer

from s3pet_viz.errors import StudyError
from s3pet_viz.runs.measures import jaccard
from s3pet_viz.widgets import TransferExplorer

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "s"
    return write_transfer(folder, even, sources=[*TASKS, "consensus"], draws=2, searches=True)


@pytest.fixture
def explorer(matrix):
    view = TransferExplorer(matrix)
    yield view
    view.close()


def words(view: TransferExplorer) -> str:
    return re.sub(r"<[^>]*>", "", view._words.value)


def click(view: TransferExplorer, panel: int, x: float, y: float) -> None:
    trace = view.matrix_figure.data[panel]
    for callback in trace._click_callbacks:
        callback(trace, type("Points", (), {"xs": [x], "ys": [y]})(), None)
    assert view.wait()


def open_cells(figure) -> int:
    return sum(value == 1 for row in figure.data[0].z for value in row)


def ringed(view: TransferExplorer) -> set[tuple[int, int]]:
    boxes = [(np.array(t.x, dtype=float), np.array(t.y, dtype=float)) for t in view.matrix_figure.data[-2:]]
    return {(int(np.nanmean(y).round()), int(np.nanmean(x).round())) for x, y in boxes}


def test_it_opens_off_the_diagonal(explorer):
    assert repr(explorer) == "TransferExplorer(4 sources, 3 targets)"
    a, b = recorded("sentiment", 0), recorded("entailment", 0)
    shared = len(a.keys & b.keys)
    said = re.fullmatch(
        r"sentiment → entailment: 71\.0 ± 1\.0, own 82\.0 ± 2\.0, random 62\.0 ± 1\.\d, full 91\.0 ± 1\.0 · "
        rf"{shared} of {len(a)} and {len(b)} gates shared \(Jaccard {jaccard(a, b):.2f}, by chance (0\.\d\d)\)",
        words(explorer),
    )
    assert said, words(explorer)
    # 13 of 156 gates at random: a Jaccard of about 13 / 156 / 2, more as small gates are chosen more often.
    assert 0.02 < float(said[1]) < 0.15
    assert ringed(explorer) == {(0, 1)}


def test_both_structures_are_drawn_and_what_they_share_is_outlined(explorer, matrix):
    a, b = recorded("sentiment", 0), recorded("entailment", 0)
    assert [open_cells(f) for f in (explorer.source_heatmap, explorer.own_heatmap)] == [len(a), len(b)]
    for figure in (explorer.source_heatmap, explorer.own_heatmap):
        assert len(figure.data[1].x) // 6 == len(a.keys & b.keys) > 0
        assert figure.data[1].name == "in both structures"
        drawn = [value for row in figure.data[0].z for value in row if value is not None]
        assert len(drawn) == len(matrix.gates())
    heads = [head.value for head in explorer._heads]
    assert "structure of sentiment" in heads[0]
    assert "entailment&#x27;s own structure" in heads[1]
    assert f"{len(a)} gates, {a.n_params:,} parameters · search of seed 0" in heads[0]


def test_a_click_on_either_panel(explorer):
    click(explorer, 0, 2, 1)
    assert (explorer.source_box.value, explorer.target_box.value) == ("entailment", "similarity")
    assert words(explorer).startswith("entailment → similarity: 71.0")
    assert ringed(explorer) == {(1, 2)}
    click(explorer, 1, 0, 3)
    assert words(explorer).startswith("consensus → sentiment: 71.0")
    # After the matrix was drawn anew, too.
    explorer.relative_box.value = "random"
    assert explorer.wait()
    click(explorer, 0, 1, 0)
    assert words(explorer).startswith("sentiment → entailment: 71.0")


def test_a_reference_has_no_structure_to_show(explorer):
    before = words(explorer)
    click(explorer, 0, 1, 4.35)
    assert "the row random has no one structure to look at" in explorer._message.value
    assert words(explorer) == before
    # Without the row of the random structures the same place is full fine-tuning's.
    explorer.relative_box.value = "random"
    assert explorer.wait()
    click(explorer, 0, 1, 4.35)
    assert "the row full has no one structure" in explorer._message.value


def test_its_own_structure_stands_alone(explorer):
    explorer.look_at("similarity", "similarity")
    assert explorer.wait()
    assert words(explorer).startswith("similarity → similarity: 82.0 ± 2.0, random")
    assert "shared" not in words(explorer)
    assert [column.layout.display for column in explorer._columns] == [None, "none"]
    assert len(explorer.source_heatmap.data[1].x) == 0
    explorer.target_box.value = "sentiment"
    assert explorer.wait()
    assert [column.layout.display for column in explorer._columns] == [None, None]


def test_values_and_yardsticks(explorer):
    texts = []
    for value in ("score", "loss"):
        explorer.value_box.value = value
        for _, relative in explorer.relative_box.options:
            explorer.relative_box.value = relative
            assert explorer.wait()
            texts.append(np.array(explorer.matrix_figure.data[0].text)[0, 1])
    assert texts == [
        "71.0<br>± 1.0", "-11.0<br>± 1.0", "+9.0<br>± 1.0", "78.0<br>± 1.1",
        "0.645<br>± 0.005", "+0.055<br>± 0.005", "-0.045<br>± 0.005", "118.3<br>± 0.9",
    ]  # fmt: skip
    assert words(explorer).startswith("sentiment → entailment: 0.645 ± 0.005, own 0.590 ± 0.010")
    assert "lower is better" in words(explorer)


def test_one_seed(explorer):
    explorer.seed_box.value = 2
    assert explorer.wait()
    assert words(explorer).startswith("sentiment → entailment: 72.0, own 84.0, random 63.0 ± 1.4, full 92.0")
    assert open_cells(explorer.source_heatmap) == len(recorded("sentiment", 2))
    assert "search of seed 2" in explorer._heads[0].value


def test_a_target_without_a_structure_of_its_own(tmp_path):
    view = TransferExplorer(write_study(tmp_path / "s", even, sources=["elsewhere"], seeds=[0]))
    assert words(view) == "elsewhere → sentiment: 70.0, random 60.0, full 90.0"
    assert [column.layout.display for column in view._columns] == [None, "none"]
    assert [name for _, name in view.relative_box.options] == [None, "random", "full"]
    # No search is at hand: only the gates of the structure are known.
    assert open_cells(view.source_heatmap) == len(view.matrix.structure("elsewhere"))
    view.close()


def test_without_a_search_chance_is_not_known(tmp_path):
    view = TransferExplorer(write_study(tmp_path / "s", even, seeds=[0]))
    assert re.search(r"gates shared \(Jaccard 0\.\d\d\)$", words(view))
    view.close()


def test_what_is_missing_is_said_and_passes(tmp_path):
    """The entailment structure was not trained on similarity yet."""
    made = write_study(
        tmp_path / "s", lambda s, t, *more: None if (s, t) == ("entailment", "similarity") else even(s, t, *more), seeds=[0]
    )
    view = TransferExplorer(made)
    view.look_at("entailment", "similarity")
    assert view.wait()
    assert "expected one of" in view._message.value
    assert words(view).startswith("entailment → similarity: no training yet, own 80.0")
    assert [column.layout.display for column in view._columns] == ["none", "none"]
    view.look_at("entailment", "sentiment")
    assert view.wait()
    assert view._message.value == ""
    assert [column.layout.display for column in view._columns] == [None, None]
    view.close()


def test_names_are_text(tmp_path):
    view = TransferExplorer(write_study(tmp_path / "s", even, targets=[HOSTILE, "b"], seeds=[0]))
    view.look_at("b", HOSTILE)
    assert view.wait()
    shown = [view._words.value, *(head.value for head in view._heads), json.dumps(view.matrix_figure.to_plotly_json(), default=str)]
    view.look_at("random", HOSTILE)
    assert not any("<img" in text for text in [*shown, view._message.value])
    view.close()


def test_the_browser_gets_all_that_was_drawn_before_it_looked(explorer):
    """Messages from before plotly's script has loaded are lost; the widget's state is not."""
    for figure in (explorer.matrix_figure, explorer.source_heatmap, explorer.own_heatmap):
        state = figure.get_state(["_widget_data", "_widget_layout"])
        assert [trace["type"] for trace in state["_widget_data"]] == [trace.type for trace in figure.data]
        assert state["_widget_layout"]["height"] == figure.layout.height
        assert state["_widget_layout"]["yaxis"]["ticktext"] == list(figure.layout.yaxis.ticktext)


def test_every_control_has_a_label(explorer):
    controls = (
        explorer.value_box, explorer.relative_box, explorer.seed_box, explorer.source_box, explorer.target_box,
    )  # fmt: skip
    assert all(control.description for control in controls)


def test_a_folder_that_is_no_study(tmp_path):
    with pytest.raises(StudyError, match="expected a study folder"):
        TransferExplorer(tmp_path)
