"""What a search step costs, in multiples of a bare pass and of a plain PET step; memory beside it.

    python benchmarks/speed/step_cost.py --sizes t5-small t5-base --spaces S3PET-M S3PET-L
    python benchmarks/speed/step_cost.py --device cuda --sizes t5-large --batches 8 32 --precisions fp32 bf16

Randomly initialised T5, source length 64, target length 4. Each case runs in a process of its own that builds its model,
takes the warm-up steps and then waits; the counted steps are taken in turns, one case after the other, so that drift of
the machine hits all alike. Cases:

    bare         frozen backbone, forward, and backward to the embeddings
    plain        a PET training step with every gate of the space open: forward, backward, clip, AdamW
    MODE         a whole step of the search in this mode: passes, solver, step log
    fast+every4  fast with H in every fourth step, four times as large; the mean of four steps

Peak memory is of the counted steps: the process's resident set (VmHWM, reset after the warm-up) less what it held before
its model was built, all libraries loaded, or what torch's allocator says on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

BUDGET = "1.389e-4"
SIZES = {
    "tiny": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 256},
    "t5-small-1": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 1, "num_heads": 8},
    "t5-small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_layers": 24, "num_heads": 16},
}
CASES = ("bare", "plain", "fast", "first-order", "single-level", "prune", "paper", "fast+every4")
#: What the part after the + stands for.
EXTRAS = {"every4": {"second_order_every": 4}}
#: Allocator settings: glibc's own, or memory of 64 KiB and more from mmap, which goes back to the system when freed.
MALLOC = {"glibc": {}, "mmap64k": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}}


# -- one case, in its own process ----------------------------------------------------------------------------


class Clock:
    """Seconds spent inside some functions."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.entered = ExitStack()

    def watch(self, owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.spent[label] += time.perf_counter() - began

        setattr(owner, name, timed)


def case(args: argparse.Namespace) -> None:
    import torch
    import transformers  # noqa: F401

    import s3pet_viz.engine.api  # noqa: F401  # every case has the same libraries in memory: pandas is 70 MiB

    torch.set_num_threads(args.threads)
    base = _resident()
    step, info, clock = build(args)
    cuda = args.device == "cuda"
    began = time.perf_counter()
    for _ in range(args.warm):
        step()
    info["warm_seconds"] = time.perf_counter() - began
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    clock.spent.clear()
    print(json.dumps({"ready": True, **info}), flush=True)
    for line in sys.stdin:
        if line.strip() != "step":
            break
        seconds, syncs = timed(step, cuda)
        peak = torch.cuda.max_memory_allocated() if cuda else _resident("VmHWM") - base
        print(json.dumps({"seconds": seconds, "peak": peak, "syncs": syncs, "spent": dict(clock.spent)}), flush=True)
        clock.spent.clear()


def timed(step: Any, cuda: bool) -> tuple[float, int]:
    import torch

    if not cuda:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began, 0
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step()  # apart from the timed one: warnings cost
    torch.cuda.set_sync_debug_mode("default")
    return seconds, sum("synchroniz" in str(w.message) for w in seen)


def build(args: argparse.Namespace) -> tuple[Any, dict[str, Any], Clock]:
    """A step of this case, and what is worth knowing of it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from s3pet_viz.backbones import positions
    from s3pet_viz.pet import candidate_gates, insert, load_space
    from s3pet_viz.pet.dropout import quick_dropout
    from s3pet_viz.structure import parse_budget
    from s3pet_viz.training.device import Device

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**SIZES[args.size], decoder_start_token_id=0)).to(args.device).requires_grad_(False).train()
    device = Device.choose(args.device, args.precision)
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.config.vocab_size

    def batch(half: str, number: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(2, vocabulary, (args.batch, 64), generator=generator)
        labels = torch.randint(2, vocabulary, (args.batch, 4), generator=generator)
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {k: v.to(args.device, non_blocking=True) for k, v in made.items()}

    n_params = sum(p.numel() for p in model.parameters())
    gates, _ = candidate_gates(positions(model), load_space(args.space))
    info: dict[str, Any] = {"backbone_params": n_params, "gates": len(gates)}
    clock = Clock()
    if args.case == "bare":
        embed = model.get_input_embeddings()

        def bare() -> None:
            given = batch("train", 0)
            # Down to what the embeddings give: their weights have no gradient in a PET step either.
            inner = {
                "inputs_embeds": embed(given["input_ids"]).requires_grad_(),
                "decoder_inputs_embeds": embed(model._shift_right(given["labels"])).requires_grad_(),
            }
            with device.autocast():
                loss = model(**inner, attention_mask=given["attention_mask"], labels=given["labels"], use_cache=False).loss
            loss.backward()

        return bare, info, clock
    pets = insert(model, gates)
    pets.fused = not args.unfused
    if not args.unfused:  # as search and tuning do; the bare pass has torch's own
        clock.entered.enter_context(quick_dropout(model))
    info["pet_params"] = sum(g.n_params for g in gates)
    if args.case == "plain":
        weights = [p.requires_grad_() for p in pets.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=3e-4, weight_decay=0.0, fused=True)

        def plain() -> None:
            with device.autocast():
                loss = model(**batch("train", 0), use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 2.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return plain, info, clock
    step = searching(args, model, pets, gates, parse_budget(BUDGET, n_params), n_params, batch, device, clock)
    if args.case.endswith("+every4"):
        info["steps_at_once"] = 4
        return lambda: [step() for _ in range(4)], info, clock
    return step, info, clock


def searching(
    args: Any, model: Any, pets: Any, gates: Any, budget: int, n_params: int, batch: Any, device: Any, clock: Clock
) -> Any:
    """A whole step of a search: as the engine takes it, with its log on disk."""
    from tqdm.auto import tqdm

    from s3pet_viz.config.search import SearchConfig
    from s3pet_viz.engine.api import make_state
    from s3pet_viz.engine.backbone_problem import BackboneProblem
    from s3pet_viz.engine.gates import GateModel, GateSample
    from s3pet_viz.engine.loop import Search
    from s3pet_viz.runs.writer import RunWriter

    mode, _, extra = args.case.partition("+")
    config = SearchConfig(
        task="random tokens", backbone=args.size, budget=BUDGET, space=args.space, mode=mode, steps=10_000,
        batch_size=args.batch, second_order_from=0, device=args.device, precision=args.precision, lr=3e-4,
        **EXTRAS.get(extra, {}),
    )  # fmt: skip
    problem = BackboneProblem(model, pets, batch, autocast=device.autocast)
    state = make_state(problem, [g.n_params for g in gates], budget, config, config.rate(n_params))
    folder = Path(tempfile.mkdtemp()) / "run"
    facts = {"backbone": args.size, "backbone_params": n_params, "budget": budget}
    writer = RunWriter.create(folder, gates=gates, config=config.to_dict(), extra=facts)
    search = Search(config, gates, state, writer, fingerprint={}, progress=False)
    for owner, name in ((GateModel, "sample"), (Search, "_probabilities"), (GateSample, "pull_back")):
        clock.watch(owner, name, "solver and sampling")
    clock.watch(RunWriter, "append", "step log")
    clock.watch(Search, "checkpoint", "checkpoint")
    bar = tqdm(disable=True)
    return lambda: search._one_step(bar)


def _resident(field: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


# -- all cases, in turns -------------------------------------------------------------------------------------


class Worker:
    """A case's process."""

    def __init__(self, args: argparse.Namespace, name: str, checkout: Path | None = None, **fixed: Any) -> None:
        self.name = f"{name}, before" if checkout else name
        script = checkout / "benchmarks" / "speed" / "step_cost.py" if checkout else Path(__file__)
        options = [f"--{k}={v}" for k, v in fixed.items()]
        options += [f"--warm={args.warm}", f"--threads={args.threads}", *(["--unfused"] if args.unfused else [])]
        command = [sys.executable, str(script.resolve()), "case", f"--case={name}", *options]
        environment = {**os.environ, **MALLOC[args.malloc], "OMP_NUM_THREADS": str(args.threads)}
        environment["PYTHONPATH"] = str(script.resolve().parents[2])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.seconds: list[float] = []
        self.last: dict[str, Any] = {}
        self.spent: dict[str, list[float]] = defaultdict(list)
        self.info = self._read()

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.last = self._read()
        each = self.info.get("steps_at_once", 1)
        self.seconds.append(self.last["seconds"] / each)
        for label, seconds in self.last["spent"].items():
            self.spent[label].append(seconds / each)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"case {self.name} ended with status {self.process.wait()}")
        return json.loads(line)


