"""Links, pipes, sockets and folders in the place of a run's files; runs that vanish or change; numbers that are none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_files import spoil

from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.errors import FileError, RunError, S3PETError
from s3pet_viz.files import open_plain, read_json, write_bytes_atomic
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.heads import StepHeads
from s3pet_viz.runs.lock import WriterLock, lock_is_held
from s3pet_viz.runs.place import DiskError, LostRunError
from s3pet_viz.runs.process import log_tail, spawn
from s3pet_viz.runs.tail import TailLog
from s3pet_viz.structure import Gate, Structure

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of a POSIX system")

FILES = ("run.json", "gates.parquet", "evals.jsonl", "structure.json", "scores.json", "lock", "log.txt", "control.json",
         "explain.json", "steps/part-00000.arrow", "checkpoint/state.safetensors")  # fmt: skip
FOLDERS = ("steps", "checkpoint", "tracking")


@pytest.fixture
def victim(tmp_path) -> Path:
    """What is not the run's: a folder with a file, whose text a torn line ends."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text('{"a": 1}\nmine, and no line end')
    return tmp_path / "mine"


@pytest.fixture
def run(create, record) -> Path:
    writer = create()
    record(writer, range(4))
    writer.evaluation({"step": 1, "accuracy": 0.5})
    writer.set_status("stopped")
    writer.close()
    (writer.path / "checkpoint").mkdir()
    (writer.path / "checkpoint" / "state.safetensors").write_bytes(b"x")
    return writer.path


def put(path: Path, kind: str, victim: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim / "text")
    elif kind == "folder link":
        path.symlink_to(victim, target_is_directory=True)
    elif kind == "dangling":
        path.symlink_to(victim / "new")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"text")


def seen(folder: Path) -> dict[str, bytes | str]:
    return {
        str(p.relative_to(folder)): (p.read_bytes() if p.is_file() and not p.is_symlink() else "other")
        for p in folder.rglob("*")
    }


ACTIONS = {
    "open": lambda run: open_run(run),
    "attach": lambda run: RunWriter.attach(run).close(),
    "resume": lambda run: RunWriter.resume(run, from_step=2).close(),
}


@pytest.mark.parametrize("kind", ["link", "folder link", "dangling", "pipe", "socket", "folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run_is_a_plain_file_inside_it(run, victim, name, kind):
    opened = open_run(run)
    put(run / name, kind, victim)
    before, mine = seen(run), seen(victim)
    for act in ACTIONS.values():
        with pytest.raises(RunError, match=rf"{name}.*(expected a plain file|cannot be read)"):
            act(run)
    with pytest.raises(RunError):
        opened.stop() if name != "steps/part-00000.arrow" else opened.alpha()
    assert (seen(run), seen(victim)) == (before, mine)


@pytest.mark.parametrize("kind", ["link", "folder link", "dangling", "pipe", "socket", "file"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_a_run_is_a_folder_inside_it(run, victim, name, kind):
    opened = open_run(run)
    put(run / name, kind, victim)
    before, mine = seen(run), seen(victim)
    for act in ACTIONS.values():
        with pytest.raises(RunError, match=rf"{name}: expected a folder, found"):
            act(run)
    if name == "steps":
        for read in (lambda: opened.n_steps, opened.steps, opened.alphas, lambda: repr(opened)):
            with pytest.raises(RunError, match="steps: expected a folder"):
                read()
        with pytest.raises(RunError, match="steps: expected a folder"):
            TailLog(run, opened.counts).refresh()
    assert (seen(run), seen(victim)) == (before, mine)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "folder"])
def test_readers_of_an_open_run_meet_what_was_put_there_since(run, victim, kind):
    opened, length = open_run(run), len(open_run(run).gates_list)
    heads, tail = StepHeads(run, length), TailLog(run, opened.counts)
    Structure(opened.gates_list[:1]).save(run / "structure.json")
    for name, read in (
        ("evals.jsonl", opened.evals),
        ("scores.json", opened.scores),
        ("structure.json", opened.structure),
        ("explain.json", lambda: Explanation.load(run)),
        ("steps/part-00000.arrow", opened.alphas),
        ("steps/part-00000.arrow", heads.refresh),
        ("steps/part-00000.arrow", tail.refresh),
        ("run.json", lambda: opened.status),
    ):
        shutil.copytree(run, run.with_name("good"))
        put(run / name, kind, victim)
        with pytest.raises(RunError, match=name):
            read()
        shutil.rmtree(run)
        run.with_name("good").rename(run)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "folder"])
