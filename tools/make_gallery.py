"""Write docs/gallery.md and its pictures: every figure, and the line that draws it.

    python tools/make_gallery.py [NAME ...]

Code and order stand in `GALLERY` alone: what the page shows is what is run here. With names only those figures are drawn
anew. tests/test_gallery.py compares the page, and that no figure of the package is missing.
"""

from __future__ import annotations

import argparse
import ast
import base64
import inspect
from pathlib import Path
from typing import Any

import kaleido
import plotly.graph_objects as go
from refresh_notebooks import png

from s3pet_viz import figures

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "gallery"

#: Before all others: recorded runs and a recorded study of the package.
SETUP = """\
import s3pet_viz as s3

run, *others = seeds = [s3.open_run(f"similarity-0.2pct-s{seed}") for seed in (0, 1, 2)]
other_task = [s3.open_run(f"entailment-0.2pct-s{seed}") for seed in (0, 1, 2)]
study = s3.open_study("tiny-t5")
"""

#: Chapter -> the question that a figure answers, its code, and with which arguments the tests run it, if with others.
#: The name of a figure is that of the function which its last line calls.
GALLERY: dict[str, list[tuple[str, str, str]]] = {
    "One search": [
        ("Where are the gates?", "s3.figures.heatmap(run)", ""),
        ("In which order would they be taken?", 's3.figures.heatmap(run, annotate="rank", theme="dark")', ""),
        ("How many parameters in each layer?", 's3.figures.sums(run, by="layer")', ""),
        ("When was it decided?", "s3.figures.trace(run, top=8)", ""),
        ("Did it learn?", "s3.figures.curves(run)", ""),
        ("Which gates at another budget?", "s3.figures.budget_path(run, top=20)", ""),
        ("What would two gates less cost?", "s3.figures.cut(run, seeds=seeds)", ""),
        (
            "Does each gate matter?",
            "explained = s3.explain(run, steps=120, rows=100, metric=False, progress=False)\n"
            "s3.figures.importance(explained)",
            "explain(steps=1, rows=4)",
        ),
    ],
    "Several seeds": [
        ("What do the seeds say together?", "s3.figures.consensus(seeds)", ""),
        ("Do they agree more than chance?", "s3.figures.agreement(seeds)", "agreement(draws=20)"),
        ("How many gates do two share?", "s3.figures.overlap([*seeds, *other_task])", ""),
        ("How do many runs look side by side?", "s3.figures.multiples([*seeds, *other_task])", ""),
    ],
    "Two sides": [
        ("Where do two runs differ?", "s3.figures.compare(run, other_task[0])", ""),
        ("Where do two tasks differ by more than seeds?", "s3.figures.difference(seeds, other_task)", ""),
    ],
    "Studies": [
        (
            "Does the search pay?",
            's3.figures.forest(study, method="searched", against=["random", "gradient"])',
            "",
        ),
        ("At which budget?", 's3.figures.budgets(study, tasks=["sentiment", "entailment", "similarity"])', ""),
        (
            "Where does each way place?",
            's3.figures.ways(study, task="sentiment", budget="0.2%", methods=["searched", "gradient", "random", "LoRA"])',
            "ways(draws=5)",
        ),
        ("Which modules lead, over tasks?", 's3.figures.modules(study, methods=["searched", "gradient"])', ""),
        ("Does one task's structure serve another?", 's3.figures.transfer("tiny-t5")', ""),
    ],
}


def name_of(code: str) -> str:
    """Of the figure that the last line draws."""
    call = ast.parse(code.splitlines()[-1], mode="eval").body
    assert isinstance(call, ast.Call), code
    return ast.unparse(call.func).removeprefix("s3.figures.")


def names() -> dict[str, str]:
    """Picture's name -> code; a figure that comes again has a number."""
    made: dict[str, str] = {}
    for part in GALLERY.values():
        for _, code, _ in part:
            name = name_of(code)
            again = sum(name_of(one) == name for one in made.values())
            made[f"{name}-{again + 1}" if again else name] = code
    return made


def text() -> str:
    lines = [
        "# Gallery",
        "",
        "Written by `python tools/make_gallery.py`, which runs the lines as they stand here. Each figure is a pure function that",
        "returns a plotly figure; with `_table` behind its name it returns the numbers as a DataFrame",
        "([reference](api.md#figures)). `s3.figures.save(figure, path)` writes it for a paper ([the views](views.md)). The runs",
        "and the study are recorded and come with the package:",
        "",
        f"```python\n{SETUP}```",
    ]
    pictures = {code: name for name, code in names().items()}
    for chapter, part in GALLERY.items():
        lines += ["", f"## {chapter}"]
        for question, code, quick in part:
            said = (inspect.getdoc(getattr(figures, name_of(code))) or "").partition("\n\n")[0]
            lines += ["", f"### {question}", "", said, ""]
            lines += [f"<!-- run with: {quick} -->", ""] if quick else []
            lines += [f"```python\n{code}\n```", "", f"![{question}](gallery/{pictures[code]}.png)"]
    return "\n".join(lines) + "\n"


def draw(code: str, known: dict[str, Any]) -> go.Figure:
    *before, last = ast.parse(code).body
    exec(compile(ast.Module(before, []), "gallery", "exec"), known)
    assert isinstance(last, ast.Expr), code
    figure = eval(compile(ast.Expression(last.value), "gallery", "eval"), known)
    assert isinstance(figure, go.Figure), code
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of pictures, without .png; default: all")
    args = parser.parse_args()
    wanted = names()
    if unknown := sorted(set(args.names) - set(wanted)):
        raise SystemExit(f"make_gallery: expected names of {', '.join(wanted)}, found {', '.join(unknown)}")
    PAGE.write_text(text(), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for old in set(PICTURES.glob("*.png")) - {PICTURES / f"{name}.png" for name in wanted}:
        old.unlink()
    known: dict[str, Any] = {}
    exec(SETUP, known)
    kaleido.start_sync_server(mathjax=False, enable_sandbox=False)
    for name in args.names or wanted:
        picture = base64.b64decode(png(draw(wanted[name], known).to_plotly_json()))
        (PICTURES / f"{name}.png").write_bytes(picture)
        print(f"{name}: {len(picture) / 1e3:.0f} kB", flush=True)
    kaleido.stop_sync_server()


if __name__ == "__main__":
    main()
