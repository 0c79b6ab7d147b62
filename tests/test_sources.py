"""Every function and command that takes a run or a structure opens the same things, and refuses others alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, RunError, S3PETError, SourceError, StructureError
from s3pet_viz.export.host import read_source
from s3pet_viz.launcher import relaunch
from s3pet_viz.resources import find_resource
from s3pet_viz.sources import RUN, open_source, open_sources, structure_of
from s3pet_viz.structure import FinalAlphas, to_s3delta

NAME = "sentiment-0.2pct-s0"
ALPHAS = f"""{"=" * 20}
| encoder.block.0.layer.0.SelfAttention.q | parallel | Lora | {256 / 1024**2:.10f} | 0.50000 | 0.60000
| encoder.block.0.layer.0.SelfAttention.v | parallel | Lora | {256 / 1024**2:.10f} | 0.10000 | 0.40000
{"=" * 20}
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Each kind of source by name."""
    folder = tmp_path_factory.mktemp("sources")
    run = s3.open_run(NAME)
    shutil.copytree(find_resource("runs", NAME), folder / "run")
    structure = run.structure()
    structure.save(folder / "structure.json")
    (folder / "config.json").write_text(json.dumps(to_s3delta(structure)))
    (folder / "final_alphas.txt").write_text(ALPHAS)
    (folder / "empty").mkdir()
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter.json").write_text("{}")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    return {
        "Run": run, "name": NAME, "folder": folder / "run", "folder as text": str(folder / "run"),
        "run.json": folder / "run" / "run.json", "Structure": structure, "structure file": folder / "structure.json",
        "S3Delta": folder / "config.json", "final alphas": folder / "final_alphas.txt",
        "missing": folder / "nowhere", "empty folder": folder / "empty", "adapter": folder / "adapter",
        "picture": folder / "picture.png", "int": 5, "list": [1], "bytes": b"x", "None": None, "no text": "",
    }  # fmt: skip


RUNS = ["Run", "name", "folder", "folder as text", "run.json"]
STRUCTURES = ["Structure", "structure file", "S3Delta"]
WRONG = {
    "missing": "expected a run folder or", "empty folder": "found a folder without run.json",
    "adapter": "found a trained adapter", "picture": "picture.png", "int": "found 5", "bytes": "found b'x'",
    "None": "found None", "no text": "found ''",
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNS + STRUCTURES)
def test_what_is_opened(places, kind):
    opened = open_source(places[kind], backbone="tiny-t5")
    assert structure_of(opened).keys == places["Structure"].keys
    assert structure_of(opened).n_params == places["Structure"].n_params


def test_final_alphas_are_told_by_their_content(places, tmp_path):
    assert isinstance(open_source(places["final alphas"]), FinalAlphas)
    other = tmp_path / "table.json"
    other.write_text(ALPHAS)
    assert len(open_source(other).gates) == 2


def test_what_is_there_wins_over_a_recorded_name(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(find_resource("runs", "similarity-0.2pct-s0"), tmp_path / NAME)
    assert open_source(NAME).path == tmp_path / NAME
    shutil.rmtree(tmp_path / NAME)
    assert open_source(NAME).path == places["Run"].path


# -- functions ---------------------------------------------------------------------------------------------


def of_widget(name):
    def made(source):
        pytest.importorskip("ipywidgets")
        view = getattr(s3.widgets, name)(source)
        view.close()
        return view.run.name if hasattr(view, "run") else list(view.listing.runs)

    return made


TAKE_RUNS = {
    "health": lambda x: [f.code for f in s3.health(x)],
    "trace": lambda x: s3.figures.trace_table(x).to_csv(),
    "curves": lambda x: s3.figures.curves_table(x).to_csv(),
    "watch": of_widget("watch"),
    "StructureExplorer": of_widget("StructureExplorer"),
    "CompareRuns": of_widget("CompareRuns"),
}
TAKE_ANY = {
    "heatmap": lambda x: s3.figures.heatmap_table(x)["selected"].sum(),
    "overlap": lambda x: s3.figures.overlap_table([x, NAME])["gates"].iloc[0],
    "export": lambda x: read_source(x, backbone="tiny-t5").keys,
}


@pytest.mark.parametrize("kind", RUNS[1:])
@pytest.mark.parametrize("function", [*TAKE_RUNS, *TAKE_ANY])
def test_a_run_by_any_name_gives_what_the_run_gives(places, function, kind):
    take = {**TAKE_RUNS, **TAKE_ANY}[function]
    assert take(places[kind]) == take(places["Run"])


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("function", TAKE_ANY)
def test_a_structure_by_any_name_gives_what_the_structure_gives(places, function, kind):
    assert TAKE_ANY[function](places[kind]) == TAKE_ANY[function](places["Structure"])


@pytest.mark.parametrize("kind", ["Structure", "structure file", "S3Delta", "final alphas"])
@pytest.mark.parametrize("function", TAKE_RUNS)
def test_what_needs_a_run_says_so(places, function, kind):
    with pytest.raises(SourceError, match=r"expected a run, .*, found (a structure|final alphas)$"):
        TAKE_RUNS[function](places[kind])


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(
    "function", [*TAKE_RUNS, *(name for name in TAKE_ANY if name != "export"), "tune", "explain", "report", "importance"]
)
def test_what_is_none_of_these_is_refused_by_name(places, tmp_path, function, kind):
    more = {
        "tune": lambda x: s3.tune(x, task="sentiment"), "explain": s3.explain, "importance": s3.figures.importance,
        "report": lambda x: s3.report(x, tmp_path / "report.html"),
    }  # fmt: skip
    if (function, kind) == ("importance", "picture"):
        pytest.skip("a file of an explanation that is damaged")
    if function == "CompareRuns" and kind in ("empty folder", "adapter"):  # it takes a folder of runs too
        with pytest.raises(ConfigError, match="expected at least one run"):
            TAKE_RUNS[function](places[kind])
        return
    with pytest.raises((SourceError, RunError, StructureError)) as caught:
        {**TAKE_RUNS, **TAKE_ANY, **more}[function](places[kind])
    assert WRONG[kind] in str(caught.value)
    assert not list(tmp_path.iterdir())


def relaunched(source):
    return relaunch(source)


def searched_from(source, out):
    return s3.search(
        task="sentiment", backbone="tiny-t5", budget="0.2%", steps=1, max_rows=8, batch_size=4, progress=False, out=out,
        start_from=source,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [*RUNS, *STRUCTURES, *WRONG])
@pytest.mark.parametrize("function", ["resume", "relaunch"])
def test_what_is_resumed_is_opened_the_same_way(places, function, kind):
    """A recorded run has no checkpoint: whatever names it, it is found and says so."""
    if (function, kind) == ("resume", "None"):
        return  # a new search
    take = {"resume": lambda x: s3.search(resume=x, progress=False), "relaunch": relaunched}[function]
    said = WRONG.get(kind, "found a structure")
    if kind in RUNS:
        said = "there is no checkpoint to resume from" if function == "resume" else "the search is finished"
    elif function == "resume" and kind in ("int", "bytes", "Structure"):
        said = "resume: expected a run or its path, found"
    with pytest.raises(S3PETError, match=said):
        take(places[kind])


@pytest.mark.parametrize("kind", [*RUNS, *STRUCTURES, *WRONG])
def test_what_a_search_starts_from_is_opened_the_same_way(places, tmp_path, kind):
    if kind == "None":
        return  # from nothing
    if kind in RUNS:
        assert searched_from(places[kind], tmp_path / "run").info["start_from"]["run"] == places["Run"].name
        return
    said = "found Structure" if kind == "Structure" else WRONG.get(kind, "found a structure")
    with pytest.raises(S3PETError, match=f"start_from: .*{said}"):
        searched_from(places[kind], tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_wrong_types_inside_a_list(places):
    for take in (open_sources, lambda x: open_sources(x, allow=RUN), s3.health):
        with pytest.raises(SourceError, match="found 1"):
            take([1])
        with pytest.raises(S3PETError, match="at least one"):
            take([])


@pytest.mark.parametrize("kind", [*RUNS, "structure file", "final alphas"])
def test_what_has_no_trained_weights(places, kind):
    """A run or a structure is no adapter, and says what is missing."""
    for take in (lambda x: s3.evaluate(x, task="sentiment"), s3.merge):
        with pytest.raises(SourceError, match=r"an adapter with trained weights, found (a run|a structure|final)"):
            take(places[kind])


# -- training and commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Run", "name", "run.json"])
def test_a_run_is_tuned_on_its_own_task(places, kind):
    fast = {"steps": 1, "batch_size": 4, "progress": False, "load": {"max_rows": 8}}
    scores = s3.tune(places[kind], **fast)
    given = s3.tune(places["Structure"], task="sentiment", backbone="tiny-t5", **fast)
    assert (scores.task, scores.pet_params, scores.score) == (given.task, given.pet_params, given.score)


def test_a_published_file_is_explained_with_its_backbone(places):
    made = s3.explain(
        places["S3Delta"], task="sentiment", backbone="tiny-t5", steps=1, batch_size=4, rows=4, metric=False,
        progress=False, load={"max_rows": 8},
    )  # fmt: skip
    assert isinstance(made, Explanation)
    assert {e.gate.key for e in made.effects} == places["Structure"].keys
    with pytest.raises(StructureError, match="size of gate"):
        s3.explain(places["S3Delta"], task="sentiment", backbone="minilm")


@pytest.mark.parametrize("kind", ["name", "folder", "run.json", "structure file", "S3Delta", "final alphas"])
def test_show(places, kind):
    result = CliRunner().invoke(app, ["show", str(places[kind])])
    assert result.exit_code == 0, result.output
    assert "chosen" in result.output


@pytest.mark.parametrize("command", [("show",), ("tune",), ("explain",), ("pause",), ("watch", "--once"), ("report",)])
def test_commands_refuse_what_is_none_of_these(places, tmp_path, command):
    out = ("--out", str(tmp_path / "r.html")) if command[0] == "report" else ()
    for kind in ("missing", "empty folder"):
        result = CliRunner().invoke(app, [*command, str(places[kind]), *out])
        assert result.exit_code == 2
        assert WRONG[kind] in result.stderr
        assert Path(places[kind]).name in result.stderr
