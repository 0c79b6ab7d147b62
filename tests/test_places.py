"""Where paths lead: the home folder, handles after a change of the working folder, folders that moved."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, RunError, S3PETError, TaskError
from s3pet_viz.files import name_or_folder, named_in
from s3pet_viz.launcher import Launched, relaunch
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.listing import Listing

OPTIONS = {"budget": 300, "space": "S3PET-L", "steps": 4, "batch_size": 4, "max_rows": 24, "progress": False}
TUNE = {"steps": 2, "batch_size": 4, "progress": False}


@pytest.fixture
def home(tmp_path, monkeypatch, tiny_folder) -> Path:
    """A home folder with a task and a backbone of one's own; the working folder is another."""
    made = tmp_path / "home"
    shutil.copytree(find_resource("tasks", "sentiment"), made / "mood")
    shutil.copytree(tiny_folder("bert", layers=1), made / "small")
    for name, text in (("HOME", str(made)), ("USERPROFILE", str(made))):
        monkeypatch.setenv(name, text)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return made


@pytest.fixture
def pool():
    """In this process: no worker has to start."""
    with ThreadPoolExecutor(1) as made:
        yield made


def stopped(out: str | Path, **options):
    """A search that was stopped after two steps."""

    class Stop(s3.Callback):
        def on_step_end(self, search, step, result):
            if step == 1:
                search.request_stop("here")

    return s3.search(out=out, callbacks=[Stop()], **{**OPTIONS, **options})


def test_home_everywhere_in_python(home):
    run = s3.search(task="~/mood", backbone="~/small", out="~/runs/a", **OPTIONS)
    assert run.path == home / "runs" / "a"
    assert (run.config["task"], run.config["backbone"]) == (str(home / "mood"), str(home / "small"))
    assert s3.open_run("~/runs/a").n_steps == 4
    again = s3.search(task="~/mood", backbone="~/small", out="~/runs/b", start_from="~/runs/a", **OPTIONS)
    assert again.config["start_from"] == str(home / "runs" / "a")
    assert run.structure().save("~/made/s.json") == home / "made" / "s.json"
    assert s3.Structure.load("~/made/s.json") == run.structure()
    scores = s3.tune("~/made/s.json", task="~/mood", backbone="~/small", save="~/adapter", load={"max_rows": 24}, **TUNE)
    assert scores.score >= 0
    adapter = s3.Adapter.from_pretrained("~/adapter")
    assert adapter.backbone == str(home / "small")
    assert adapter.save_pretrained("~/again") == home / "again"
    assert s3.evaluate("~/adapter", task="~/mood", load={"max_rows": 24})
    assert s3.merge("~/adapter", folder="~/merged")
    assert (home / "merged" / "config.json").is_file()
    assert s3.load_backbone("~/small").name == str(home / "small")
    assert s3.load_task("~/mood", form="text").train
    (home / "space.json").write_text(json.dumps({"gates": [{"type": "BitFit", "modules": ["*.LN"]}]}))
    s3.search(task="~/mood", backbone="~/small", out="~/runs/c", **{**OPTIONS, "space": "~/space.json", "budget": 64})
    assert s3.figures.save(s3.figures.heatmap("~/runs/a"), "~/f.html") == home / "f.html"
    s3.figures.heatmap("~/made/s.json")
    (home / "theirs.json").write_text(json.dumps(s3.to_s3delta(s3.Structure.load("~/made/s.json"))))
    assert s3.from_s3delta("~/theirs.json", gates=run.gates_list) == run.structure()
    s3.report("~/runs/a", "~/report.html")
    assert (home / "report.html").is_file()
    assert len(Listing("~/runs").runs) == 3
    with RunWriter.attach("~/runs/a") as writer:
        assert writer.path == home / "runs" / "a"
    assert list(Path.cwd().iterdir()) == []


def test_home_in_a_study(home, pool):
    study = s3.sweep(tasks="~/mood", backbone="~/small", budgets="3%", seeds=1, methods=["untouched"], out="~/study",
                     executor=pool, progress=False, load={"max_rows": 24})  # fmt: skip
    assert study.path == home / "study"
    assert s3.open_study("~/study").table()["score"].notna().all()
    assert study.settings["backbone"] == str(home / "small")
    assert not Path("~").exists()


