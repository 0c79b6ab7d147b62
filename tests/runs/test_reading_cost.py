"""What is read of a long run and of many, and what small files that ask for much cost. Times: benchmarks/speed/reading_cost.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_files
import numpy as np
import pytest
from hostile_files import KINDS, TORCH_KINDS, small_run

from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.listing import Listing
from s3pet_viz.structure import Gate

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes and memory as Linux tells them")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    """10,000 gates x 600 steps, in two parts: 48 MB."""
    path, n_gates = tmp_path_factory.mktemp("long") / "run", 10_000
    gates = [Gate(i, f"e.{i}.q", "encoder", i % 100, "SelfAttn.Q", f"P{i // 100}", 10) for i in range(n_gates)]
    extra = {"backbone": "b", "backbone_params": 10**7, "budget": 1000, "steps_total": 600}
    alpha, p = np.linspace(-1, 1, n_gates), np.full(n_gates, 0.5)

    def write(writer, steps):
        for step in steps:
            writer.append(step=step, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=alpha + step, p=p)

    with RunWriter.create(path, gates=gates, config={"task": "t", "seed": 0}, extra=extra) as writer:
        write(writer, range(400))
    with RunWriter.resume(path, from_step=300) as writer:
        write(writer, range(300, 600))
        writer.set_status("finished")
    return path


def bytes_read() -> int:
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line).split()[1])


#: Rows of 80 kB: a few are read, never the log.
@pytest.mark.parametrize(
    ("read", "most"),
    [
        (repr, 2e6), (lambda run: run._repr_html_(), 2.5e6), (lambda run: run.status, 1e5), (lambda run: run.n_steps, 2e6),
        (lambda run: run.alpha(), 2.5e6), (lambda run: run.p(40), 4e6), (lambda run: run.steps(last=2), 2.5e6),
        (lambda run: run.gates(), 3e6), (lambda run: run.structure(), 2.5e6), (lambda run: Listing(run.path), 2e6),
    ],
)  # fmt: skip
def test_reading_costs_what_is_shown(long_run, read, most):
    run = open_run(long_run)
    before = bytes_read()
    read(run)
    assert bytes_read() - before < most
    assert len(run._log) == 0


def test_the_ends_say_what_the_whole_says(long_run):
    run = open_run(long_run)
    heads = [run.alpha(step) for step in (0, 299, 300, 599, -1)]
    assert (run.n_steps, run.steps(last=3)["step"].tolist()) == (600, [597, 598, 599])
    whole = run.alphas()
    for step, alpha in zip((0, 299, 300, 599, -1), heads, strict=True):
        np.testing.assert_array_equal(whole[step], alpha)
    with pytest.raises(RunError, match=r"step 600 is not recorded; expected one of 0 to 599 \(600 rows\)"):
        run.alpha(600)


def test_a_summary_takes_little_memory(long_run):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from hostile_files import held, peak\n"
        "from s3pet_viz.runs import open_run; import s3pet_viz.runs.listing\n"
        "before = held(); run = open_run(sys.argv[1]); repr(run); run._repr_html_(); run.status\n"
        "print(peak() - before)"
    )
    tests = str(Path(hostile_files.__file__).parent)
    made = subprocess.run([sys.executable, "-c", code, str(long_run), tests], capture_output=True, text=True, check=True)
    assert float(made.stdout) < 50


def test_a_listing_reads_heads_and_opens_what_is_asked_for(tmp_path, monkeypatch):
    for number in range(6):
        small_run(tmp_path / "runs" / str(number), 200)
    (tmp_path / "runs" / "deep" / "er").mkdir(parents=True)
    small_run(tmp_path / "runs" / "deep" / "er" / "run")
    (tmp_path / "runs" / "pipe").mkdir()
    (tmp_path / "runs" / "pipe" / "run.json").symlink_to(tmp_path / "nothing")
    opened = []
    monkeypatch.setattr("s3pet_viz.runs.listing.open_run", lambda path: opened.append(path) or open_run(path))
    before = bytes_read()
    made = Listing(tmp_path / "runs")
    assert bytes_read() - before < 7 * 20_000
    assert not opened
    assert len(made.runs) == 7
    assert len(made.problems) == 1
    first = next(iter(made.runs))
    assert made.runs[first] is made.runs[first]
    assert len(opened) == 1
    with pytest.raises(ConfigError, match="expected a folder of runs"):
        Listing(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def measured():
    """``measured(name, folder)``: what it cost a process of its own; all are forked from one that has torch."""
    command = [sys.executable, hostile_files.__file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:

        def measure(name, folder):
            process.stdin.write(json.dumps([name, str(folder)]) + "\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            assert json.loads(process.stdout.readline()) == 0
            return found

        yield measure
        process.stdin.close()


@pytest.mark.parametrize("name", [*KINDS, *TORCH_KINDS])
def test_a_small_file_that_asks_for_much_is_refused_for_little(measured, tmp_path, name):
    (KINDS | TORCH_KINDS)[name][0](tmp_path)
    found = measured(name, tmp_path)
    assert found["said"] != "accepted"
    assert found["mb"] < 500


def test_what_is_large_and_right_is_accepted(tmp_path):
    """The limits are far above what a search makes."""
    hostile_files._gates(small_run(tmp_path / "grid"), 2500, modules=25, layers=10_000)
    assert len(open_run(tmp_path / "grid").gates_list) == 2500
    run = small_run(tmp_path / "evals")
    (run / "evals.jsonl").write_text("".join(f'{{"step": {i}, "loss": 0.5}}\n' for i in range(20_000)))
    assert len(open_run(run).evals()) == 20_000
