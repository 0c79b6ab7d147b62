"""Are structures of cheaper searches as good as those of fast mode? The same tasks and seeds, compared in pairs.

    python benchmarks/studies/cheaper_modes.py            # run what is missing, then print
    python benchmarks/studies/cheaper_modes.py --print    # print what is there

Fast mode's rows are those of data/studies/tiny-t5. Each other way to search is a study of its own beside it.
"""

from __future__ import annotations

import argparse
import itertools

import pandas as pd
from studies_common import STUDIES, keep_cells_only, portable, report
from tiny_t5 import COMMON, MIDDLE, TASKS

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences, sentence, summary

#: Name -> (mode, further options of the search).
WAYS = {
    "every-4": ("fast", {"second_order_every": 4}),
    "first-order": ("first-order", {}),
    "skip-0.01": ("fast", {"skip_below": 0.01}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    base = s3.open_study(STUDIES / "tiny-t5")
    tables, overlaps = [_rows(base, "fast"), _rows(base, "random")], {}
    for way in args.ways:
        folder = STUDIES / f"tiny-t5-{way}"
        if not args.print:
            mode, options = WAYS[way]
            study = s3.sweep(
                tasks=TASKS, backbone="tiny-t5", budgets=MIDDLE, modes=mode, methods=("searched",), seeds=args.seeds,
                device="cpu", out=folder, workers=args.workers, on_cell=report, search=options, **COMMON,
            )  # fmt: skip
            keep_cells_only(study)
            portable(folder)
        if folder.is_dir():
            study = s3.open_study(folder)
            tables.append(_rows(study, way))
            overlaps[way] = _overlaps(study, base)
    table = pd.concat(tables, ignore_index=True)
    print("| task | search | n | score x 100 | held-out loss |\n|---|---|---|---|---|")
    for row in summary(table).sort_values(["task", "method"]).to_dict("records"):
        spread = f" ± {100 * row['spread']:.1f}" if row["n"] > 1 else ""
        print(f"| {row['task']} | {row['method']} | {row['n']} | {100 * row['score']:.1f}{spread} | {row['loss']:.3f} |")
    print()
    for way in set(table["method"]) - {"fast", "random"}:
        for other in ("fast", "random"):
            for value, scale in (("score", "points"), ("loss", "raw")):
                made = differences(table, a=way, b=other, value=value, scale=scale)
                print(f"- {value}: {sentence(made.iloc[-1])}")
    print("\nGates in common with fast's structure of the same task and seed (Jaccard)")
    seeds = [_jaccard(_fast(base, task, a), _fast(base, task, b)) for task in TASKS for a, b in ((0, 1), (0, 2), (1, 2))]
    print(f"- two seeds of fast: {sum(seeds) / len(seeds):.2f} ({len(seeds)} pairs)")
    for way, found in overlaps.items():
        print(f"- {way}: {sum(found) / len(found):.2f} ({len(found)} searches)")


def _rows(study: s3.Study, name: str) -> pd.DataFrame:
    """The structures of the middle budget on their own tasks, called by the way they were searched."""
    rows = study.table()
    method = "random" if name == "random" else "searched"
    own = (rows["method"] == method) & (rows["budget"] == MIDDLE) & rows["source"].isin(("", *TASKS))
    own &= (rows["source"] == "") | (rows["source"] == rows["task"])
    return rows[own].assign(method=name, mode="")


def _overlaps(study: s3.Study, base: s3.Study) -> list[float]:
    """Jaccard overlap with fast's structure, search by search."""
    found = []
    for task, seed in itertools.product(TASKS, range(3)):
        ours = [c["key"] for c in study.cells if c["kind"] == "search" and (c["labels"]["task"], c["labels"]["seed"]) == (task, seed)]
        if ours and study.result(ours[0]):
            found.append(_jaccard(study.structure(ours[0]), _fast(base, task, seed)))
    return found


def _fast(base: s3.Study, task: str, seed: int) -> s3.Structure:
    return base.structure(f"search-{task}-0.2pct-fast-s{seed}")


def _jaccard(a: s3.Structure, b: s3.Structure) -> float:
    one, two = ({g.key for g in structure.gates} for structure in (a, b))
    return len(one & two) / len(one | two)


if __name__ == "__main__":
    main()
