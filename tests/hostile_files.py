"""Small files that could cost much: each is refused at once.

Run as a script, it measures one in a process of its own; without arguments, each that stdin names, in a fork of a process
that has imported all readers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s3pet_viz.runs import RunWriter, layout
from s3pet_viz.structure import Gate


def small_run(folder: Path, n_gates: int = 4) -> Path:
    """A run of two steps."""
    gates = [Gate(i, f"e.{i}.q", "encoder", i % 100, "SelfAttn.Q", f"P{i // 100}", 10) for i in range(n_gates)]
    extra = {"backbone": "b", "backbone_params": 1000, "budget": 20, "steps_total": 2}
    with RunWriter.create(folder, gates=gates, config={"task": "t", "seed": 0}, extra=extra) as writer:
        for step in range(2):
            writer.append(step=step, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=np.zeros(n_gates),
                          p=np.full(n_gates, 0.5))  # fmt: skip
        writer.set_status("finished")
    return folder


def spoil(run: Path, name: str, gate: int, value: float) -> None:
    """Write a number into the last row of the step log, as no writer of ours would."""
    part = layout.part_paths(run)[-1]
    n_gates = json.loads((run / layout.RUN_JSON).read_text())["n_gates"]
    size = -(-4 * n_gates // 8) * 8  # of a vector, as Arrow pads it
    data = bytearray(part.read_bytes())
    at = len(data) - (size if name == "p" else 2 * size) + 4 * gate
    data[at : at + 4] = np.float32(value).tobytes()
    part.write_bytes(data)


def _gates(folder: Path, rows: int = 4, *, claimed: int | None = None, text: str = "{}", more: int = 0,
           packed: str = "snappy", modules: int = 1, layers: int = 1) -> None:  # fmt: skip
    """Another gates.parquet in a run; `claimed` gates in run.json."""
    index = pa.array(np.arange(rows))
    columns = {
        "index": index,
        "position": pa.array([f"e.{i}" for i in range(rows)]) if rows < 10**5 else _same("e", rows),
        "stack": _same("encoder", rows),
        "layer": pa.array(np.arange(rows) % layers),
        "module": pa.array([f"M{i % modules}" for i in range(rows)]) if modules > 1 else _same("M", rows),
        "pet_type": _same("LoRA", rows),
        "n_params": pa.array(np.ones(rows, np.int64)),
        "options": _same(text, rows),
        **{f"more{i}": _same("x", rows) for i in range(more)},
    }
    pq.write_table(pa.table(columns), folder / layout.GATES, compression=packed, store_schema=False)
    info = json.loads((folder / layout.RUN_JSON).read_text())
    (folder / layout.RUN_JSON).write_text(json.dumps({**info, "n_gates": claimed or rows}))


def _same(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def _packed_part(folder: Path) -> None:
    """A step log whose rows are compressed: 1 kB a row that stands for 8 MB."""
    n_gates = 40_000
    _gates(folder, n_gates)
    schema = layout.steps_schema(n_gates, 0)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(n_gates, np.float32)), type=schema.field("alpha").type)
    scalars = [pa.array([1.0])] * 5
    sink = pa.BufferOutputStream()
    sink.write(schema.serialize())
    for step in range(3000):
        batch = pa.RecordBatch.from_arrays([pa.array([step]), *scalars, vector, vector], schema=schema)
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch)
        data = stream.getvalue().to_pybytes()
        reader = pa.BufferReader(data)
        pa.ipc.read_schema(reader)
        sink.write(data[reader.tell() : -8])
    (folder / "steps" / "part-00000.arrow").write_bytes(sink.getvalue().to_pybytes())


def _structure(gates: int = 1, *, modules: int = 1, layers: int = 1) -> str:
    made = [Gate(i, f"e.{i}", "encoder", i % layers, f"M{i % modules}", "LoRA", 1).to_dict() for i in range(gates)]
    return json.dumps({"schema_version": 1, "kind": "s3pet_viz.structure", "backbone": "", "backbone_params": 0,
                       "budget": None, "n_params": gates, "source": {}, "gates": made})  # fmt: skip


_LISTS = '{"kind": "s3pet_viz.structure", "schema_version": 1, "gates": [' + ",".join(["[]"] * 9_000_000) + "]}"
_RULE = "=" * 40
_ALPHA = "|encoder.block.{}.layer.0.SelfAttention.q|parallel|lora|0.0019531|0.1|0.5"

#: Name -> (makes it in an empty folder, opens it).
KINDS = {
    "gates: rows": (lambda f: _gates(small_run(f / "r"), 5_000_000), "runs.open_run(f / 'r')"),
    "gates: rows beyond run.json": (lambda f: _gates(small_run(f / "r"), 3_000_000, claimed=4), "runs.open_run(f / 'r')"),
    "gates: a long text in every row": (lambda f: _gates(small_run(f / "r"), 10_000, text="x" * 1_000_000),
                                        "runs.open_run(f / 'r')"),
    "gates: packed a thousand to one": (lambda f: _gates(small_run(f / "r"), 4, text=" " * 200_000_000, packed="zstd"),
                                        "runs.open_run(f / 'r')"),
    "gates: columns": (lambda f: _gates(small_run(f / "r"), 4, more=8000), "runs.open_run(f / 'r')"),
    "gates: grid": (lambda f: _gates(small_run(f / "r"), 4000, modules=4000, layers=10_000), "runs.open_run(f / 'r')"),
    "evals: a name a line": (lambda f: _lines(f, (f'{{"k{i}": 1}}' for i in range(20_000))),
                             "runs.open_run(f / 'r').evals()"),
    "evals: names in one line": (lambda f: _lines(f, [json.dumps({f"k{i}": 1 for i in range(200_000)})]),
                                 "runs.open_run(f / 'r').evals()"),
    "evals: lines": (lambda f: _lines(f, ["{}"] * 8_000_000), "runs.open_run(f / 'r').evals()"),
    "evals: bytes": (lambda f: _lines(f, [" " * 1000] * 60_000), "runs.open_run(f / 'r').evals()"),
    "steps: packed": (lambda f: _packed_part(small_run(f / "r")), "runs.open_run(f / 'r').steps()"),
    "run.json: lists": (lambda f: (small_run(f / "r") / "run.json").write_text(_LISTS), "runs.open_run(f / 'r')"),
    "scores.json: lists": (lambda f: (small_run(f / "r") / "scores.json").write_text(_LISTS),
                           "runs.open_run(f / 'r').scores()"),
    "explain.json: lists": (lambda f: (small_run(f / "r") / "explain.json").write_text(_LISTS),
                            "explanation.Explanation.load(f / 'r')"),
    "structure: lists": (lambda f: (f / "s.json").write_text(_LISTS), "structure.Structure.load(f / 's.json')"),
    "structure: gates": (lambda f: (f / "s.json").write_text(_structure(60_000)),
                         "structure.Structure.load(f / 's.json')"),
    "structure: grid": (lambda f: (f / "s.json").write_text(_structure(4000, modules=4000, layers=10_000)),
                        "structure.Structure.load(f / 's.json')"),
    "structure: one key twice": (lambda f: (f / "s.json").write_text(
        "{" + ",".join(f'"{i}": 1' for i in range(600_000)) + ', "0": 1}'), "structure.Structure.load(f / 's.json')"),
    "S3Delta: objects": (lambda f: (f / "s.json").write_text(
        json.dumps([{"SelfAttention.q": {"parallel": {"lora": {"lora_r": 1}}}}] * 50_000)),
        "structure.from_s3delta(f / 's.json', backbone='t5-11b')"),
    "S3Delta: lists": (lambda f: (f / "s.json").write_text(_LISTS), "structure.from_s3delta(f / 's.json')"),
    "final_alphas: rows": (lambda f: (f / "a.txt").write_text(
        "\n".join([_RULE, *(_ALPHA.format(i) for i in range(180_000)), _RULE])),
        "structure.read_final_alphas(f / 'a.txt')"),
    "final_alphas: lines": (lambda f: (f / "a.txt").write_text("\n" * 16_000_000),
                            "structure.read_final_alphas(f / 'a.txt')"),
    "study.json: lists": (lambda f: (f / "study.json").write_text(_LISTS), "analysis.open_study(f)"),
}  # fmt: skip
#: Those whose readers need torch, which has a large process of its own.
TORCH_KINDS = {
    "space: YAML": (lambda f: (f / "s.yaml").write_text(
        "gates:\n" + "- {type: LoRA, modules: [x], positions: [y]}\n" * 20_000),
                    "pet.load_space(f / 's.yaml')"),
    "space: lists": (lambda f: (f / "s.json").write_text(_LISTS), "pet.load_space(f / 's.json')"),
    "adapter.json: lists": (lambda f: [(f / n).write_text(_LISTS[:15_000_000] + "]}") for n in
                            ("adapter.json", "structure.json", "adapter.safetensors")],
                            "export.Adapter.from_pretrained(f)"),
    "task.json: lists": (lambda f: (f / "task.json").write_text(_LISTS), "tasks.load_task(f, form='text')"),
}  # fmt: skip


def _lines(folder: Path, lines: object) -> None:
    (small_run(folder / "r") / layout.EVALS).write_text("\n".join(lines) + "\n")  # type: ignore[arg-type]


def readers(torch: bool) -> dict[str, object]:
    """What the calls above name."""
    from s3pet_viz import analysis, runs, structure
    from s3pet_viz.analysis import explanation

    known = {"runs": runs, "structure": structure, "analysis": analysis, "explanation": explanation}
    if torch:
        from s3pet_viz import export, pet, tasks

        known |= {"export": export, "pet": pet, "tasks": tasks}
    return known


def measure(name: str, folder: Path) -> dict[str, object]:
    """Open it in this process: seconds, peak memory above what the process had before (MB), and what was said."""
    from s3pet_viz.errors import S3PETError

    known = readers(torch=name in TORCH_KINDS) | {"f": folder}
    before = held()
    began, said = time.perf_counter(), "accepted"
    try:
        eval((KINDS | TORCH_KINDS)[name][1], known)
    except S3PETError as error:
        said = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "mb": peak() - before, "said": said}


def serve() -> None:
    """A line of JSON, name and folder, in; a line of JSON out, and then another: the exit status, 0 where all went well."""
    readers(torch=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(300)  # s; it ends by that signal
            name, folder = json.loads(line)
            print(json.dumps(measure(name, Path(folder))), flush=True)
            os._exit(0)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)


def held() -> float:
    """Memory of this process now, in MB; `peak` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """The most memory that this process has held, in MB. Not `ru_maxrss`, which begins with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        serve()