def measure(args: argparse.Namespace, **fixed: Any) -> list[dict[str, Any]]:
    # One after the other: two that build a model at once disturb nobody's counted steps, but may need too much memory.
    workers = [Worker(args, name, **fixed) for name in args.cases]
    if args.against:
        workers += [Worker(args, name, args.against, **fixed) for name in args.cases if name not in ("bare", "plain")]
    for _ in range(args.steps):
        for worker in workers:
            worker.step()
    rows = []
    now = {worker.name: worker.seconds for worker in workers}
    for worker in workers:
        worker.end()
        median = statistics.median(worker.seconds)
        rows.append({
            "case": worker.name, **fixed, **worker.info, "seconds": median, "least": min(worker.seconds),
            "most": max(worker.seconds), "steps": len(worker.seconds), "peak": worker.last["peak"], "syncs": worker.last["syncs"],
            "overhead": {k: statistics.median(v) / median for k, v in worker.spent.items()}, "malloc": args.malloc,
            "threads": args.threads, "fused": not args.unfused,
        })  # fmt: skip
        if worker.name.endswith(", before"):
            mine = now[worker.name.removesuffix(", before")]
            rows[-1]["pairs"] = statistics.median(a / b for a, b in zip(mine, worker.seconds, strict=True))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    by = {r["case"]: r for r in rows}
    first = rows[0]
    print(
        f"\n{first['size']}, {first['space']}, batch {first['batch']}, {first['precision']}, {first['device']}, "
        f"{first['threads']} threads, malloc {first['malloc']}{'' if first['fused'] else ', unfused'}: {first['backbone_params']:,} parameters, {first['gates']} gates\n"
    )
    for row in rows:
        name = row["case"].removesuffix(", before")
        if name != row["case"]:
            print(f"{name} against before, the median of pairs in turn: {row['pairs']:.3f}\n")
    print("| case | seconds a step (least to most) | of bare | of plain | peak MiB | of plain | solver, log | syncs |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        def over(name: str, field: str = "seconds", row: dict[str, Any] = row) -> str:
            return f"{row[field] / by[name][field]:.2f}" if name in by else "–"

        share = f"{100 * sum(row['overhead'].values()):.1f} %" if row["overhead"] else "–"
        print(
            f"| {row['case']} | {row['seconds']:.3f} ({row['least']:.3f} to {row['most']:.3f}) | {over('bare')} | {over('plain')} "
            f"| {row['peak'] / 2**20:,.0f} | {over('plain', 'peak')} | {share} | {row['syncs'] if row['device'] == 'cuda' else '–'} |"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "case"], default="all")
    parser.add_argument("--sizes", nargs="+", default=["t5-small", "t5-base"], choices=list(SIZES))
    parser.add_argument("--spaces", nargs="+", default=["S3PET-M", "S3PET-L"])
    parser.add_argument("--cases", nargs="+", default=[c for c in CASES if c != "single-level"], choices=CASES)
    parser.add_argument("--batches", nargs="+", type=int, default=[8])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--malloc", default="glibc", choices=list(MALLOC))
    parser.add_argument("--unfused", action="store_true", help="the plain forms of the PET modules")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="the modes of another checkout too, in turns")
    parser.add_argument("--out", type=Path, help="append the rows to this JSON lines file")
    one = parser.add_argument_group("one case (used by this script itself)")
    one.add_argument("--case", choices=CASES)
    one.add_argument("--size")
    one.add_argument("--space")
    one.add_argument("--batch", type=int)
    one.add_argument("--precision")
    args = parser.parse_args()
    if args.what == "case":
        case(args)
        return
    for size in args.sizes:
        for space in args.spaces:
            for batch in args.batches:
                for precision in args.precisions:
                    rows = measure(args, size=size, space=space, batch=batch, precision=precision, device=args.device)
                    show(rows)
                    if args.out:
                        with args.out.open("a") as f:
                            f.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
