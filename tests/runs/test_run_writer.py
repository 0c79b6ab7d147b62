"""What a run directory holds, and who may write it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s3pet_viz import files
from s3pet_viz.errors import RunError
from s3pet_viz.files import json_ready, write_json_atomic, write_text_atomic
from s3pet_viz.runs import Run, RunWriter, open_run
from s3pet_viz.structure import Structure


def strict(path: Path):
    def refuse(word: str):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_run_json_has_the_documented_fields(create, gates):
    with create():
        pass
    info = strict(create("other").path / "run.json")
    assert info["schema_version"] == 1
    assert info["kind"] == "s3pet_viz.run"
    assert info["config"] == {"task": "glue/rte", "seed": 3}
    assert info["name"] == "other"
    assert info["n_gates"] == len(gates)
    assert set(info["versions"]) == {"python", "s3pet_viz", "numpy", "torch"}
    assert info["status"] == "running"
    assert info["finished"] is None
    assert info["error"] is None
    assert info["started"].endswith("Z")
    assert info["pid"] == os.getpid()
    assert {
        "backbone",
        "backbone_params",
        "budget",
        "tau",
        "device",
        "host",
        "updated",
        "steps_total",
    } <= set(info)


def test_creating_leaves_no_temporaries(create, record):
    writer = create()
    record(writer, range(2))
    names = {str(p.relative_to(writer.path)) for p in writer.path.rglob("*") if p.is_file()}
    assert names == {"run.json", "gates.parquet", "lock", "steps/part-00000.arrow"}
    assert writer.checkpoint_dir == writer.path / "checkpoint"
    assert not writer.checkpoint_dir.exists()


def test_a_folder_with_a_run_is_refused(create):
    create().close()
    with pytest.raises(RunError, match=r"run: already holds a run.*--resume.*--out"):
        create()


def test_a_folder_with_other_files_is_refused_and_untouched(create, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"thesis\.tex.*--out"):
        create()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(create, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="found a file"):
        create()
    (tmp_path / "flat").write_text("")
    with pytest.raises(RunError, match="cannot make"):
        create("flat/inside")


def test_leftovers_of_an_interrupted_creation_and_a_log_are_allowed(create, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("lock", "gates.parquet", "log.txt", ".run.json.1.ab.tmp"):
        (run / name).write_text("")
    create().close()
    assert open_run(run).n_steps == 0


def test_the_writer_keeps_its_own_fields(create):
    with pytest.raises(RunError, match="'status'"):
        create(status="finished")
    with create("b") as writer, pytest.raises(RunError, match="'n_gates'"):
        writer.set_status("running", n_gates=3)


def test_gates_must_be_numbered(tmp_path, gates):
    for wrong in ([], gates[1:], gates[::-1]):
        with pytest.raises(RunError, match="indices"):
            RunWriter.create(tmp_path / "run", gates=wrong, config={})
    assert not (tmp_path / "run").exists()


def test_options_survive(create, gates):
    assert open_run(create().path).gates_list == tuple(gates)


def test_status_and_fields(create):
    with create() as writer:
        started = writer.info["started"]
        writer.set_status("paused", versions={"transformers": "5"}, seconds=3.5)
        info = strict(writer.path / "run.json")
        assert (info["status"], info["finished"], info["seconds"]) == ("paused", None, 3.5)
        assert {"torch", "transformers", "numpy"} <= set(info["versions"])
        writer.set_status("failed", error="loss is NaN at step 3")
        info = strict(writer.path / "run.json")
        assert info["error"] == "loss is NaN at step 3"
        assert info["finished"] >= info["started"] == started
        with pytest.raises(RunError, match="expected running"):
            writer.set_status("asleep")  # type: ignore[arg-type]


def test_an_exception_inside_the_context_is_recorded(create):
    with pytest.raises(ZeroDivisionError), create("a"):
        raise ZeroDivisionError("by zero")
    info = strict(create("b").path.parent / "a" / "run.json")
    assert (info["status"], info["error"]) == ("failed", "ZeroDivisionError: by zero")
    with pytest.raises(KeyboardInterrupt), create("c") as writer:
        raise KeyboardInterrupt
    assert strict(writer.path / "run.json")["status"] == "stopped"


def test_no_json_file_holds_nan(create, gates):
    bad = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": np.float32("nan"), "e": np.arange(2)}
    with create(lowest=math.nan) as writer:
        writer.set_status("running", loss=math.nan)
        writer.write_scores(bad)
        writer.evaluation({"step": 1, **bad})
        writer.write_structure(Structure((gates[0],), "b", 100, 30, source={"loss": math.nan}))
    assert strict(writer.path / "scores.json") == {
        "a": None,
        "b": [None, {"c": None}],
        "d": None,
        "e": [0, 1],
    }
    for name in ("run.json", "structure.json"):
        assert "NaN" not in json.dumps(strict(writer.path / name))
    assert "NaN" not in (writer.path / "evals.jsonl").read_text()
    assert Structure.load(writer.path / "structure.json").keys == {gates[0].key}


def test_json_ready_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="object"):
        json_ready({"x": object()})
    assert json_ready({1: (Path("a"), {3, 2}, True, np.bool_(False))}) == {"1": ["a", [2, 3], True, False]}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_json_atomic(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(tmp_path / "x.json", {"a": object()})

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(tmp_path / "x.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert strict(tmp_path / "x.json") == {"a": 1}


def test_append_checks_its_row(create, record, gates):
    writer = create()
    record(writer, range(2))
    row = {"seconds": 0.0, "zeta": 0.0, "train_loss": 0.0, "val_loss": 0.0, "lr": 0.0}
    good = np.zeros(len(gates))
    with pytest.raises(RunError, match="expected 2 or later, found 1"):
        writer.append(step=1, alpha=good, p=good, **row)
    with pytest.raises(RunError, match=r"alpha: expected shape \(7,\), found \(3,\)"):
        writer.append(step=2, alpha=good[:3], p=good, **row)
    writer.close()
    writer.close()
    with pytest.raises(RunError, match="not open"):
        writer.append(step=2, alpha=good, p=good, **row)
    for call in (
        lambda: writer.set_status("finished"),
        lambda: writer.evaluation({}),
        lambda: writer.write_scores({}),
    ):
        with pytest.raises(RunError, match="closed"):
            call()


def test_a_write_that_fails_midway_is_taken_back(create, record, monkeypatch):
    writer = create()
    record(writer, range(2))
    whole, real = (writer.path / "steps" / "part-00000.arrow").read_bytes(), os.write

    def half(fd: int, data: memoryview) -> int:
        real(fd, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("s3pet_viz.runs.writer.os.write", half)
        with pytest.raises(RunError, match=r"part-00000\.arrow.*No space"):
            record(writer, range(2, 3))
    assert (writer.path / "steps" / "part-00000.arrow").read_bytes() == whole
    record(writer, range(2, 4))
    assert open_run(writer.path).n_steps == 4


def test_the_step_log_is_a_plain_arrow_stream(create, record):
    writer = create()
    record(writer, range(3))
    with pa.OSFile(str(writer.path / "steps" / "part-00000.arrow")) as f:
        table = pa.ipc.open_stream(f).read_all()
    assert table.num_rows == 3
    assert str(table.schema.field("alpha").type).startswith("fixed_size_list<item: float")


def test_a_second_writer_in_this_process_is_refused(create, record):
    writer = create()
    with pytest.raises(RunError, match=f"being written by process {os.getpid()}"):
        RunWriter.resume(writer.path, from_step=0)
    writer.close()
    RunWriter.resume(writer.path, from_step=0).close()


HOLDER = """
import sys, numpy as np
from s3pet_viz.runs import RunWriter
w = RunWriter.resume(sys.argv[1], from_step=0)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_holds_the_lock_until_it_dies(create):
    writer = create()
    path = writer.path
    writer.close()
    assert open_run(path).status == "dead"
    root = Path(files.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        run = Run(path)
        assert run.status == "running"
        with pytest.raises(RunError, match=f"process {process.pid}"):
            RunWriter.attach(path)
        with pytest.raises(RunError, match="already holds a run"):
            create()
        process.kill()
        process.wait()
        assert run.status == "dead"
    with RunWriter.attach(path) as again:
        again.set_status("stopped")
    assert run.status == "stopped"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later
def test_a_forked_worker_does_not_keep_the_lock(create):
    """As data loader workers do, it outlives the writer; here the writer only closes."""
    writer = create()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        assert open_run(writer.path).status == "running"
        writer.close()
        RunWriter.attach(writer.path).close()
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        for end in (*ready, *done):
            os.close(end)


def test_attach_writes_scores_but_no_steps(create, record):
    writer = create()
    record(writer, range(3))
    writer.set_status("finished")
    writer.close()
    with RunWriter.attach(writer.path) as late:
        late.write_scores({"accuracy": 0.5})
        with pytest.raises(RunError, match="not open for steps"):
            record(late, range(3, 4))
    run = open_run(writer.path)
    assert run.scores() == {"accuracy": 0.5}
    assert run.status == "finished"
    assert run.n_steps == 3


def test_importing_runs_loads_neither_plotly_nor_torch():
    code = "import sys, s3pet_viz.viewer.text; print(sorted({'torch', 'plotly'} & set(sys.modules)))"
    root = Path(files.__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"