def test_home_on_the_command_line(home):
    def s3pet(*words: str) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return result.output

    s3pet("search", "--task", "~/mood", "--backbone=~/small", "--budget", "300", "--steps", "2", "--batch-size", "4",
          "--space", "S3PET-L", "--max-rows", "24", "--out", "~/run", "--quiet")  # fmt: skip
    s3pet("show", "~/run", "--save", "~/s.json", "--html", "~/h.html")
    s3pet("tune", "~/s.json", "--task", "~/mood", "--backbone", "~/small", "--steps", "1", "--max-rows", "24", "--out",
          "~/scores.json", "--save", "~/adapter", "--quiet")  # fmt: skip
    s3pet("report", "~/run", "--out", "~/r.html")
    s3pet("export", "~/adapter", "--to", "merged", "--out", "~/merged")
    for name in ("run/run.json", "s.json", "h.html", "scores.json", "adapter/adapter.json", "r.html", "merged"):
        assert (home / name).exists(), name
    assert list(Path.cwd().iterdir()) == []


def test_no_module_expands_paths_by_itself():
    """`Path(...)` of what a user gave is made in one place, which knows ``~``."""
    allowed = {"files.py", "resources.py", "runs/lock.py"}
    root = Path(s3.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        if str(file.relative_to(root)) in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("expanduser", "home"):
                found.append(f"{file.relative_to(root)}:{node.lineno}")
    assert found == []


# -- handles -------------------------------------------------------------------------------------------------


def test_handles_outlive_a_change_of_the_working_folder(home, pool, monkeypatch):
    monkeypatch.chdir(home)
    run = stopped("runs/a", task="mood", backbone="small")
    opened, listing = s3.open_run("runs/a"), Listing("runs")
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        launched = Launched(Path("runs/a"), child, own_folder=False)
    s3.tune(s3.open_run("runs/a").structure(), task="mood", backbone="small", save="adapter", load={"max_rows": 24},
            **TUNE)  # fmt: skip
    adapter = s3.Adapter.from_pretrained("adapter")
    study = s3.sweep(tasks="mood", backbone="small", budgets="3%", seeds=1, methods=["untouched"], out="study",
                     executor=pool, progress=False, load={"max_rows": 24})  # fmt: skip
    os.chdir("/")
    for handle in (run, opened, next(iter(listing.runs.values()))):
        assert len(handle.steps()) == 2
        assert handle.status == "stopped"
    assert len(study.table()) == 1
    assert launched.path == run.path
    with adapter.attach():
        pass
    assert s3.evaluate(adapter, task=str(home / "mood"), load={"max_rows": 24})
    done = s3.search(resume=run.path, progress=False)
    assert done.status == "finished"
    assert run.status == "finished"


def test_a_search_goes_on_where_it_began_when_the_working_folder_changes(home, monkeypatch):
    class Away(s3.Callback):
        def on_step_end(self, search, step, result):
            os.chdir("/")

    monkeypatch.chdir(home)
    run = s3.search(task="mood", backbone="small", out="runs/a", callbacks=[Away()],
                    **{**OPTIONS, "checkpoint_every": 1, "eval_every": 1})  # fmt: skip
    assert run.status == "finished"
    assert run.path == home / "runs" / "a"


# -- moved folders -------------------------------------------------------------------------------------------


def test_names_in_files(tmp_path, monkeypatch):
    (tmp_path / "p" / "task").mkdir(parents=True)
    (tmp_path / "p" / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "p")
    run = tmp_path / "p" / "runs" / "a"
    assert name_or_folder("task") == str(tmp_path / "p" / "task")
    assert name_or_folder("rte") == "rte"
    assert named_in("rte", run) == "rte"
    assert named_in("glue/rte", run) == "glue/rte"
    assert named_in("../../task", run) == str(tmp_path / "p" / "task")
    assert named_in("../nowhere", run) == str(tmp_path / "p" / "runs" / "nowhere")
    (run / "own").mkdir()
    assert named_in("own", run) == str(run / "own")
    gone = tmp_path / "q"
    assert named_in(str(gone / "task"), run) == str(gone / "task")
    assert named_in(str(gone / "task"), run, str(gone / "runs" / "a")) == str(tmp_path / "p" / "task")
    assert named_in(str(gone / "other"), run, str(gone / "runs" / "a")) == str(gone / "other")
    assert named_in("a\0b", run) == "a\0b"


def test_a_project_that_moves_as_a_whole_is_continued_and_used(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    stopped("runs/a", task="mood", backbone="small")
    s3.tune(s3.open_run("runs/a").structure(), task="mood", backbone="small", save="adapters/x", load={"max_rows": 24},
            **TUNE)  # fmt: skip
    moved = tmp_path / "moved"
    os.chdir("/")
    home.rename(moved)
    run = s3.open_run(moved / "runs" / "a")
    assert run.config["task"] == str(moved / "mood")
    assert s3.search(resume=run, progress=False).status == "finished"
    assert s3.Adapter.from_pretrained(moved / "adapters" / "x").load_backbone().name == str(moved / "small")


def test_a_relative_folder_is_found_from_the_file_that_names_it(home, monkeypatch):
    monkeypatch.chdir(home)
    run = stopped("runs/a", task="mood", backbone="small")
    info = json.loads((run.path / "run.json").read_text())
    info["config"] |= {"task": "../../mood", "backbone": "../../small"}
    (run.path / "run.json").write_text(json.dumps(info))
    s3.tune(run.structure(), task="mood", backbone="small", save="adapter", load={"max_rows": 24}, **TUNE)
    for name in ("adapter.json", "structure.json"):
        data = json.loads((home / "adapter" / name).read_text())
        (home / "adapter" / name).write_text(json.dumps(data | {"backbone": "../small"}))
    os.chdir("/")
    assert s3.Adapter.from_pretrained(home / "adapter").backbone == str(home / "small")
    assert s3.Structure.load(home / "adapter" / "structure.json").backbone == str(home / "small")
    assert s3.search(resume=home / "runs" / "a", progress=False).status == "finished"


@pytest.mark.usefixtures("forked_launches")
@pytest.mark.parametrize("how", ["python", "cli", "relaunch"])
def test_a_task_and_a_backbone_in_a_new_place(home, how):
    run = stopped("a", task=home / "mood", backbone=home / "small")
    (home / "mood").rename(home / "feelings")
    (home / "small").rename(home / "smaller")
    with pytest.raises(TaskError):
        s3.search(resume=run.path, progress=False)
    if how == "python":
        s3.search(resume=run, task="~/feelings", backbone="~/smaller", progress=False)
    elif how == "cli":
        words = ["search", "--resume", "a", "--task", str(home / "feelings"), "--backbone", "~/smaller", "--quiet"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    else:
        relaunch(run, task=home / "feelings", backbone=str(home / "smaller"), threads=1).wait(120)
    assert run.status == "finished", run.error
    assert run.config["task"] == str(home / "feelings")
    assert run.info["backbone"] == run.structure().backbone == str(home / "smaller")
    whole = s3.search(task="~/feelings", backbone="~/smaller", out="whole", **OPTIONS)
    np.testing.assert_allclose(run.alphas(), whole.alphas(), atol=0 if how != "relaunch" else 1e-6)


def _other_rows(home: Path, name: str) -> None:
    path = home / "mood" / f"{name}.jsonl"
    rows = path.read_text().splitlines()
    row = json.loads(rows[0])
    field = next(k for k, v in row.items() if isinstance(v, str))
    rows[0] = json.dumps({**row, field: row[field] + " indeed"})
    path.write_text("\n".join(rows) + "\n")


def _other_weights(home: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = home / "small" / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda n: weights[n].numel())
    weights[name].view(-1)[7] += 1e-3
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda home: _other_rows(home, "train"), "data was"),
        (lambda home: _other_rows(home, "validation"), "validation rows was"),
        (_other_weights, "backbone weights was"),
    ],
)
def test_others_in_the_new_place_are_refused_and_nothing_is_touched(home, spoil, message):
    run = stopped("a", task="~/mood", backbone="~/small", max_rows=None)
    spoil(home)
    (home / "mood").rename(home / "feelings")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "lock"}
    with pytest.raises(RunError, match=rf"task .*feelings.*{message}.*resumes only on the same data and backbone"):
        s3.search(resume=run, task="~/feelings", backbone="~/small", progress=False)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_other_options_of_a_resumed_search_are_refused_still(home):
    run = stopped("a", task="~/mood", backbone="~/small")
    for name, value in (("budget", "1%"), ("space", "S3PET-L"), ("out", "b"), ("steps", 9)):
        with pytest.raises(ConfigError, match=f"keeps its own options; '{name}'"):
            s3.search(resume=run, **{name: value})
    with pytest.raises(ConfigError, match="keeps its own options; 'budget'"):
        relaunch(run, budget="1%")