def test_locks_and_logs(tmp_path, victim, kind):
    put(tmp_path / "lock", kind, victim)
    put(tmp_path / "log.txt", kind, victim)
    mine = seen(victim)
    with pytest.raises(RunError, match="lock"):
        WriterLock(tmp_path / "lock")
    with pytest.raises(RunError, match="lock"):
        lock_is_held(tmp_path / "lock")
    with pytest.raises(RunError, match=r"log\.txt: cannot be written"):
        spawn(["show", "nothing"], tmp_path / "log.txt")
    assert log_tail(tmp_path / "log.txt") == ""
    assert seen(victim) == mine


@pytest.mark.parametrize("name", ["lock", "evals.jsonl", "log.txt"])
def test_what_is_written_in_place_has_no_second_name(run, victim, name):
    (run / name).unlink(missing_ok=True)
    os.link(victim / "text", run / name)
    mine = seen(victim)
    if name == "log.txt":
        with pytest.raises(RunError, match="hard link"):
            spawn(["show", "nothing"], run / name)
    else:
        with pytest.raises(RunError, match="hard link"):
            RunWriter.resume(run, from_step=2)
    assert seen(victim) == mine


def test_a_new_run_is_not_made_through_links(tmp_path, gates, victim):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "lock").symlink_to(victim / "text")
    mine = seen(victim)
    with pytest.raises(RunError, match="lock: expected a plain file, found a link"):
        RunWriter.create(tmp_path / "new", gates=gates, config={})
    assert seen(victim) == mine


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_any_file_that_is_read_or_replaced(tmp_path, victim, kind):
    path = tmp_path / "file.json"
    put(path, kind, victim)
    with pytest.raises(FileError, match=r"file\.json: expected a plain file, found"):
        open_plain(path)
    with pytest.raises(RunError, match=r"file\.json: cannot be read \(expected a plain file, found"):
        read_json(path, RunError)
    with pytest.raises(FileError, match=r"file\.json: expected a plain file, found"):
        write_bytes_atomic(path, b"new")
    with pytest.raises(S3PETError, match="expected a plain file"):
        Structure((), "b").save(path)
    assert not path.is_file()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_device_is_never_replaced():
    with pytest.raises(FileError, match="/dev/null: expected a plain file, found a device"):
        write_bytes_atomic("/dev/null", b"new")
    with pytest.raises(RunError, match="/dev/zero: cannot be read .expected a plain file, found a device"):
        read_json("/dev/zero", RunError)


# -- runs that vanish ----------------------------------------------------------------------------------------


def _gone(path: Path) -> None:
    shutil.rmtree(path)


