"""How quick the viewer is, and what it takes: a search of 10,000 gates x 1,000 steps, as an 80-layer model has.

    python benchmarks/speed/views.py [--gates 10000 --steps 1000]

Measured in a headless Chromium, on a page of its own and in JupyterLab, by the page's clock: how long it takes until the whole
history is drawn, and how long a redraw takes after the step or the budget slider has moved (to the end of the frame that shows it).
In a Jupyter kernel: memory, and how long opening takes. The table says what was promised.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
from jupyter_client.manager import start_new_kernel

from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift
from s3pet_viz.viewer.page import run_state, standing_page

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "browser"))
from lab import jupyterlab, open_notebook, page_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser") or ""

MOVES = 40
#: Milliseconds, by the page's clock, from `since` until all rows are there and drawn.
DRAWN = """([since, rows]) => new Promise((done) => {
  const look = () => {
    const view = document.querySelector(".s3pet-viewer")?.s3pet?.view;
    if (view?.scene && view.count >= rows && !view.store.waiting) requestAnimationFrame(() => done(performance.now() - since));
    else setTimeout(look, 5);
  };
  look();
})"""

#: Milliseconds of each of so many moves of a slider, from the event to the end of the frame that shows it.
MOVED = """async ([label, moves]) => {
  const box = document.querySelector(`.s3pet-viewer input[aria-label=${label}]`), took = [];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const after = () => new Promise((done) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = done; port2.postMessage(0); });
  for (let i = 0; i < moves; i++) {
    await frame();
    await after();
    const began = performance.now();
    box.value = Math.round(+box.max * ((i * 0.37) % 1));
    box.dispatchEvent(new Event("input", { bubbles: true }));
    await frame(); // the view draws in this frame ...
    await after(); // ... which has ended
    took.push(performance.now() - began);
  }
  return took;
}"""

#: In the kernel: seconds to open, MB held and at most, beside a view of a small run.
OPEN = """
import time
from s3pet_viz.widgets import StructureExplorer
StructureExplorer("similarity-0.2pct-s0").close()
open("/proc/self/clear_refs", "w").write("5")
said = lambda name: int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024
before, began = said("VmRSS"), time.perf_counter()
view = StructureExplorer({path!r})
took = time.perf_counter() - began
time.sleep(15)  # the whole is sent again meanwhile
print(took, said("VmRSS") - before, said("VmHWM") - before)
"""


def record(path: Path, n_gates: int, n_steps: int, budget: int) -> None:
    """A run whose alpha wanders from 0 to its goal."""
    rng = np.random.default_rng(0)
    modules = [f"{part}.{name}" for part in ("SelfAttn", "CrossAttn") for name in "QKVO"] + ["FFN.W1", "FFN.W2"]
    gates = [
        Gate(i, f"encoder.{i // 20}.{i % 20}", "encoder", i // 20, modules[i % 10], ("LoRA", "BitFit")[i // 10 % 2], 100 + i % 7)
        for i in range(n_gates)
    ]
    counts, goal = np.array([g.n_params for g in gates]), rng.normal(0, 3, n_gates)
    facts = {"backbone": "made up", "backbone_params": 10**8, "budget": budget, "steps_total": n_steps}
    with RunWriter.create(path, gates=gates, config={"task": "made up", "backbone": "made up"}, extra=facts) as writer:
        for step in range(n_steps):
            alpha = goal * step / n_steps
            if step % 100 == 0:  # often enough for a view
                zeta = solve_shift(alpha, counts, budget)
            writer.append(
                step=step, seconds=0.1, zeta=zeta, train_loss=1 / (step + 1), val_loss=1 / (step + 1), lr=1e-3,
                alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip
        writer.set_status("finished")


def row(what: str, values: list[float], unit: str, promised: float) -> None:
    middle, worst = statistics.median(values), max(values)
    print(f"| {what} | {middle:,.2f} {unit} | {worst:,.2f} {unit} | {promised:g} {unit} | {'yes' if middle <= promised else 'NO'} |")


def sliders(page, where: str) -> None:
    for label in ("step", "budget"):
        row(f"{label} slider, redraw {where}", page.evaluate(MOVED, [label, MOVES]), "ms", 60)


def standing(folder: Path, path: Path, args: argparse.Namespace) -> None:
    """A file of its own, with the whole history."""
    html = folder / "page.html"
    html.write_text(standing_page("views", run_state(open_run(path), key="views", most=1 << 30)))
    took = []
    with page_of(CHROMIUM) as (page, errors):
        for _ in range(args.times):
            page.goto(html.as_uri())
            took.append(page.evaluate(DRAWN, [0, args.steps]) / 1000)
        row("page of its own: from its address to the whole history", took, "s", 2)
        sliders(page, "there")
        assert not errors, errors


def in_jupyterlab(folder: Path, path: Path, args: argparse.Namespace) -> None:
    show = f"view = s3.widgets.StructureExplorer({str(path)!r})"
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in (f"import s3pet_viz as s3; {show}; view.close(); 'warm'", show, "view")]
    )
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "views.ipynb")
    took: list[float] = []
    with jupyterlab(folder) as address, page_of(CHROMIUM) as (page, errors):
        open_notebook(page, address, "views.ipynb")

        def run(cell: int) -> float:
            """The page's clock when this cell was begun."""
            page.locator(".jp-Notebook .jp-Cell").nth(cell).click()
            page.keyboard.press("Escape")
            began: float = page.evaluate("() => performance.now()")
            page.keyboard.press("Control+Enter")
            return began

        def idle(seconds: float) -> None:
            page.wait_for_timeout(1000 * seconds)
            page.locator(".jp-StatusBar-Widget", has_text="| Idle").first.wait_for(timeout=120_000)

        run(0)
        idle(3)
        for _ in range(args.times):
            run(1)
            idle(3)
            took.append(page.evaluate(DRAWN, [run(2), args.steps]) / 1000)
            idle(1)
            if len(took) == args.times:
                sliders(page, "in JupyterLab")
            page.locator(".lm-MenuBar-itemLabel", has_text="Edit").first.click()
            page.locator(".lm-Menu-itemLabel", has_text="Clear Cell Output").first.click()
            page.wait_for_timeout(500)
            assert not page.locator(".s3pet-viewer").count()
        row("JupyterLab: from the display to the whole history", took, "s", 2)
        assert not errors, errors


def hear(said: list[str], message: dict) -> None:
    said.append(str(message["content"].get("text") or message["content"].get("traceback") or ""))


def in_a_kernel(path: Path, args: argparse.Namespace) -> None:
    took, held, most = [], [], []
    for _ in range(args.times):
        manager, client = start_new_kernel(kernel_name="python3")
        said: list[str] = []
        try:
            client.execute_interactive(OPEN.format(path=str(path)), timeout=300, output_hook=partial(hear, said))
        finally:
            manager.shutdown_kernel(now=True)
        seconds, rest, peak = map(float, "".join(said).split())
        took.append(seconds)
        held.append(rest)
        most.append(peak)
    row("kernel: opening the run", took, "s", 2)
    row("kernel: memory that is held", held, "MB", 50)
    row("kernel: memory at most", most, "MB", 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "run"
        record(path, args.gates, args.steps, 20 * args.gates)
        print(f"{args.gates:,} gates x {args.steps:,} steps; medians of {args.times}, sliders of {MOVES} moves\n")
        print("| what | median | worst | promised | kept |\n|---|---|---|---|---|", flush=True)
        in_a_kernel(path, args)
        standing(folder, path, args)
        in_jupyterlab(folder, path, args)


if __name__ == "__main__":
    main()