def test_a_run_of_an_earlier_version_is_resumed_where_it_was(home):
    """Its fingerprint says nothing of the backbone's weights."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    run = stopped("a", task="~/mood", backbone="~/small")
    state = run.path / "checkpoint" / "state.safetensors"
    with safe_open(state, framework="pt") as f:
        metadata = f.metadata()
    old = {k: v for k, v in json.loads(metadata["fingerprint"]).items() if k not in
           ("backbone weights", "tokenizer", "validation rows")}  # fmt: skip
    save_file(load_file(state), state, {**metadata, "fingerprint": json.dumps(old)})
    shutil.copytree(home / "small", home / "copy")
    with pytest.raises(RunError, match="expected a run that keeps the digest of its backbone"):
        s3.search(resume=run, backbone="~/copy", progress=False)
    assert s3.search(resume=run, progress=False).status == "finished"


def test_a_folder_that_vanishes_ends_the_search(home):
    class Gone(s3.Callback):
        def on_step_end(self, search, step, result):
            if step == 1:
                shutil.rmtree(search.writer.path)

    with pytest.raises(RunError, match="removed, renamed or replaced while the run was written"):
        s3.search(task="~/mood", backbone="~/small", out="gone", callbacks=[Gone()], **OPTIONS)
    assert not Path("gone").exists()


def test_a_folder_that_is_renamed_keeps_what_was_written(home):
    class Away(s3.Callback):
        def on_step_end(self, search, step, result):
            if step == 1:
                search.writer.path.rename("kept")

    with pytest.raises(RunError, match="removed, renamed or replaced"):
        s3.search(task="~/mood", backbone="~/small", out="gone", callbacks=[Away()], **OPTIONS)
    assert not Path("gone").exists()
    run = open_run("kept")
    assert (run.status, run.n_steps) == ("dead", 2)
    assert s3.search(resume=run, progress=False).status == "finished"


# -- pipes in folders of one's own ---------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX system")
@pytest.mark.parametrize("name", ["train.jsonl", "validation.jsonl", "test.jsonl", "task.json"])
def test_a_pipe_in_a_task_folder_is_named_at_once(home, name):
    (home / "mood" / name).unlink(missing_ok=True)
    os.mkfifo(home / "mood" / name)
    with pytest.raises(TaskError, match=name):
        s3.load_task("~/mood", form="text")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX system")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "any"])
def test_a_pipe_in_a_backbone_folder_is_named_at_once(home, name):
    (home / "small" / name).unlink(missing_ok=True)
    os.mkfifo(home / "small" / name)
    with pytest.raises(S3PETError, match=rf"{name}: expected a plain file, found a named pipe"):
        s3.load_backbone("~/small")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX system")
@pytest.mark.parametrize("name", ["adapter.json", "structure.json", "adapter.safetensors"])
def test_a_pipe_in_an_adapter_is_named_at_once(home, name):
    run = stopped("a", task="~/mood", backbone="~/small")
    s3.tune(run.structure(), task="~/mood", backbone="~/small", save="adapter", load={"max_rows": 24}, **TUNE)
    (Path("adapter") / name).unlink()
    os.mkfifo(Path("adapter") / name)
    with pytest.raises(S3PETError, match=name):
        s3.Adapter.from_pretrained("adapter")
