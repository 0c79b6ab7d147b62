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
from deciding_tables import MODES, STRUCTURES, at, budgets, decide, pooled, said
from print_study import by_origin
from studies_common import STUDIES

import s3pet_viz as s3
from s3pet_viz.analysis.statistics import differences

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE, PICTURE = ROOT / "docs/results.md", ROOT / "docs/results.png"
#: Study -> what prints all of its tables.
PRINTED = {
    "deciding": ["deciding_tables.py", "deciding"],
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
    return said(found, form)


def mean(rows: pd.DataFrame) -> str:
    scores = 100 * rows["score"]
    spread = f" ± {scores.std():.1f}" if len(scores) > 1 else ""
    return f"{scores.mean():.1f}{spread} ({len(scores)})" if len(scores) else "–"


def at_home(study: s3.Study) -> pd.DataFrame:
    """The study's trainings, without those of other tasks' structures; one row counts once for each task and seed."""
    rows = study.table()
    return rows[(rows["source"] == "") | (rows["source"] == rows["task"])].assign(mode="", source="", draw=0)


#: Of the study that decides: what the tables call each way.
WAYS = {
    "one-go": "prune, its own weights",
    "fast": "fast",
    "prune": "prune, trained anew",
    "gradient": "gradient",
    "random": "random",
    "LoRA": "LoRA on Q, V",
    "full": "full",
}


def pays() -> str:
    rows, made = s3.open_study("deciding").at_home(), []
    for budget in budgets(rows):
        here = at(rows, budget)
        full = here[here["method"] == "full"].groupby("task")["score"].mean()
        for method, name in WAYS.items():
            if method in ("LoRA", "full") and budget != "0.2%":
                continue
            mine = here[here["method"] == method]
            kept = mine.groupby("task")["score"].mean() / full
            gaps = [said(pooled(here, method, "random", value), form) if method != "random" else ""
                    for value, form in (("score", "+.1f"), ("loss", "+.3f"))]  # fmt: skip
            sized = method not in ("LoRA", "full")
            named = [budget if sized else "", name, f"{100 * mine['score'].mean():.1f}"]
            passes = f"{mine['passes'].mean():,.0f}" if sized else ""
            made.append([*named, *gaps, passes, f"{100 * kept.mean():.1f} %"])
    heads = ["budget", "structure", "score", "- random, points", "in held-out loss", "passes", "of full"]
    return table(heads, made)


def cheap() -> str:
    rows, made = s3.open_study("deciding").at_home(), []
    for budget in budgets(rows):
        here = at(rows, budget)
        for method in MODES:
            gaps = [said(pooled(here, method, other)) for other in ("gradient", "LoRA", "full")]
            made.append([budget, WAYS[method], *gaps])
    return table(["budget", "structure", "- gradient, points", "- LoRA on Q, V", "- full"], made)


def mode() -> str:
    rows = s3.open_study("deciding").at_home()
    rows = rows[rows["budget"].fillna("") != ""]
    alone = {name: words for name, *_, words in decide(rows, STRUCTURES)[1]}
    made = [[WAYS[name], *rest, alone.get(name, "–")] for name, *rest in decide(rows)[1]]
    return table(["way", "passes, training too", "score", "to the best, points", "of those trained anew"], made)


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
    """A row a task; a cell the smallest budget that keeps 99 %, or "none", and the share kept there or at the largest."""
    made: dict[str, dict[str, str]] = {}
    shown = {"deciding": ("one-go", "fast", "gradient", "random"), "minilm": ("random", "LoRA")}
    for study, methods in shown.items():
        for row in s3.open_study(study).keeps(methods=methods).to_dict("records"):
            if pd.isna(row["ratio"]) or row["task"] == "qnli":
                continue
            bounds = f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] == row["low"] else ""
            made.setdefault(row["task"], {})[row["method"]] = f"{row['budget'] or 'none'}: {row['ratio']:.2f}{bounds}"
    methods = ("one-go", "fast", "gradient", "random", "LoRA")
    lines = [[task, *(cells.get(method, "–") for method in methods)] for task, cells in made.items()]
    return table(["task", *(WAYS[method] for method in methods)], lines)


def in_short() -> str:
    """The first page: what searches hand out at the smaller budget, against what they have to beat."""
    rows = at(s3.open_study("deciding").at_home(), "0.1%")
    words = {
        "random": "random gates of the same size",
        "gradient": "one pass of gradients, no search (`s3.score`)",
        "LoRA": "LoRA by hand, on every query and value (twice the size)",
        "full": "all weights, 1,000 times as many",
    }
    return table(
        ["points, with a 95 % interval, against", "a structure (mode fast)", "a trained adapter (`save=`, mode prune)"],
        [[name, *(said(pooled(rows, mode, method)) for mode in ("fast", "one-go"))] for method, name in words.items()],
    )


#: Page -> the tables between its markers.
SHORT: dict[Path, dict[str, Callable[[], str]]] = {
    PAGE: {"pays": pays, "mode": mode, "cheap": cheap, "real": real, "transfer": transfer, "kept": kept},
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
    s3.figures.save(s3.figures.budgets("deciding"), PICTURE, scale=1.8)


if __name__ == "__main__":
    main()
