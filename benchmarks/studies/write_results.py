"""Write what the recorded studies say: the short tables and the figure of docs/results.md, the table of the README, and
beside each study all of its tables (data/studies/NAME/TABLES.md).

    python benchmarks/studies/write_results.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from print_study import by_origin
from studies_common import STUDIES

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE, PICTURE = ROOT / "docs/results.md", ROOT / "docs/results.png"
#: Study -> what prints all of its tables.
PRINTED = {
    "tiny-t5": ["print_study.py", "tiny-t5"],
    "minilm": ["print_study.py", "minilm"],
    "minilm-open": ["minilm_open.py", "--print"],
}


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gap(rows: pd.DataFrame, a: str, b: str, value: str) -> str:
    """``+12.3 (+1.9 to +24.5)``: the difference over all groups, with its 95 % interval; in bold where it excludes 0."""
    scale, form = ("points", "+.1f") if value == "score" else ("raw", "+.3f")
    found = differences(rows, a=a, b=b, by=("task",), value=value, scale=scale).iloc[-1]
    low, high = found["low"], found["high"]
    if pd.isna(low):
        return f"{found['difference']:{form}} (no interval)"
    words = f"{found['difference']:{form}} ({low:{form}} to {high:{form}})"
    return f"**{words}**" if low > 0 or high < 0 else words


def mean(rows: pd.DataFrame) -> str:
    scores = 100 * rows["score"]
    spread = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
    return f"{scores.mean():.1f}{spread} ({len(scores)})" if len(scores) else "–"


def at_home(study: s3.Study) -> pd.DataFrame:
    """The study's trainings, without those of other tasks' structures; one row counts once for each task and seed."""
    rows = study.table()
    return rows[(rows["source"] == "") | (rows["source"] == rows["task"])].assign(mode="", source="", draw=0)


def pays() -> str:
    rows, made = at_home(s3.open_study("tiny-t5")), []
    for budget in ("0.1%", "0.2%", "0.5%"):
        both = rows[(rows["budget"] == budget) & rows["method"].isin(("searched", "random"))]
        means = [f"{100 * both.loc[both['method'] == m, 'score'].mean():.1f}" for m in ("searched", "random")]
        made.append([budget, *means, *(gap(both, "searched", "random", value) for value in ("score", "loss"))])
    return table(["budget", "searched", "random", "difference, points", "in held-out loss"], made)


def cheap() -> str:
    rows, made = at_home(s3.open_study("tiny-t5")), []
    pairs = [("gradient", "0.1%"), ("gradient", "0.2%"), ("gradient", "0.5%"), ("LoRA", "0.2%"), ("BitFit", "0.2%"),
             ("LNFit", "0.2%"), ("LowRankAdapter", "0.2%"), ("resolved", "0.1%"), ("resolved", "0.5%")]  # fmt: skip
    for method, budget in pairs:
        mine = rows[(rows["method"] == "searched") & (rows["budget"] == budget)]
        theirs = rows[(rows["method"] == method) & rows["budget"].fillna("").isin((budget, ""))]
        both = pd.concat([mine, theirs]).assign(budget="")
        gaps = [gap(both, "searched", method, value) for value in ("score", "loss")]
        made.append([method, budget, f"{theirs['pet_params'].mean():,.0f}", *gaps])
    return table(["against", "search's budget", "its parameters", "searched - it, points", "in held-out loss"], made)


def real() -> str:
    opened, closed = (at_home(s3.open_study(name)) for name in ("minilm-open", "minilm"))
    both, made = pd.concat([closed, opened]), []
    for task in ("sst2", "stsb", "qnli"):
        cells = [mean(rows[(rows["task"] == task) & (rows["method"] == "searched") & (rows["budget"] == "0.0139%")])
                 for rows in (opened, closed)]  # fmt: skip
        for method in ("random", "gradient", "LoRA", "full"):
            rows = both[(both["task"] == task) & (both["method"] == method)]
            same = rows["budget"].fillna("").isin(("0.0139%", ""))
            cells.append(mean(rows[same].drop_duplicates(["seed", "score"])))
        made.append([task, *cells])
    return table(["task", "searched, open gates first", "searched", "random", "gradient", "LoRA on Q, V", "full"], made)


def transfer() -> str:
    rows, made = by_origin(s3.open_study("tiny-t5")), []
    rows = rows[rows["budget"] == "0.2%"]
    for a, b in (("other tasks'", "random"), ("own", "other tasks'")):
        made.append([f"{a} - {b}", *(gap(rows, a, b, value) for value in ("score", "loss"))])
    return table(["structures", "points", "in held-out loss"], made)


def kept() -> str:
    made = []
    for study, methods in (("tiny-t5", ("searched", "LoRA")), ("minilm", ("random", "LoRA"))):
        found = s3.open_study(study).keeps(methods=methods)
        for row in found.to_dict("records"):
            if pd.isna(row["ratio"]) or row["task"] == "qnli":
                continue
            bounds = f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] == row["low"] else ""
            made.append([row["task"], row["method"], row["budget"] or "none", f"{row['ratio']:.2f}{bounds}"])
    return table(["task", "method", "smallest budget that keeps 99 %", "share kept there, or at the largest"], made)


def in_short() -> str:
    """The first page: the default search at 0.2 %, against what it has to beat."""
    rows = at_home(s3.open_study("tiny-t5"))
    sized = rows["budget"].fillna("").isin(("0.2%", ""))
    rows = rows[sized & rows["method"].isin(("searched", "random", "gradient", "LoRA", "full"))].assign(budget="")
    words = {
        "random": "random gates of the same size",
        "gradient": "one pass of gradients, no search (`s3.score`)",
        "LoRA": "LoRA by hand, on every query and value",
        "full": "all weights, 500 times as many",
    }
    return table(
        ["searched gates against", "points, with a 95 % interval"],
        [[said, gap(rows, "searched", method, "score")] for method, said in words.items()],
    )


#: Page -> the tables between its markers.
SHORT: dict[Path, dict[str, Callable[[], str]]] = {
    PAGE: {"pays": pays, "cheap": cheap, "real": real, "transfer": transfer, "kept": kept},
    ROOT / "README.md": {"in short": in_short},
}


def main() -> None:
    for name, (script, *arguments) in PRINTED.items():
        done = subprocess.run(
            [sys.executable, HERE / script, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
        )
        head = f"# Tables of the study `{name}`\n\nWritten by `python benchmarks/studies/write_results.py`; do not edit.\n"
        (STUDIES / name / "TABLES.md").write_text(f"{head}\n{done.stdout.strip()}\n", encoding="utf-8")
    for page, tables in SHORT.items():
        text = page.read_text(encoding="utf-8")
        for marker, make in tables.items():
            begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
            before, _, rest = text.partition(begin)
            assert rest, f"{page}: no place for {marker}"
            text = f"{before}{begin}{make()}\n{end}{rest.partition(end)[2]}"
        page.write_text(text, encoding="utf-8")
    # A page of the site is about as wide as two columns; no picture in docs/ is to be large.
    s3.figures.save(s3.figures.budgets("tiny-t5"), PICTURE, scale=1.8)


if __name__ == "__main__":
    main()
