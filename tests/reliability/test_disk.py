"""A disk that is full, or cannot be written: a clear error, a run that opens, and the same result once there is room."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile

import pytest
from reliability_problems import assert_same_result, finish
from test_kill import KILLS

from s3pet_viz.engine import search
from s3pet_viz.errors import RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.place import DiskError, append_whole, check_place
from s3pet_viz.structure import Gate


def kinds(operations):
    """One number of each kind of operation: that in the middle of all of them."""
    found = {}
    for number, name in enumerate(operations, 1):
        found.setdefault(re.sub(r"\.\d+\.[0-9a-f]+\.tmp$", "", name), []).append(number)
    return {kind: numbers[len(numbers) // 2] for kind, numbers in found.items()}


def said_well(text, folder):
    """One line that names the file, the reason and what to do."""
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: [DiskError] {folder}/")
    assert "No space left on device" in line
    assert "make room on that disk" in line
    assert "Traceback" not in text
    return line


@pytest.mark.slow
@pytest.mark.parametrize("action", ["full", "once"])
def test_no_space_at_any_operation(server, options, whole, tmp_path, action):
    points = kinds(whole[1])
    assert {"write evals.jsonl", "replace state.safetensors", "write part-00000.arrow", "write .structure.json"} <= set(points)
    if KILLS < 30:
        wanted = ("write", "fsync .state") if action == "full" else ("replace", "fsync part")
        points = {kind: number for kind, number in points.items() if kind.startswith(wanted)}
    # Those need no room, or are a courtesy.
    points = {kind: at for kind, at in points.items() if not kind.startswith(("unlink", "ftruncate", "pwrite"))}
    for kind, number in points.items():
        folder = tmp_path / f"{number}" / "run"
        fault = {"folder": str(folder), "action": action, "at": number}
        assert server.run(options={**options, "out": str(folder)}, fault=fault) == 2, (kind, server.said())
        line = said_well(server.said(), folder)
        if (folder / "run.json").exists():
            run = open_run(folder)
            assert run.status in ("failed", "dead"), kind
            assert len(run.steps()) == run.n_steps
            assert len(run.evals()) <= run.n_steps
            if run.status == "failed":
                assert "No space left on device" in run.error
        if folder.exists() and "state.safetensors" in kind:
            assert "--resume" in line
        finish(server, folder, options)
        assert_same_result(folder, whole[0])
    print(f"\nENOSPC ({action}) at {len(points)} kinds of operations: {', '.join(points)}")


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(bytes)``: a file system of that size; again: resized."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here ({done.stderr.strip() or 'not root?'})")

    mounted = []

    def make(options):
        mount(options if not mounted else f"remount,{options}")
        mounted.append(options)
        return place

    try:
        yield make
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("share", [0.4, 0.97])
def test_a_disk_that_fills_up(server, options, whole, small_disk, share):
    used = sum(p.stat().st_blocks * 512 for p in whole[0].rglob("*"))
    folder = small_disk(f"size={int(share * used) // 4096 * 4}k") / "run"
    assert server.run(options={**options, "out": str(folder)}) == 2, server.said()
    said_well(server.said(), folder)
    run = open_run(folder)
    assert run.status in ("failed", "dead")
    assert len(run.steps()) == run.n_steps
    # Still full: refused at once, and nothing is lost.
    filler = folder.parent / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert server.run(options={"resume": str(folder)}) == 2
    said_well(server.said(), folder.parent)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    small_disk("size=16m")
    assert server.run(options={"resume": str(folder)}) == 0, server.said()
    assert_same_result(folder, whole[0])


def test_a_read_only_disk_is_said_before_anything_is_loaded(server, small_disk):
    place = small_disk("size=1m")
    (place / "here").mkdir()
    small_disk("ro")
    for out in (place / "run", place / "here" / "deep" / "run", place / "here"):
        # Neither the backbone nor the task exists: had it come to loading them, that would be the error.
        with pytest.raises(DiskError, match=r"Read-only file system\); make that folder writable, or use another --out"):
            search(task="nowhere-task", backbone="/nowhere", budget=600, out=out)
    argv = ["search", "--task", "nowhere-task", "--budget", "600", "--out", str(place / "run")]
    assert server.run(argv=argv) == 2
    assert re.fullmatch(rf"error: {place}: cannot be written, so {place}/run cannot be made \(Read-only.*\n", server.said())
    assert [p.name for p in place.iterdir()] == ["here"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    """Whatever the mode bits say; root ignores them."""
    (tmp_path / "there").mkdir()
    with RunWriter.create(tmp_path / "run", gates=[Gate(0, "e.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20)],
                          config={"task": "nowhere-task", "backbone": "/nowhere", "budget": 20}):  # fmt: skip
        pass

    def refuse(*, dir, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.chdir(tmp_path)
    for out in ({"out": tmp_path / "there"}, {"out": tmp_path / "new" / "run"}, {}):
        with pytest.raises(DiskError, match="Permission denied"):
            search(task="nowhere-task", backbone="/nowhere", budget=600, **out)
    with pytest.raises(DiskError, match=r"run: cannot be written \(Permission denied\).*--resume"):
        search(resume=tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "there"]


def test_what_is_in_the_way_is_said_before_anything_is_loaded(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="found a file"):
        search(task="nowhere-task", backbone="/nowhere", budget=600, out=tmp_path / "file")
    with pytest.raises(DiskError, match="Not a directory"):
        check_place(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="not a run"):
        check_place(tmp_path)


def test_an_append_that_fails_is_taken_back(tmp_path, monkeypatch):
    path, real = tmp_path / "log", os.write
    path.write_bytes(b"old")
    left = [4]

    def write(fd, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 2
        return real(fd, data[:2])

    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space"):
                append_whole(fd, b"123456")
            assert path.read_bytes() == b"old"
            left[0] = 8
            append_whole(fd, b"123456")
        assert path.read_bytes() == b"old123456"
    finally:
        os.close(fd)
