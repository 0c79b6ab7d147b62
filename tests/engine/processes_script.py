"""Searches in float64, run by test_processes.py in one process or several, one after the other: to start costs more than
to search. Argument: a JSON file, a list of their options.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

import s3pet_viz as s3
from s3pet_viz.engine import Callback


class Keep(Callback):
    """The exact alpha, beside the run: the step log keeps float32."""

    def __init__(self, out):
        self.path = Path(f"{out}-alpha.npy")

    def on_search_end(self, search):
        if search.state.processes.leads:
            np.save(self.path, search.state.alpha.numpy())


def rows(n, seed):
    rng = np.random.default_rng(seed)
    words = ("the", "a", "man", "woman", "cat", "dog", "good", "bad")
    return [{"text": " ".join(rng.choice(words, rng.integers(2, 7))), "label": int(rng.integers(2))} for _ in range(n)]


torch.set_num_threads(1)
spec = {
    "name": "mood", "kind": "classification", "fields": ["text"], "label_names": ["bad", "good"], "metrics": ["accuracy"],
    "prefix": "mood",
}  # fmt: skip
for options in json.loads(Path(sys.argv[1]).read_text()):
    loaded = s3.load_backbone(options.pop("backbone"))
    run = s3.search(
        task={"train": rows(96, 0), "validation": rows(20, 1), "test": rows(20, 2)}, load={"task_spec": spec},
        model=loaded.model.double(), tokenizer=loaded.tokenizer, budget=600, dropout=False, second_order_from=2, seed=3,
        device="cpu", progress=False, callbacks=[Keep(options["out"])], **options,
    )  # fmt: skip
    print(run, flush=True)
