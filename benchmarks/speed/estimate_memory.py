"""`s3pet search --dry-run` against a search: the bytes that are foretold, and those that a process takes.

    python benchmarks/speed/estimate_memory.py

Random models of t5-small's size and of a small causal one (Qwen 2's kind: 8 layers of width 512), an embedded task, fast
mode. Each search runs in a process of its own, on the CPU, with glibc told to give freed memory back
(MALLOC_MMAP_THRESHOLD_); measured is the peak of its resident memory above what it was before the backbone was loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("t5", {}),
    ("t5", {"batch_size": 8}),
    ("causal", {}),
)


def save(kind: str, folder: Path) -> None:
    """A random model with tiny-t5's tokenizer."""
    import torch
    import transformers as hf

    from s3pet_viz.resources import find_resource

    tokenizer = hf.AutoTokenizer.from_pretrained(str(find_resource("backbones", "tiny-t5")))
    torch.manual_seed(0)
    common = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    if kind == "t5":
        sizes = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}
        model = hf.T5ForConditionalGeneration(hf.T5Config(**sizes, **common, decoder_start_token_id=0))
    else:
        sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
        config = hf.Qwen2Config(**sizes, **common, num_key_value_heads=4, vocab_size=32000, tie_word_embeddings=True)
        model = hf.Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: str, options: dict[str, Any], out: str) -> None:
    """Peak above the start, printed as JSON; a search of tiny-t5 before it loads all that a process needs."""
    import s3pet_viz as s3

    warnings.simplefilter("ignore")
    given: dict[str, Any] = {"task": "entailment", "budget": "0.1%", "progress": False, "device": "cpu"}
    s3.search(**given, backbone="tiny-t5", steps=2, second_order_from=0, max_rows=64, out=f"{out}/first")
    before, peak, end = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not end.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    s3.search(**given, backbone=folder, steps=2, second_order_from=0, out=f"{out}/run", **options)
    end.set()
    thread.join()
    print(json.dumps(peak - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], json.loads(args.measure[1]), args.measure[2])
        return
    import s3pet_viz as s3
    from s3pet_viz.engine.estimate import mib

    warnings.simplefilter("ignore")
    print("| backbone | options | weights | PET, optimiser | a pass | estimate | measured | estimate / measured |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for k, (kind, options) in enumerate(CASES):
            folder = Path(work) / kind
            if not folder.exists():
                save(kind, folder)
            options = {**options, "max_rows": 2 * options.get("batch_size", 32)}  # both halves: one batch each
            made = s3.estimate(task="entailment", backbone=folder, budget="0.1%", **options)
            line = [sys.executable, __file__, "--measure", str(folder), json.dumps(options), f"{work}/{k}"]
            told = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(line, env=told, capture_output=True, text=True, check=True)
            taken = int(done.stdout.strip().splitlines()[-1])
            parts = (made.weights, made.trained, made.passes or 0, made.total or 0, taken)
            said = ", ".join(f"{name} {value}" for name, value in options.items() if name != "max_rows")
            print(f"| {kind} | {said or 'as they are'} | {' | '.join(map(mib, parts))} | {(made.total or 0) / taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