def _renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _anew(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


def _emptied(path: Path) -> None:
    for entry in path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.mark.parametrize("how", [_gone, _renamed, _anew, _emptied])
@pytest.mark.parametrize("write", ["append", "evaluation", "set_status", "write_structure", "write_scores", "sync"])
def test_a_folder_that_vanishes_ends_the_writing(create, record, how, write):
    writer = create()
    record(writer, range(3))
    how(writer.path)
    before = seen(writer.path.parent)
    acts = {
        "append": lambda: record(writer, range(3, 4)),
        "evaluation": lambda: writer.evaluation({"step": 2}),
        "set_status": lambda: writer.set_status("finished"),
        "write_structure": lambda: writer.write_structure(Structure(())),
        "write_scores": lambda: writer.write_scores({}),
        "sync": writer.sync,
    }
    with pytest.raises(LostRunError, match="removed, renamed or replaced while the run was written"):
        acts[write]()
    assert seen(writer.path.parent) == before
    with pytest.raises(DiskError):
        writer.close()
    assert not lock_is_held(writer.path / "lock")


def test_a_part_that_vanishes_ends_the_writing(create, record):
    writer = create()
    record(writer, range(3))
    (writer.path / "steps" / "part-00000.arrow").unlink()
    with pytest.raises(LostRunError, match=r"part-00000\.arrow: this part"), writer:
        record(writer, range(3, 4))
    assert open_run(writer.path).n_steps == 0


# -- runs that change under their reader ---------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 6, 9])
def test_a_run_that_is_made_anew_is_read_from_its_beginning(create, record, monkeypatch, steps):
    """Even where the new files get the inodes of the old ones."""
    writer = create()
    record(writer, range(6))
    writer.close()
    run = open_run(writer.path)
    tail = TailLog(run.path, run.counts)
    run.alphas()
    tail.refresh()
    inodes = {p: p.stat().st_ino for p in run.path.rglob("*") if p.is_file()}
    kept = {p: p.open("r+b") for p in inodes}
    again = create("other")
    record(again, range(steps), shift=50)
    again.close()
    for path, f in kept.items():  # the same files, with what the new run has
        f.truncate(0)
        f.write((again.path / path.relative_to(run.path)).read_bytes())
        f.close()
    assert {p: p.stat().st_ino for p in inodes} == inodes
    assert run.n_steps == steps
    np.testing.assert_allclose(run.alphas()[:, 0], 50)
    np.testing.assert_allclose(run.steps()["alpha"].iloc[-1][0], 50)
    tail.refresh()
    assert len(tail) == steps
    assert tail.last.alpha[0] == 50


def test_another_run_with_other_gates_in_its_place_is_said(create, record, gates, tmp_path):
    writer = create()
    record(writer, range(3))
    writer.close()
    run = open_run(writer.path)
    shutil.rmtree(writer.path)
    others = [Gate(g.index, g.position + ".x", g.stack, g.layer, g.module, g.pet_type, g.n_params) for g in gates]
    with RunWriter.create(writer.path, gates=others, config={}) as other:
        record(other, range(3))
    for read in (lambda: run.n_steps, run.alphas, run.steps, run.evals, lambda: run.status):
        with pytest.raises(RunError, match="another run, with other gates, lies here since; open it again"):
            read()


def test_a_part_of_another_run_is_refused(create, record):
    writer = create()
    record(writer, range(3))
    writer.close()
    other = create("other")
    record(other, range(3, 5))
    other.close()
    shutil.copy(other.path / "steps" / "part-00000.arrow", writer.path / "steps" / "part-00001.arrow")
    if other.info["started"] == writer.info["started"]:
        pytest.skip("both began in the same millisecond")
    with pytest.raises(RunError, match=r"part-00001\.arrow: not a part of this run"):
        open_run(writer.path).steps()


def test_a_part_that_is_cut_or_rewritten_does_not_end_the_process(create, record):
    """What is read is not mapped: views stay as they were."""
    writer = create()
    record(writer, range(2000))
    writer.close()
    code = (
        "import sys; from pathlib import Path; from s3pet_viz.runs import open_run\n"
        "run = open_run(sys.argv[1]); alphas = run.alphas(); part = Path(sys.argv[1]) / 'steps/part-00000.arrow'\n"
        "part.open('r+b').truncate(0); total = float(alphas.sum()); print(total)"
    )
    total = float(open_run(writer.path).alphas().sum())
    made = subprocess.run([sys.executable, "-c", code, str(writer.path)], capture_output=True, text=True, check=True)
    assert float(made.stdout) == total


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", np.nan), ("alpha", np.inf), ("alpha", -np.inf), ("alpha", 1e38), ("alpha", -1e38), ("alpha", 2e12),
     ("p", np.nan), ("p", np.inf), ("p", 1e38), ("p", -0.001), ("p", 1.001)],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_are_named_by_step_and_gate(create, record, name, value):
    writer = create()
    record(writer, range(4))
    writer.close()
    spoil(writer.path, name, 5, value)
    run = open_run(writer.path)
    said = rf"part-00000\.arrow: step 3, gate 5: {name}: expected a number from "
    for read in (run.alphas, run.alpha, run.p, run.ps, run.structure, run.steps, run.gates, run.trace, run._repr_html_,
                 lambda: run.p(budget=30), TailLog(run.path, run.counts).refresh):  # fmt: skip
        with pytest.raises(RunError, match=said):
            read()
    assert run.alpha(2).shape == (7,)  # what is good can be read
    assert repr(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_the_writer_writes_no_such_numbers(create, record, value):
    writer = create()
    record(writer, range(2))
    alpha = np.zeros(7)
    alpha[2] = value
    with pytest.raises(RunError, match="step 2, gate 2: alpha"):
        writer.append(step=2, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=np.full(7, 0.5))
    writer.close()
    assert len(open_run(writer.path).steps()) == 2


# -- names ---------------------------------------------------------------------------------------------------


def test_control_characters_in_an_error_are_escaped(create, record):
    writer = create("\x1b[2J\u202ename\x07")
    record(writer, range(1))
    info = json.loads((writer.path / "run.json").read_text())
    writer.close()
    info["status"] = "\x1b]0;title\x07"
    run = open_run(writer.path)
    with pytest.raises(RunError) as caught:
        run.alpha(7)
    with pytest.raises(TimeoutError) as waited:
        other = RunWriter.attach(writer.path)
        other.set_status("running")
        run.wait(0.01)
    other.close()
    for said in (str(caught.value), str(waited.value)):
        assert said.isprintable()
        assert r"\x1b[2J\u202ename\x07" in said
