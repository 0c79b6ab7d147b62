"""The transfer explorer's page: every matrix that can be asked for, and the structures behind its cells, as Python has them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from transfer_problems import TASKS, even, recorded, write_study, write_transfer

from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.errors import ConfigError, StudyError
from s3pet_viz.figures import transfer_table
from s3pet_viz.widgets import TransferExplorer

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "s"
    return write_transfer(folder, even, sources=[*TASKS, "consensus"], draws=2, searches=True)


@pytest.fixture(scope="module")
def doc(matrix) -> dict:
    return doc_of(matrix)


def doc_of(matrix) -> dict:
    view = TransferExplorer(matrix)
    made = json.loads(view.page.get_state()["doc"])
    view.close()
    return made


def cell(made: dict, source: str, target: str, **which) -> dict:
    table = one(made, **which)
    return table["cells"][table["rows"].index(source)][made["targets"].index(target)]


def one(made: dict, value: str = "score", relative: str = "", seed: str = "") -> dict:
    (found,) = [m for m in made["matrices"] if (m["value"], m["relative"], m["seed"]) == (value, relative, seed)]
    return found


def test_what_can_be_asked_for(doc):
    asked = [(m["value"], m["relative"], m["seed"]) for m in doc["matrices"]]
    assert len(set(asked)) == len(asked) == 2 * 4 * 4
    assert doc["sources"] == [*TASKS, "consensus"]
    assert doc["targets"] == list(TASKS)


@pytest.mark.parametrize("value", ["score", "loss"])
@pytest.mark.parametrize("relative", [None, "own", "random", "full"])
@pytest.mark.parametrize("seed", [None, 0, 2])
def test_every_matrix_is_the_tables(matrix, doc, value, relative, seed):
    made = one(doc, value, relative or "", "" if seed is None else str(seed))
    table = transfer_table(matrix, value=value, relative=relative, seed=seed)
    rows = table["source"].drop_duplicates().tolist()
    assert made["rows"] == rows
    wide = table.pivot(index="source", columns="target", values="value").loc[rows, doc["targets"]].to_numpy()
    found = np.array([[c["value"] for c in line] for line in made["cells"]], dtype=float)
    factor = 100 if value == "score" or relative == "full" else 1  # scores are said in percent
    assert found == pytest.approx(factor * wide, nan_ok=True)
    assert [[c["mark"] for c in line] for line in made["cells"]] == [[source == target for target in TASKS] for source in rows]
    assert all(0 <= c["shade"] <= 1 for line in made["cells"] for c in line)
    assert made["centred"] is (relative in ("own", "random"))


def test_cells_say_their_numbers(doc):
    said = [
        cell(doc, "sentiment", "entailment", value=value, relative=relative)["text"]
        for value in ("score", "loss") for relative in ("", "own", "random", "full")
    ]  # fmt: skip
    assert said == [
        "71.0 ± 1.0", "-11.0 ± 1.0", "+9.0 ± 1.0", "78.0 ± 1.1", "0.645 ± 0.005", "+0.055 ± 0.005", "-0.045 ± 0.005", "118.3 ± 0.9",
    ]  # fmt: skip
    assert cell(doc, "sentiment", "entailment", seed="2")["text"] == "72.0"
    assert cell(doc, "sentiment", "entailment")["hover"] == ["sentiment → entailment", "score × 100: 71.0 ± 1.0 (95 % 68.5 to 73.5), 3 trainings · less the target's own -11.0 (-13.5 to -8.5, corrected)", "overlap 0.24"]


def test_darker_is_better(doc):
    score, loss = ([c["shade"] for line in one(doc, value=value)["cells"][:4] for c in line] for value in ("score", "loss"))
    assert np.argmax(score) == np.argmax(loss)
    assert cell(doc, "sentiment", "sentiment")["shade"] > cell(doc, "sentiment", "entailment")["shade"]
    assert "lower is better" in one(doc, value="loss")["note"]


def test_structures_behind_the_cells(matrix, doc):
    keys = list(zip(doc["space"]["position"], doc["space"]["type"], strict=True))
    assert keys == [g.key for g in matrix.gates()]
    for name, found in doc["structures"].items():
        source, target, seed = name.split("|")
        structure = matrix.structure(source, target=target, seed=int(seed) if seed else None)
        assert {keys[i] for i in found["gates"]} == structure.keys
        assert found["used"] == structure.n_params
        assert f"{len(structure)} gates" in found["words"]
    assert {name.split("|")[0] for name in doc["structures"]} == {*TASKS, "consensus"}
    assert "search of seed 2" in doc["structures"]["sentiment|entailment|2"]["words"]
    a, b = (set(doc["structures"][f"{s}|entailment|0"]["gates"]) for s in ("sentiment", "entailment"))
    overlap = pytest.approx(jaccard(recorded("sentiment", 0), recorded("entailment", 0)))
    assert len(a & b) / len(a | b) == overlap
    assert doc["shared"]["sentiment|entailment|0"] == [len(a & b), overlap]
    assert not {f"{task}|{task}|0" for task in TASKS} & doc["shared"].keys()


def test_chance_is_known_where_the_space_is(doc):
    # 13 of 156 gates at random: a Jaccard of about 13 / 156 / 2, more as small gates are chosen more often.
    assert 0.02 < doc["chance"]["sentiment|entailment|"] < 0.15
    assert "sentiment|sentiment|" not in doc["chance"]


def test_without_a_search_chance_is_not_known(tmp_path):
    assert doc_of(write_study(tmp_path / "s", even, seeds=[0]))["chance"] == {}


def test_a_target_without_a_structure_of_its_own(tmp_path):
    made = doc_of(write_study(tmp_path / "s", even, sources=["elsewhere"], seeds=[0]))
    assert {m["relative"] for m in made["matrices"]} == {"", "random", "full"}
    assert {name.split("|")[0] for name in made["structures"]} == {"elsewhere"}
    assert cell(made, "elsewhere", "sentiment")["text"] == "70.0"


def test_what_is_missing_is_an_empty_cell(tmp_path):
    """The entailment structure was not trained on similarity yet."""
    made = doc_of(
        write_study(tmp_path / "s", lambda s, t, *more: None if (s, t) == ("entailment", "similarity") else even(s, t, *more), seeds=[0])
    )
    missing = cell(made, "entailment", "similarity")
    assert missing["value"] is None, "JSON has no NaN, and a page refuses it"
    assert any("no training yet" in line for line in missing["hover"])
    assert math.isfinite(cell(made, "entailment", "sentiment")["value"])


def test_names_are_text(tmp_path):
    view = TransferExplorer(write_study(tmp_path / "s", even, targets=[HOSTILE, "b"], seeds=[0]))
    made = json.loads(view.page.doc)
    assert made["targets"] == [HOSTILE, "b"], "the page writes text, never HTML (js/draw.js)"
    assert cell(made, HOSTILE, "b")["hover"][0] == f"{HOSTILE} → b"
    assert "<img" not in view._static.value
    assert "&lt;img" in view._static.value
    view.close()


def test_repr_and_refusals(matrix, tmp_path):
    view = TransferExplorer(matrix, theme="dark")
    assert repr(view) == "TransferExplorer(4 sources, 3 targets)"
    assert json.loads(view.page.doc)["theme"] == "dark"
    view.selection = (3,)
    assert view.selection == (3,)
    view.close()
    with pytest.raises(StudyError, match="expected a study folder"):
        TransferExplorer(tmp_path)
    with pytest.raises(ConfigError, match="theme: expected one of auto, light, dark, found ''"):
        TransferExplorer(matrix, theme="")
