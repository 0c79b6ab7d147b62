"""Do searches of today's code choose what the recorded ones chose? Recorded runs searched again with their own options.

    python benchmarks/studies/same_structures.py sentiment-0.2pct-s0 entailment-0.2pct-s0
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import s3pet_viz as s3
from s3pet_viz.analysis.measures import jaccard, spearman


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="recorded runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.runs:
        old = s3.open_run(name)
        with tempfile.TemporaryDirectory() as folder:
            new = s3.search(**old.config, out=Path(folder) / "run", progress=False)
            same, ranks = jaccard(old.structure(), new.structure()), spearman(old.alpha(), new.alpha())
            steps = np.abs(old.alphas() - new.alphas()).max(axis=1)
            took = [float(r.steps()["seconds"].median()) for r in (old, new)]
            first = int(np.argmax(steps > 1e-3)) if (steps > 1e-3).any() else None
        print(
            f"{name}: Jaccard {same:.2f}, alpha's ranks {ranks:.4f}, largest difference of alpha {steps.max():.2g} "
            f"(above 1e-3 from step {first}); median step {took[0]:.3f} s, now {took[1]:.3f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
