"""`figures.forest`: the paired differences of a study, in order, with what is settled."""

from __future__ import annotations

import numpy as np
import pytest
from transfer_problems import TASKS, even, write_study
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz import figures
from s3pet_viz.cli import app
from s3pet_viz.errors import S3PETError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return s3.open_study(write_study(tmp_path_factory.mktemp("study") / "s", even, sources=[*TASKS, "consensus"]))


def test_rows_are_the_study_s_differences_and_all_comes_last():
    study = s3.open_study("tiny-t5")
    table = figures.forest_table(study, against=["gradient", "random"])
    for reference in ("gradient", "random"):
        mine = table[table["b"] == reference].set_index(["task", "budget"])
        want = study.differences("searched", reference, scale="points").set_index(["task", "budget"])
        assert set(mine.index) == set(want.index)
        for column in ("difference", "low", "high", "n_pairs"):
            np.testing.assert_allclose(mine[column], want[column].reindex(mine.index))
        assert mine["label"].iloc[-3:].tolist() == ["all 0.1%", "all 0.2%", "all 0.5%"]
    assert table["label"].iloc[:4].tolist() == ["sentiment 0.1%", "sentiment 0.2%", "sentiment 0.5%", "entailment 0.1%"]
    assert table["b"].tolist() == ["gradient"] * 18 + ["random"] * 18
    assert (table["settled"] == ((table["low"] > 0) | (table["high"] < 0))).all()


def test_a_method_of_one_size_is_held_against_the_nearest_budget():
    """LoRA by hand has 0.199 %: over searches of 0.1, 0.2 and 0.5 % it would win where they are smaller."""
    table = figures.forest_table("tiny-t5", against=["LoRA", "BitFit", "random", "full"]).set_index("b")
    assert table["nearest"].groupby("b").first().to_dict() == {"LoRA": "0.2%", "BitFit": "0.5%", "random": "", "full": ""}
    assert set(table.loc["LoRA", "budget"]) == {"0.2%"}
    assert set(table.loc["BitFit", "budget"]) == {"0.5%"}  # 14,080 parameters
    assert set(table.loc["full", "budget"]) == {"0.1%", "0.2%", "0.5%"}
    lora = table.loc["LoRA"]
    assert len(lora) == 6
    every = lora[lora["task"] == "all"].iloc[0]
    assert not every["settled"]
    assert every["difference"] == pytest.approx(-1.8, abs=0.05)  # as docs/results.md has it
    parts = lora[lora["task"] != "all"]
    assert every["difference"] == pytest.approx(parts["difference"].mean())
    reversed_ = figures.forest_table("tiny-t5", method="LoRA", against="searched")
    assert reversed_["difference"].iloc[-1] == pytest.approx(-every["difference"])
    assert set(reversed_["nearest"]) == {"0.2%"}
    one = figures.forest("tiny-t5", against="LoRA")
    assert one.layout.title.text.startswith("searched less LoRA, at 0.2% · settled in")
    assert "less LoRA, at 0.2%" in one.layout.xaxis.title.text
    out = CliRunner().invoke(app, ["forest", "tiny-t5", "--against", "LoRA"])
    assert "LoRA, at 0.2%" in out.output
    names = {trace.name for trace in figures.forest("tiny-t5", against=["random", "LoRA"]).data}
    assert names == {"less random", "less LoRA, at 0.2%"}


def test_structures_of_a_source_against_the_targets_own(study):
    table = figures.forest_table(study, method="sentiment", against="searched")
    assert table["label"].tolist() == ["entailment", "similarity", "all"]
    # 0.70 and 0.80, which gain 0.01 and 0.02 a seed.
    assert table["difference"].tolist() == pytest.approx([-11.0] * 3)
    assert table["settled"].all()
    consensus = figures.forest_table(study, method="consensus", against=["searched", "random"], value="loss")
    assert consensus["difference"].iloc[0] == pytest.approx(0.055)


def test_the_figure_marks_what_is_settled(study):
    made = figures.forest("tiny-t5")
    table = figures.forest_table("tiny-t5")
    assert made.layout.title.text == f"searched less random · settled in {table['settled'][:15].sum()} of 15 rows"
    bars, marks = made.data
    assert ["diamond" in str(symbol) for symbol in marks.marker.symbol] == [False] * 15 + [True] * 3
    assert list(made.layout.yaxis.ticktext[-3:]) == ["<b>all 0.1%</b>", "<b>all 0.2%</b>", "<b>all 0.5%</b>"]
    assert np.diff(made.layout.yaxis.tickvals).min() == pytest.approx(1)
    assert [not str(symbol).endswith("-open") for symbol in marks.marker.symbol] == table["settled"].tolist()
    np.testing.assert_allclose(marks.x, table["difference"])
    np.testing.assert_allclose(np.reshape(bars.x, (-1, 3))[:, :2], table[["low", "high"]])
    assert made.layout.annotations[-2].text == "+12.3 (+1.9 to +24.5)"  # as README.md has it
    several = figures.forest(study, against=["random", "full"])
    assert [trace.name for trace in several.data] == ["less random", "less random", "less full", "less full"]
    assert not several.layout.annotations


