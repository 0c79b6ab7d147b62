"""What a reader asks of a search, and what it learns of the search's process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from s3pet_viz.errors import RunError
from s3pet_viz.runs import open_run
from s3pet_viz.runs.control import ControlReader, write_request
from s3pet_viz.runs.process import log_tail, spawn


def test_a_request_is_read_by_the_process_that_is_asked(tmp_path):
    reader = ControlReader(tmp_path)
    assert reader.request() is None
    for request in ("pause", "resume", "stop"):
        write_request(tmp_path, request, os.getpid())
        assert reader.request() == request
        assert reader.request() == request  # until another is made
    write_request(tmp_path, "stop", os.getpid() + 1)
    assert reader.request() is None
    (tmp_path / "control.json").unlink()
    assert reader.request() is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"request": "stop"}', '{"kind": "s3pet_viz.control", "request": "dance"}'])
def test_a_foreign_control_file_is_ignored_with_one_warning(tmp_path, text):
    (tmp_path / "control.json").write_text(text)
    reader = ControlReader(tmp_path)
    with pytest.warns(UserWarning, match="control.json: not a request"):
        assert reader.request() is None
    assert reader.request() is None  # said once


def test_requests_of_a_running_and_of_an_ended_run(create):
    with create() as writer:
        run = open_run(writer.path)
        reader = ControlReader(writer.path)
        assert not run.ended
        for request in ("pause", "resume", "stop"):
            getattr(run, request)()
            assert reader.request() == request
        writer.set_status("finished")
        for request in ("pause", "stop", "resume"):
            with pytest.raises(RunError, match="finished"):
                getattr(run, request)()
    assert run.ended


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("s3pet_viz.runs.control.write_json_atomic", refuse)
    with pytest.raises(RunError, match="control.json: cannot be written .Read-only"):
        write_request(tmp_path, "stop", 1)


def waits(run, *args, **options):
    return run.wait(*args, **options)


def awaits(run, *args, **options):
    return asyncio.run(run.finished(*args, **options))


@pytest.mark.parametrize("until_ended", [waits, awaits])
def test_wait_returns_at_the_end_or_says_that_it_takes_longer(create, record, until_ended):
    writer = create()
    run = open_run(writer.path)
    with pytest.raises(TimeoutError, match="still running after 0.2 s"):
        until_ended(run, 0.2)

    def finish():
        record(writer, range(3))
        writer.set_status("finished")
        writer.close()

    thread = threading.Thread(target=finish)
    thread.start()
    assert until_ended(run, 120, progress=True) is run
    thread.join()
    assert (run.status, run.n_steps) == ("finished", 3)


def test_others_run_while_finished_waits(create, record):
    """As the messages of widgets do on ipykernel: the search ends here only because another task of the loop ends it."""
    writer = create()
    run = open_run(writer.path)

    async def click_stop():
        record(writer, range(2))
        writer.set_status("stopped")
        writer.close()

    async def cell():
        waiting = asyncio.create_task(run.finished(120))
        await asyncio.sleep(0)  # it waits before the click comes
        assert not waiting.done()
        await click_stop()
        return await waiting

    assert asyncio.run(cell()) is run
    assert (run.status, run.n_steps) == ("stopped", 2)


def test_finished_can_be_interrupted(create):
    run = open_run(create().path)

    async def cell():
        await asyncio.wait_for(run.finished(), 0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(cell())
    assert run.status == "running"


def test_seconds_left(create, record):
    with create() as writer:
        run = open_run(writer.path)
        assert run.seconds_left is None
        record(writer, range(4))  # step k took k / 2 s
        assert run.seconds_left == pytest.approx(6 * (0 + 0.5 + 1 + 1.5) / 4)
        writer.set_status("stopped")
    assert run.seconds_left is None


def test_errors_of_failed_and_dead_runs(create):
    with pytest.raises(ValueError, match="boom"), create("failed") as writer:
        raise ValueError("boom")
    assert open_run(writer.path).error == "ValueError: boom"

    writer = create("dead")
    run = open_run(writer.path)
    assert run.error is None
    (run.path / "log.txt").write_text("--- s3pet search then\nold\n--- s3pet search now\nbar 1\rbar 2\nMemoryError: all gone\n")
    writer.close()  # the lock goes, and the status stays 'running': as after a SIGKILL
    assert run.status == "dead"
    assert run.ended
    assert run.error == f"process {os.getpid()} is gone without having ended the run (killed?)\nbar 2\nMemoryError: all gone"
    assert "MemoryError: all gone" in run._repr_html_()
    with pytest.raises(RunError, match="the search is dead; it cannot be asked to pause"):
        run.pause()


def test_log_tail_of_nothing_and_of_much(tmp_path):
    log = tmp_path / "log.txt"
    assert log_tail(log) == ""
    log.write_bytes(b"\xff" + b"x" * 100_000 + b"\nend\n")
    assert log_tail(log).endswith("x\nend")
    assert len(log_tail(log)) <= 2000


def test_a_spawned_process_logs_and_outlives_ctrl_c(tmp_path):
    log = tmp_path / "log.txt"
    child = spawn(["--version"], log)
    assert os.getsid(child.pid) != os.getsid(0)
    assert child.wait(180) == 0
    assert log_tail(log).startswith("s3pet_viz ")
    assert "--- s3pet --version" in log.read_text()


KILLED = """
import sys, time
from s3pet_viz.runs import RunWriter
from s3pet_viz.structure import Gate
writer = RunWriter.create(sys.argv[1], gates=[Gate(0, "a.q", "encoder", 0, "SelfAttn.Q", "LoRA", 8)], config={})
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_is_seen_as_dead_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run")], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"ready\n"
        run = open_run(tmp_path / "run")
        assert run.status == "running"
        child.kill()
        child.wait()
        began = time.monotonic()
        while run.status != "dead":
            assert time.monotonic() - began < 120
            time.sleep(0.01)
        assert f"process {child.pid} is gone" in run.error


def test_a_run_that_cannot_be_resumed_says_why(create, forked_launches):
    writer = create()
    writer.close()
    (writer.path / "checkpoint").mkdir()
    run = open_run(writer.path)
    run.resume()
    assert run.status == "starting"
    assert run.error is None or "killed" in run.error
    assert run.wait(180).status == "dead"
    assert "it could not be resumed" in run.error
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"
