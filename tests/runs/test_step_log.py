"""The step log: round trips, torn tails, resumes, damage, following."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s3pet_viz.errors import RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate

floats = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), n_gates=st.integers(1, 5), n_steps=st.integers(0, 6))
def test_rows_round_trip(data, n_gates, n_steps):
    gates = [Gate(i, f"m{i}", "encoder", i, "SelfAttn.Q", "LoRA", 1) for i in range(n_gates)]
    alphas = st.floats(-(2.0**39), 2.0**39, width=32)
    vectors = np.stack([
        data.draw(hnp.arrays(np.float32, (n_steps, n_gates), elements=alphas)),
        data.draw(hnp.arrays(np.float32, (n_steps, n_gates), elements=st.floats(0, 1, width=32))),
    ], axis=1)  # fmt: skip
    scalars = data.draw(hnp.arrays(np.float64, (n_steps, 5), elements=floats))
    with tempfile.TemporaryDirectory() as folder:
        with RunWriter.create(Path(folder) / "r", gates=gates, config={}) as writer:
            for step, (vector, row) in enumerate(zip(vectors, scalars, strict=True)):
                writer.append(
                    step=2 * step, seconds=row[0], zeta=row[1], train_loss=row[2], val_loss=row[3], lr=row[4],
                    alpha=vector[0], p=vector[1],
                )  # fmt: skip
        run = open_run(Path(folder) / "r")
        table = run.steps()
        np.testing.assert_array_equal(run.alphas(), vectors[:, 0])
        np.testing.assert_array_equal(run.ps(), vectors[:, 1])
        assert table["step"].tolist() == [2 * s for s in range(n_steps)]
        np.testing.assert_array_equal(
            table[["seconds", "zeta", "train_loss", "val_loss", "lr"]].to_numpy(float), scalars
        )
        for step in range(n_steps):
            np.testing.assert_array_equal(table["alpha"].iloc[step], vectors[step, 0])


def test_steps_are_seen_while_the_writer_lives(create, record):
    writer = create()
    run = open_run(writer.path)
    assert run.n_steps == 0
    assert len(run.steps()) == 0
    assert run.alphas().shape == (0, 7)
    for step in range(5):
        record(writer, range(step, step + 1))
        assert run.n_steps == step + 1
        assert run.steps(last=1)["step"].tolist() == [step]
        assert run.status == "running"
    assert run.steps(last=3)["step"].tolist() == [2, 3, 4]
    assert run.steps(last=99)["step"].tolist() == [0, 1, 2, 3, 4]
    assert run.steps(last=0).empty


def test_views_are_read_only_cheap_and_stay_as_they_were(create, record):
    writer = create()
    record(writer, range(6))
    run = open_run(writer.path)
    before = run.alphas()
    assert np.shares_memory(before, run.alphas())
    with pytest.raises(ValueError, match="read-only"):
        before[0, 0] = 1
    copy = before.copy()
    writer.close()
    with RunWriter.resume(writer.path, from_step=2) as again:
        record(again, range(2, 40), shift=9)
    assert run.n_steps == 40
    np.testing.assert_array_equal(before, copy)


@pytest.mark.parametrize("follow", [False, True])
def test_a_tail_torn_at_any_byte_is_ignored(create, record, follow):
    """Truncated at every byte of the final message, and completed again."""
    writer = create()
    part = writer.path / "steps" / "part-00000.arrow"
    record(writer, range(3))
    before = part.stat().st_size
    record(writer, range(3, 4))
    whole = part.read_bytes()
    writer.close()
    run = open_run(writer.path)
    part.write_bytes(whole[:before])
    assert run.n_steps == 3
    for size in range(before, len(whole)):
        part.write_bytes(whole[:size])
        assert (run if follow else open_run(writer.path)).n_steps == 3
    part.write_bytes(whole)
    assert run.n_steps == 4


def test_a_tail_torn_in_the_only_row(create, record):
    writer = create()
    part = writer.path / "steps" / "part-00000.arrow"
    schema = part.stat().st_size
    record(writer, range(1))
    whole = part.read_bytes()
    for size in range(schema, len(whole), 5):
        part.write_bytes(whole[:size])
        assert open_run(writer.path).n_steps == 0


def test_zeros_at_the_end_count_as_torn(create, record):
    writer = create()
    record(writer, range(3))
    with (writer.path / "steps" / "part-00000.arrow").open("ab") as f:
        f.write(bytes(5000))
    assert open_run(writer.path).n_steps == 3


def test_a_resume_supersedes_later_rows(create, record):
    writer = create()
    record(writer, range(6))
    writer.evaluation({"step": 2, "accuracy": 0.2})
    writer.evaluation({"step": 5, "accuracy": 0.5})
    writer.close()
    run = open_run(writer.path)
    assert run.n_steps == 6
    with RunWriter.resume(writer.path, from_step=4) as second:
        # Superseded as soon as the part exists, before any row of it.
        assert run.steps()["step"].tolist() == [0, 1, 2, 3]
        assert run.evals()["accuracy"].tolist() == [0.2]
        record(second, range(4, 7), shift=100)
        second.evaluation({"step": 5, "accuracy": 0.9})
    with RunWriter.resume(writer.path, from_step=5) as third:
        record(third, range(5, 6), shift=200)
        with pytest.raises(RunError, match="expected 6 or later"):
            record(third, range(3, 4))
    for reader in (run, open_run(writer.path)):
        assert reader.steps()["step"].tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(reader.alphas()[:, 0], [0, 0, 0, 0, 100, 200])
        assert reader.evals()["accuracy"].tolist() == [0.2]
    assert sorted(p.name for p in (writer.path / "steps").iterdir()) == [
        f"part-{i:05d}.arrow" for i in range(3)
    ]


def test_resume_after_a_torn_row_and_a_torn_evaluation(create, record):
    writer = create()
    record(writer, range(5))
    writer.evaluation({"step": 1, "accuracy": 0.1})
    writer.close()
    part, evals = writer.path / "steps" / "part-00000.arrow", writer.path / "evals.jsonl"
    part.write_bytes(part.read_bytes()[:-9])
    with evals.open("a") as f:
        f.write('{"step": 4, "acc')
    assert open_run(writer.path).evals()["accuracy"].tolist() == [0.1]
    with RunWriter.resume(writer.path, from_step=3) as again:
        record(again, range(3, 5))
        again.evaluation({"step": 4, "accuracy": 0.4})
    run = open_run(writer.path)
    assert run.steps()["step"].tolist() == [0, 1, 2, 3, 4]
    assert run.evals()["accuracy"].tolist() == [0.1, 0.4]


def test_resume_restores_the_status_and_drops_the_old_structure(create, record):
    writer = create()
    record(writer, range(5))
    writer.write_structure(open_run(writer.path).structure())
    writer.set_status("stopped", error="asked to")
    writer.close()
    with RunWriter.resume(writer.path, from_step=5) as again:
        run = open_run(again.path)
        assert (run.status, run.info["error"], run.info["finished"]) == ("running", None, None)
        assert not (again.path / "structure.json").exists()
    with pytest.raises(RunError, match="0 or more"):
        RunWriter.resume(writer.path, from_step=-1)
    with pytest.raises(RunError, match="no such run"):
        RunWriter.resume(writer.path / "nowhere", from_step=0)


def test_damage_in_the_middle_names_file_and_byte(create, record):
    writer = create()
    part = writer.path / "steps" / "part-00000.arrow"
    schema = part.stat().st_size
    record(writer, range(6))
    whole = part.read_bytes()
    size = (len(whole) - schema) // 6
    damaged = bytearray(whole)
    damaged[schema + 2 * size : schema + 2 * size + 40] = b"x" * 40
    part.write_bytes(bytes(damaged))
    with pytest.raises(RunError, match=rf"part-00000\.arrow: damaged at byte {schema + 2 * size}"):
        open_run(writer.path).steps()
    # A length that runs past the end is no torn tail where whole rows would still fit.
    damaged = bytearray(whole)
    damaged[schema + 2 * size + 4 : schema + 2 * size + 8] = (10**6).to_bytes(4, "little")
    part.write_bytes(bytes(damaged))
    with pytest.raises(RunError, match="damaged"):
        open_run(writer.path).steps()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an Arrow stream"),
        (b"hello, this is no Arrow stream at all", "expected an Arrow stream"),
        (pa.schema([("step", pa.int64())]).serialize().to_pybytes(), "not a step log"),
        (
            pa.schema(
                [("step", pa.string())],
                metadata={"kind": "s3pet_viz.steps", "schema_version": "1", "from_step": "0"},
            ).serialize().to_pybytes(),
            "field 'step': expected int64, found string",
        ),
    ],
)  # fmt: skip
def test_a_foreign_part_is_named(create, record, content, message):
    writer = create()
    record(writer, range(2))
    (writer.path / "steps" / "part-00001.arrow").write_bytes(content)
    with pytest.raises(RunError, match=rf"part-00001\.arrow.*{message}"):
        open_run(writer.path).steps()


def test_rows_of_another_run_are_refused(create, record, gates, tmp_path):
    create().close()
    with RunWriter.create(tmp_path / "small", gates=gates[:2], config={}) as other:
        other.append(
            step=0, seconds=0, zeta=0, train_loss=0, val_loss=0, lr=0, alpha=np.zeros(2), p=np.zeros(2)
        )
    part = "steps/part-00000.arrow"
    (tmp_path / "run" / part).write_bytes((tmp_path / "small" / part).read_bytes())
    with pytest.raises(RunError, match="field 'alpha'"):
        open_run(tmp_path / "run").steps()


def test_a_run_made_anew_is_read_anew(create, record, tmp_path):
    writer = create()
    record(writer, range(5))
    run = open_run(writer.path)
    assert run.n_steps == 5
    writer.close()
    for path in sorted(writer.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with create() as again:
        record(again, range(2), shift=7)
        assert run.n_steps == 2
        assert run.alpha(0)[0] == 7
