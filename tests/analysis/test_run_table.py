"""A table of many runs, and what people write on them."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner
from widget_runs import HOSTILE, Growing, space

import s3pet_viz as s3
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs.marks import Marks, read_marks, write_marks


def s3pet(*words, code=0, **how):
    result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False, **how)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path):
    """Two tasks, the first with two seeds, one of which has scores; one in a folder of its own."""
    for name, task, seed, steps in (("a0", "sentiment", 0, 3), ("a1", "sentiment", 1, 5), ("deep/b0", "topics", 0, 2)):
        growing = Growing(tmp_path / "runs" / name, space(3, 3), task=task, seed=seed)
        growing.write(steps)
        growing.end()
    metrics = {"metrics": {"accuracy": 0.75, "score": 0.75, "loss": 0.5}}
    (tmp_path / "runs" / "a0" / "scores.json").write_text(json.dumps(metrics))
    return tmp_path / "runs"


def test_a_row_for_every_run(folder):
    found = s3.open_runs(folder)
    table = found.table().set_index("run")
    assert list(table.index) == ["a0", "a1", "deep/b0"]
    assert list(table["task"]) == ["sentiment", "sentiment", "topics"]
    assert list(table["steps"]) == [3, 5, 2]
    assert table.loc["a0", ["score", "metric"]].tolist() == [0.75, "accuracy"]
    assert np.isnan(table.loc["a1", "score"])
    for run in found:
        own = run.structure()
        row = table[table["path"] == str(run.path)].iloc[0]
        assert (row["gates"], row["parameters"]) == (len(own), own.n_params)
    sets = [found[i].structure() for i in range(3)]
    overlap = np.array([[jaccard(a, b) for b in sets] for a in sets])
    np.testing.assert_allclose(table["agreement"], (overlap.sum(axis=1) - 1) / 2)
    assert [run.path.name for run in s3.open_runs(folder).sort("steps", ascending=False)] == ["a1", "a0", "b0"]
    assert found.sort("score").rows[0].run == "a0"
    assert len(found.where(task="sentiment")) == len(found.where(seed=[0, 1], task=["sentiment"])) == 2
    assert found[-1].path == found["deep/b0"].path


def test_gates_that_were_pinned_in_count(tmp_path, tiny_folder):
    """While it runs, too: what is left of the budget is what the search chooses under."""
    run = s3.search(
        task="sentiment", backbone=tiny_folder("bert", layers=1), budget="3%", pin={"in": ["*.0 SelfAttn.Q*"]}, steps=2,
        batch_size=8, max_rows=16, mode="first-order", device="cpu", progress=False, out=tmp_path / "runs" / "a",
    )  # fmt: skip
    wanted = (len(run.structure()), run.structure().n_params)
    for _ in range(2):
        row = s3.open_runs(tmp_path / "runs").table().loc[0]
        assert (row["gates"], row["parameters"]) == wanted
        (run.path / "structure.json").unlink(missing_ok=True)
    assert len(run.pinned_in) > 0


def test_figures_and_functions_take_a_table(folder):
    found = s3.open_runs(folder)
    assert len(s3.figures.multiples_table(found)) == 3 * 12
    assert s3.figures.consensus_table(found).shape[0] == 12
    figure = s3.figures.multiples(found, columns=2)
    assert [trace.type for trace in figure.data] == ["heatmap", "scatter", "scatter"] * 3
    assert len({(trace.zmin, trace.zmax) for trace in figure.data[::3]}) == 1


def test_ranks_that_are_chosen_agree_whichever_units_they_are():
    runs = s3.open_runs([s3.open_run("sentiment-0.2pct-s0"), "sentiment-0.2pct-s1", "sentiment-0.2pct-s2"])
    a, b, c = (run.structure() for run in runs)
    assert runs.table()["agreement"][0] == pytest.approx((jaccard(a, b) + jaccard(a, c)) / 2)


def test_a_thumbnail_is_a_picture_of_the_grid(folder):
    row = s3.open_runs(folder).row("a0")
    data = row.thumbnail()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">2I", data[16:24])
    size = struct.unpack(">I", data[33:37])[0]
    pixels = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(height, 1 + 3 * width)[:, 1:]
    orange = (pixels.reshape(height, width, 3) == (242, 107, 29)).all(axis=2).sum()
    assert (height, width) == (2, 7)  # two PET types; three layers, a gap, three layers
    assert orange == row.chosen.sum()


def test_what_people_write_is_kept_and_the_search_s_own_words_too(folder):
    before = (folder / "a0" / "run.json").read_bytes()
    found = s3.open_runs(folder)
    found.mark("a0", name="best", note="in figure 1", tags=["paper", "paper", "b"])
    again = s3.open_runs(folder)
    assert again["best"].path == folder / "a0"
    assert again.table().loc[0, ["name", "note", "tags"]].tolist() == ["best", "in figure 1", "paper, b"]
    assert len(again.where(tag="paper")) == 1
    again.mark("best", note="")
    assert read_marks(folder / "a0") == Marks("best", "", ("paper", "b"))
    assert (folder / "a0" / "run.json").read_bytes() == before
    found.mark("a1", archived=True)
    assert len(found) == len(s3.open_runs(folder)) == 2
    assert len(s3.open_runs(folder, archived=True)) == 3


def test_deleting_asks_twice_and_takes_the_whole_run(folder):
    found = s3.open_runs(folder)
    with pytest.raises(ConfigError, match=r"this deletes 2 run\(s\), 0.\d MB, for good: a0, a1"):
        found.delete("a0", "a1")
    assert (folder / "a0" / "run.json").exists()
    with pytest.raises(ConfigError, match="at least one run"):
        found.delete(sure=True)
    found.delete("a0", "a1", "a0", sure=True)
    assert [path.name for path in folder.iterdir()] == ["deep"]
    assert [row.run for row in found.rows] == ["deep/b0"]


def test_a_run_that_a_process_holds_is_not_deleted(tmp_path):
    growing = Growing(tmp_path / "runs" / "live", space(2, 2))
    growing.write()
    found = s3.open_runs(tmp_path / "runs")
    found.mark("live", tags=["now"])  # what people write does not disturb it
    with pytest.raises(RunError, match="no process writes, found one that is running; stop it first"):
        found.delete("live", sure=True)
    growing.write()
    assert growing.end().n_steps == 2
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "live")
    with pytest.raises(RunError, match="is a link"):
        s3.open_runs([tmp_path / "link"]).delete(0, sure=True)
    found.delete("live", sure=True)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("act", [lambda t: t.mark(0, name="mine"), lambda t: t.delete(0, sure=True)])
def test_what_came_with_the_package_stays(act):
    with pytest.raises(RunError, match="came with the package"):
        act(s3.open_runs(["sentiment-0.2pct-s0"]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 3}, "name: expected a text"),
        ({"note": "x" * 5000}, "note: expected a text of at most 4,096"),
        ({"tags": "a,b"}, "tags: expected words without a comma"),
        ({"tags": ["a,b"]}, "tags: expected words without a comma, found 'a,b'"),
        ({"archived": "yes"}, "archived: expected True or False"),
        ({"color": "red"}, "mark: expected one of name, note, tags, archived"),
    ],
)
def test_marks_that_are_none(folder, changes, said):
    with pytest.raises(ConfigError, match=said):
        s3.open_runs(folder).mark("a0", **changes)
    assert not (folder / "a0" / "marks.json").exists()


def test_damaged_runs_are_left_out_and_said(folder):
    (folder / "a1" / "marks.json").write_text('{"kind": "s3pet_viz.marks", "schema_version": 1, "tags": 5}')
    (folder / "bad").mkdir()
    (folder / "bad" / "run.json").write_text("{")
    found = s3.open_runs(folder)
    assert len(found) == 2
    assert "field tags: expected words" in found.problems[0]
    assert "bad" in found.problems[1]
    with pytest.raises(RunError, match="bad"):
        s3.open_runs([folder / "bad"])
    with pytest.raises(ConfigError, match="expected at least one run, found none"):
        s3.open_runs(folder / "a0" / "steps")
    with pytest.raises(ConfigError, match="expected one of 2 runs .* found none that is 'zz'"):
        found["zz"]
    with pytest.raises(ConfigError, match="there are .*sentiment"):
        found.where(task="nope")


def test_texts_of_strangers_stay_texts(tmp_path):
    growing = Growing(tmp_path / "runs" / "evil", space(2, 2), task=HOSTILE)
    growing.write()
    growing.end()
    write_marks(tmp_path / "runs" / "evil", name=HOSTILE, tags=[HOSTILE])
    made = s3.open_runs(tmp_path / "runs")._repr_html_()
    assert "<img src=x" not in made
    assert made.count("&lt;img src=x") >= 2


def test_the_command(folder, tmp_path):
    said = s3pet("runs", folder, "--sort", "score", "--table", tmp_path / "t.csv", "--html", tmp_path / "t.html").output
    for word in ("3 runs", "deep/b0", "0.75"):
        assert word in said
    assert pd.read_csv(tmp_path / "t.csv").loc[0, "run"] == "a0"
    assert (tmp_path / "t.html").read_text().count("data:image/png") == 3
    s3pet("runs", folder, "--on", "a0", "--on", "a1", "--name", "x", "--tags", "one, two")
    assert read_marks(folder / "a1").tags == ("one", "two")
    assert "1 run " not in s3pet("runs", folder, "--where", "tag=one,seed=1").output.partition("a1")[0]
    s3pet("runs", folder, "--on", "a0", "--archive")
    assert "a0" not in s3pet("runs", folder).output
    s3pet("runs", folder, "--on", "a0", "--restore")
    assert "a0" in s3pet("runs", folder).output
    for answers in ("n\n", "y\n2\n"):
        s3pet("runs", folder, "--on", "a0", "--delete", input=answers, code=1 if answers == "n\n" else 2)
        assert (folder / "a0").exists()
    s3pet("runs", folder, "--on", "a0", "--delete", input="y\n1\n")
    s3pet("runs", folder, "--on", "a1", "--delete", "--yes")
    assert [path.name for path in folder.iterdir()] == ["deep"]
    for words, wrong in (
        (["--delete"], "expected --on RUN"), (["--on", "deep/b0"], "expected a change"), (["--where", "task"], "expected column=value"),
    ):  # fmt: skip
        assert wrong in s3pet("runs", folder, *words, code=2).stderr
