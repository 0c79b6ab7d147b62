"""The clock of the day jumps, during a search and between two: nothing but the dates in run.json follows it."""

from __future__ import annotations

import datetime
import os
import time
from types import SimpleNamespace

import pytest
from reliability_problems import assert_same_result, until_steps

from s3pet_viz import health
from s3pet_viz.engine import Callback, search
from s3pet_viz.reports import report
from s3pet_viz.runs import open_run
from s3pet_viz.runs.naming import new_folder
from s3pet_viz.studies.worker import execute

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch):
    """``clock.shift``: seconds that the clock of the day is wrong by, everywhere in this process."""
    clock, real = SimpleNamespace(shift=0.0), time.time

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(time.time(), tz)

    monkeypatch.setattr(time, "time", lambda: real() + clock.shift)
    monkeypatch.setattr("s3pet_viz.runs.writer.dt", SimpleNamespace(datetime=Shifted, UTC=datetime.UTC))
    return clock


class Jump(Callback):
    """Half a day forward, then a day back, at every second step; also of the files' dates."""

    def __init__(self, clock, stop=None):
        self.clock, self.stop, self.seen = clock, stop, []

    def on_step_end(self, search, step, result):
        self.clock.shift += 12 * HOUR if step % 4 == 0 else -24 * HOUR if step % 4 == 2 else 0
        for path in search.writer.path.rglob("*"):
            os.utime(path, (time.time(), time.time()))
        run = open_run(search.writer.path)
        self.seen.append((run.status, run.seconds_left))
        if step == self.stop:
            search.request_stop("enough")


def test_jumps_during_a_search_and_between_two(clock, options, whole, tmp_path):
    folder = tmp_path / "run"
    jump = Jump(clock, stop=3)
    began = time.monotonic()
    assert search(**options, out=folder, callbacks=[jump], progress=False).status == "stopped"
    clock.shift = -400 * 24 * HOUR
    again = Jump(clock)
    run = search(resume=folder, callbacks=[again], progress=False)
    assert_same_result(folder, whole[0])
    assert run.info["finished"] < run.info["started"]  # the clock said so; nothing computes with it
    assert all(status == "running" and 0 <= left < 60 for status, left in (*jump.seen, *again.seen[:-1]))
    assert 0 < run.steps()["seconds"].sum() < time.monotonic() - began
    health(run)
    assert run.name in report(run, tmp_path / "report.html").read_text()


def test_dates_of_files_say_nothing_of_who_lives(server, options, tmp_path):
    folder = tmp_path / "run"
    pid = server.start(options={**options, "steps": 100_000, "out": str(folder)})
    run = until_steps(folder, 1)
    for shift in (-1000 * HOUR, 1000 * HOUR):
        for path in folder.rglob("*"):
            if not path.name.endswith(".tmp"):
                os.utime(path, (time.time() + shift,) * 2)
        assert (run.status, open_run(folder).status) == ("running", "running")
    os.kill(pid, 9)
    server.end(pid)
    assert (run.status, open_run(folder).status) == ("dead", "dead")


def test_folders_made_in_the_same_second_of_two_different_hours(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    made = {new_folder("rte", "tiny-t5", "0.2%", "fast", 0) for _ in range(3)}
    assert len(made) == 3


def test_a_cell_of_a_study_takes_no_negative_time(monkeypatch, tmp_path):
    now = [1e9]

    def back():
        now[0] -= HOUR
        return now[0]

    (tmp_path / "cells").mkdir()
    monkeypatch.setattr(time, "time", back)
    result = execute(str(tmp_path), {"key": "k", "kind": "tune", "what": {}})
    assert result["status"] == "failed"
    assert 0 <= result["seconds"] < HOUR / 2