def test_one_seed_has_no_interval(tmp_path):
    table = figures.forest_table(write_study(tmp_path / "s", even, seeds=(0,)))
    assert table["low"].iloc[:-1].isna().all()
    assert not table["settled"].iloc[:-1].any()
    assert figures.forest(tmp_path / "s").layout.annotations[0].text == "+20.0 (no interval)"


def test_a_score_that_is_not_known_leaves_the_others_points(tmp_path):
    def broken(source, target, seed, draw):
        return float("nan") if (target, seed) == ("similarity", 1) else even(source, target, seed, draw)

    table = figures.forest_table(write_study(tmp_path / "s", broken))
    assert set(table["unit"]) == {"points"}
    assert table["difference"].tolist()[:2] == pytest.approx([21.0, 21.0])
    assert table["test"].tolist()[2:] == ["no interval: a value is not known"] * 2
    figure = figures.forest(tmp_path / "s")
    assert [note.text for note in figure.layout.annotations][2:] == ["not known"] * 2
    assert np.isfinite(figure.layout.xaxis.range).all()


@pytest.mark.parametrize("named", [("all",), ("all", "all tasks")])
def test_tasks_that_are_named_as_the_pooled_row_stay_tasks(tmp_path, named):
    tasks = [*named, "entailment"]
    table = figures.forest_table(write_study(tmp_path / "s", even, targets=tasks))
    assert table["task"].tolist() == [*tasks, "all" + " tasks" * len(named)]
    assert table["pooled"].tolist() == [False] * len(tasks) + [True]
    figure = figures.forest(tmp_path / "s")
    assert list(figure.layout.yaxis.ticktext) == [*tasks, f"<b>{table['task'].iloc[-1]}</b>"]
    assert list(figure.data[1].marker.symbol) == ["circle"] * len(tasks) + ["diamond"]
    assert f"of {len(tasks)} rows" in figure.layout.title.text


def test_a_task_with_the_name_of_a_method_is_not_taken_for_it(tmp_path):
    study = write_study(tmp_path / "s", even, targets=["random", "full", "entailment"])
    table = figures.forest_table(study)
    assert table["n_b"].tolist() == [3, 3, 3, 9]  # those of the task would be three more
    own = figures.forest_table(study, method="from random", against="searched")
    assert own["label"].tolist() == ["full", "entailment", "all"]
    assert own["n_a"].tolist() == [3, 3, 6]


def test_a_study_without_a_training_is_refused(tmp_path):
    with pytest.raises(S3PETError, match="no finished training yet"):
        figures.forest_table(write_study(tmp_path / "s", lambda *cell: None))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "x"}, "method: expected one of searched"),
        ({"against": "x"}, "against: expected one of"),
        ({"against": []}, "found none"),
        ({"against": "searched"}, "other than searched"),
        ({"against": ["random", "random"]}, "each once"),
        ({"against": 5}, "found 5"),
        ({"against": [5]}, "found 5"),
        ({"method": None}, "found None"),
        ({"value": "z"}, "value: expected one of score, loss"),
        ({"method": "full", "against": "x" * 999}, "against"),
    ],
)
def test_wrong_input(study, options, words):
    with pytest.raises(S3PETError, match=words):
        figures.forest_table(study, **options)


@pytest.mark.parametrize("wrong", ["nowhere", "", "sentiment-0.2pct-s0"])
def test_what_is_no_study_is_refused(wrong):
    with pytest.raises(S3PETError):
        figures.forest_table(wrong)


def test_the_command(study, tmp_path):
    line = ["forest", str(study.path), "--against", "random,full", "--table", str(tmp_path / "t.csv"), "--html", str(tmp_path / "f.html")]
    out = CliRunner().invoke(app, line, catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert "+21.0" in out.output
    assert (tmp_path / "t.csv").read_text().startswith("label,settled,task,budget,pooled,a,b,")
    assert "plotly" in (tmp_path / "f.html").read_text()
    assert CliRunner().invoke(app, ["forest", str(study.path), "--method", "x"]).exit_code == 2
