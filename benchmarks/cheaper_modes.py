"""Are structures of cheaper searches as good as those of fast mode? The same tasks and seeds, compared in pairs.

    python benchmarks/cheaper_modes.py            # run what is missing, then print
    python benchmarks/cheaper_modes.py --print    # print what is there

Fast mode's rows are those of data/studies/tiny-t5. Each other way to search is a study of its own beside it.
"""

from __future__ import annotations

import argparse

import pandas as pd
from studies_common import STUDIES, keep_cells_only, report
from tiny_t5 import COMMON, MIDDLE, TASKS

import s3pet_viz as s3
from s3pet_viz.results.statistics import differences, sentence, summary

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
    tables = [_rows(s3.open_study(STUDIES / "tiny-t5"), "fast")]
    for way in args.ways:
        folder = STUDIES / f"tiny-t5-{way}"
        if not args.print:
            mode, options = WAYS[way]
            study = s3.sweep(
                tasks=TASKS, backbone="tiny-t5", budgets=MIDDLE, modes=mode, methods=("searched",), seeds=args.seeds,
                device="cpu", out=folder, workers=args.workers, on_cell=report, search=options, **COMMON,
            )  # fmt: skip
            keep_cells_only(study)
        if folder.is_dir():
            tables.append(_rows(s3.open_study(folder), way))
    table = pd.concat(tables, ignore_index=True)
    print("| task | search | n | score x 100 | held-out loss |\n|---|---|---|---|---|")
    for row in summary(table).sort_values(["task", "method"]).to_dict("records"):
        spread = f" ± {100 * row['spread']:.1f}" if row["n"] > 1 else ""
        print(f"| {row['task']} | {row['method']} | {row['n']} | {100 * row['score']:.1f}{spread} | {row['loss']:.3f} |")
    print()
    for way in table["method"].unique():
        if way != "fast":
            for value, scale in (("score", "points"), ("loss", "raw")):
                made = differences(table, a=way, b="fast", value=value, scale=scale)
                print(f"- {value}: {sentence(made.iloc[-1])}")


def _rows(study: s3.Study, name: str) -> pd.DataFrame:
    """The searched structures of the middle budget on their own tasks, called by the way they were searched."""
    rows = study.table()
    own = (rows["method"] == "searched") & (rows["budget"] == MIDDLE) & (rows["source"] == rows["task"])
    return rows[own].assign(method=name, mode=name)


if __name__ == "__main__":
    main()
