"""The trackers that accelerate knows, as they are: one that is there logs, one that is not says what to install."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
from pathlib import Path

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from reliability_problems import assert_same_result
from test_tracking import expected

from s3pet_viz.engine.tracking import tracker_names
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import open_run

#: Of the processes here: nothing is sent anywhere.
OFFLINE = {"WANDB_MODE": "offline", "COMET_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

EACH = """
import sys, warnings
import s3pet_viz as s3
for name in sys.argv[2:]:
    try:
        run = s3.search(**{options!r}, out=f"{{sys.argv[1]}}/{{name}}/run", track=name, progress=False)
        print(">", name, run.status, flush=True)
    except s3.errors.S3PETError as error:
        print(">", name, type(error).__name__, error, flush=True)
"""

TWICE = """
import sys
import s3pet_viz as s3
name, folder = sys.argv[1:]

class Kill(s3.Callback):
    def on_step_end(self, search, step, result):
        if step == 4:
            raise MemoryError

mine = __import__(name).init(project="mine", name="mine", **({{"mode": "offline", "dir": folder}} if name == "wandb" else {{}}))
try:
    s3.search(**{options!r}, out=folder + "/run", track=name, callbacks=[Kill()], progress=False)
except MemoryError:
    pass
s3.search(resume=folder + "/run", progress=False)
mine.log({{"still": 1.0}})
mine.finish()
"""


def script(server, text, options, *words, **environment):
    """Run in a process in which nobody has set up accelerate; what it printed."""
    order = {"script": text.format(options=options), "argv": [*map(str, words)], "environment": {**OFFLINE, **environment}}
    assert server.run(**order) == 0, server.said()
    return server.said()


def test_each_name_logs_or_says_what_to_install(server, options, tmp_path):
    names = sorted(LOGGER_TYPE_TO_CLASS)
    said = script(server, EACH, {**options, "steps": 1}, tmp_path, *names, TRACKIO_DIR=str(tmp_path / "trackio"))
    found = dict(line[2:].split(" ", 1) for line in said.splitlines() if line.startswith("> "))
    assert found.keys() == set(names)
    packages = {"tensorboard": r'"s3pet_viz[tracking]"', "comet_ml": "comet-ml"}
    for name, line in found.items():
        if importlib.util.find_spec(name) is None:
            assert line == f"MissingExtraError track: {name} is not installed: pip install {packages.get(name, name)}"
            assert not (tmp_path / name).exists()
        elif name in ("tensorboard", "wandb", "trackio"):
            assert line == "finished"
        else:  # it may ask for an account
            assert line == "finished" or line.startswith(f"ConfigError track: {name} cannot begin")


def told(rows):
    """{tag: {step: value}} of (step, values); where a step was taken again, the later one."""
    made = {}
    for step, values in rows:
        for tag, value in values.items():
            made.setdefault(tag, {})[step] = value
    return made


def assert_told(rows, run):
    wanted, found = expected(run), told(rows)
    assert found.keys() == wanted.keys()
    for tag in wanted:
        assert found[tag] == pytest.approx(wanted[tag], rel=1e-6), tag


def wandb_records(path):
    """The records of a file that wandb kept offline: LevelDB's log format, protocol buffers inside."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, last
            yield Record.FromString(whole)
            whole = b""


def test_wandb_offline(server, options, whole, tmp_path):
    pytest.importorskip("wandb", reason="needs wandb (extra [dev])")
    script(server, TWICE, options, "wandb", tmp_path)
    run = open_run(tmp_path / "run")
    assert_same_result(run.path, whole[0])
    files = sorted((run.path / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
    rows, ids, config, kept = [], set(), {}, set()
    for path in files:
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "artifact":
                kept |= {Path(c.path).name for c in record.artifact.manifest.contents}
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                rows.append((record.history.step.num, {k: v for k, v in items.items() if not k.startswith("_")}))
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                config |= {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in record.run.config.update}
    assert len(files) == 2  # one a process of the search
    assert kept == {"structure.json", "heatmap.svg"}
    assert len(ids) == 1
    assert {name: config[name] for name in ("steps", "mode", "budget")} == {"steps": 8, "mode": "fast", "budget": 600}
    assert_told(rows, run)
    (mine,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    kept = [r.history for r in wandb_records(mine) if r.WhichOneof("record_type") == "history"]
    assert [[("/".join(i.nested_key) or i.key) for i in h.item if not (i.key or i.nested_key[0]).startswith("_")] for h in kept] == [["still"]]


def test_trackio(server, options, whole, tmp_path):
    script(server, TWICE, options, "trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    run = open_run(tmp_path / "run")
    assert_same_result(run.path, whole[0])
    with sqlite3.connect(tmp_path / "trackio" / "s3pet_viz.db") as database:
        rows = list(database.execute("select run_name, step, metrics from metrics order by id"))
        configs = {name: json.loads(text) for name, text in database.execute("select run_name, config from configs")}
    (name,) = {name for name, _, _ in rows}
    assert name.startswith("run-")
    blobs = {p.read_bytes() for p in (tmp_path / "trackio" / "artifacts").rglob("*") if p.is_file()}
    assert blobs == {p.read_bytes() for p in (run.path / "structure.json", run.path / "tracking" / "heatmap.svg")}
    assert (configs[name]["steps"], configs[name]["mode"]) == (8, "fast")
    assert_told([(step, json.loads(text)) for _, step, text in rows], run)
    with sqlite3.connect(tmp_path / "trackio" / "mine.db") as database:
        assert [json.loads(text) for (text,) in database.execute("select metrics from metrics")] == [{"still": 1.0}]


@pytest.mark.parametrize("track", [3, True, {"tensorboard": 1}, [["tensorboard"]], LOGGER_TYPE_TO_CLASS["tensorboard"], ""])
def test_what_is_no_tracker(track):
    with pytest.raises(ConfigError, match="track: expected one of aim, .*, or none, found "):
        tracker_names(track)
