"""Two processes at one run directory: one writes. Locks of the dead, and of process ids that live again, hold nobody up."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess

import pytest
from reliability_problems import assert_same_result, until_steps

from s3pet_viz.engine import Callback, search
from s3pet_viz.errors import RunError
from s3pet_viz.launcher import Launched
from s3pet_viz.runs import RunWriter, lock, open_run
from s3pet_viz.runs.control import ControlReader, drop_stale_request, write_request
from s3pet_viz.runs.lock import LockHeldError, WriterLock, process_lives, process_mark
from s3pet_viz.structure import Gate

GATES = [Gate(0, "e.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20)]


@pytest.fixture
def gone():
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_a_second_process_is_refused_before_it_loads_anything(server, options, tmp_path):
    folder = tmp_path / "run"
    first = server.start(options={**options, "steps": 100_000, "checkpoint_every": 1000, "out": str(folder)})
    try:
        until_steps(folder, 1)
        who = f"{folder}: this run is being written by process {first} on {re.escape(socket.gethostname())}; stop that one"
        assert server.run(argv=["search", "--resume", str(folder)]) == 2
        assert re.fullmatch(f"error: {who} first.*\n", server.said())
        with pytest.raises(LockHeldError, match=who):
            search(resume=folder)
        with pytest.raises(RunError, match="already holds a run"):
            search(**{**options, "out": folder})
        with pytest.raises(LockHeldError, match=who):
            RunWriter.attach(folder)
        run = open_run(folder)
        assert (run.status, run.info["pid"]) == ("running", first)
        # It goes on as if nobody had asked.
        until_steps(folder, run.n_steps + 2)
    finally:
        os.kill(first, signal.SIGKILL)
        server.end(first)


def test_two_that_resume_at_once(server, options, whole, tmp_path):
    folder = tmp_path / "run"
    fault = {"folder": str(folder), "action": "kill", "at": whole[1].index("write part-00000.arrow") + 9}
    assert server.run(options={**options, "out": str(folder)}, fault=fault) == -9
    both = [server.start(options={"resume": str(folder)}) for _ in range(2)]
    assert sorted(server.end(pid) for pid in both) == [0, 2]
    (said,) = [text for text in (server.said(1), server.said(2)) if "error" in text]
    # The one that lost found the lock held or, where the machine was busy, the run at its end.
    assert "[LockHeldError]" in said or "has already taken all of its 8 steps" in said
    assert_same_result(folder, whole[0])


def test_a_lock_of_the_dead_is_taken_over(tmp_path, gone):
    for pid in (gone, os.getpid()):  # the second as if its id had been given to a living process since
        (tmp_path / "lock").write_text(f"{pid} {socket.gethostname()} 0:1\n")
        held = WriterLock(tmp_path / "lock")
        pid_now, host, mark = (tmp_path / "lock").read_text().split()
        assert (int(pid_now), host, mark) == (os.getpid(), socket.gethostname(), process_mark(os.getpid()))
        held.release()


def test_where_the_file_system_knows_no_locks_the_name_in_it_is_the_lock(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(lock, "_flock", lambda fd, *, exclusive: False)
    path, here = tmp_path / "lock", socket.gethostname()
    first = WriterLock(path)
    assert not first.effective
    with pytest.raises(LockHeldError, match=rf"process {os.getpid()} on {re.escape(here)}; .*if that process is gone, remove"):
        WriterLock(path)
    assert path.read_text().startswith(f"{os.getpid()} ")  # the refused one took nothing away
    first.release()
    assert path.read_text() == ""
    dead = [f"{gone} {here} 0:1", f"{gone} {here} None", f"{os.getpid()} {here} another:boot", f"{gone}", "", "half a na"]
    for text in dead:
        path.write_text(text)
        WriterLock(path).release()
    living = [f"{os.getpid()} {here} {process_mark(os.getpid())}", f"{os.getpid()} {here} None", f"{gone} elsewhere 0:1"]
    for text in living:
        path.write_text(text)
        with pytest.raises(LockHeldError, match="being written by process"):
            WriterLock(path)
        assert path.read_text() == text


def test_a_process_id_that_lives_again_does_not_make_a_run_live(tmp_path, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as other:
        with RunWriter.create(tmp_path / "run", gates=GATES, config={}) as writer:
            assert writer.info["pid_mark"] == process_mark(os.getpid())
        info = {**json.loads((tmp_path / "run" / "run.json").read_text()), "locked": False, "pid": other.pid}
        for mark, status in ((process_mark(other.pid), "running"), (process_mark(os.getpid()), "dead"), (None, "running")):
            (tmp_path / "run" / "run.json").write_text(json.dumps({**info, "pid_mark": mark}))
            assert open_run(tmp_path / "run").status == status
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        mark = process_mark(other.pid)
        assert mark is None  # a zombie is not alive
        assert not process_lives(other.pid, "0:1")
    assert not process_lives(other.pid)
    assert not any(process_lives(pid) for pid in (None, True, "7", 0, -1, 2**70))


def test_a_child_with_the_id_of_the_process_before_has_not_taken_over_yet(tmp_path):
    with RunWriter.create(tmp_path / "run", gates=GATES, config={}) as writer:
        writer.set_status("stopped")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    with subprocess.Popen(["sleep", "60"]) as child:
        run, mark = open_run(path.parent), process_mark(child.pid)
        run._child, run._child_mark = child, mark
        launched = Launched(path.parent, child, own_folder=False)
        for before, taken in (("0:1", False), (None, False), (mark, True)):
            path.write_text(json.dumps({**info, "pid": child.pid, "pid_mark": before}))
            assert run.status == ("stopped" if taken else "starting")
            assert (launched.run is not None) == taken
        child.kill()


def test_what_an_earlier_process_was_asked_is_not_done_by_a_later_one_with_its_id(options, whole, tmp_path):
    """In one kernel every search has the same process id: a stop of the first is not one of the second."""

    class AskedToStop(Callback):
        def on_step_end(self, search, step, result):
            if step == 3:
                open_run(search.writer.path).stop()

    folder = tmp_path / "run"
    assert search(**options, out=folder, callbacks=[AskedToStop()], progress=False).info["stop_reason"] == "asked to stop"
    assert search(resume=folder, progress=False).status == "finished"
    assert_same_result(folder, whole[0])


def test_which_requests_are_stale(tmp_path):
    for asked, before, kept in ((os.getpid(), 1, True), (os.getpid(), os.getpid(), False), (1, 1, False), (1, 2, False)):
        write_request(tmp_path, "stop", asked)
        drop_stale_request(tmp_path, before)
        assert (tmp_path / "control.json").exists() == kept
        assert ControlReader(tmp_path).request() == ("stop" if kept else None)
    (tmp_path / "control.json").write_text("no request")
    drop_stale_request(tmp_path, 1)
    drop_stale_request(tmp_path / "nowhere", 1)
