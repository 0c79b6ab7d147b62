"""Every public figure to look at: at 24 and 48 columns, in both themes at a laptop's width, and in print at a column's
and a page's width, as PNG sheets.

    python tools/contact_sheets.py [FOLDER] [NAME ...]     (Chrome and kaleido: the extra [export]; Pillow)

The runs are made here, of a space with so many columns: numbers without meaning, names as long as they get.
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import kaleido
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from figure_problems import every_figure  # noqa: E402

from s3pet_viz import figures, open_run  # noqa: E402
from s3pet_viz.runs import Run, RunWriter  # noqa: E402
from s3pet_viz.structure import Gate, probabilities, solve_shift  # noqa: E402

COLUMNS = (24, 48)
#: (theme, style, width in mm); None: 1280 px.
LOOKS = (("light", "screen", None), ("dark", "screen", None), ("light", "print", 84), ("light", "print", 178))
PX_PER_MM = 96 / 25.4
SHEET_PX = 1400
_MODULES = {
    "LoRA": ("SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O", "FFN.W1", "FFN.W2"),
    "BitFit": ("SelfAttn.Q", "SelfAttn.O", "FFN.W1", "FFN.W2"),
    "LNFit": ("SelfAttn.LN", "FFN.LN"),
    "LowRankAdapter": ("SelfAttn", "FFN"),
}


def space(columns: int) -> list[Gate]:
    """Gates of 24 encoder layers; from 48 columns on of as many decoder layers, too."""
    gates: list[Gate] = []
    sizes = {"LoRA": 4096, "BitFit": 1024, "LNFit": 1024, "LowRankAdapter": 8192}
    for stack in ("encoder", "decoder")[: columns // 24]:
        for layer in range(24):
            for pet, modules in _MODULES.items():
                for module in modules:
                    position = f"{stack}.{layer}.{module}"
                    gates.append(Gate(len(gates), position, stack, layer, module, pet, sizes[pet], {}))
    return gates


def made(folder: Path, task: str, seed: int, columns: int) -> Run:
    """A finished run of 30 steps in which some gates separate, others by seed."""
    gates, budget, own = space(columns), 60_000 * columns // 24, np.random.default_rng(seed)
    counts = np.array([gate.n_params for gate in gates])
    settled = np.random.default_rng(len(task)).normal(size=len(gates)) * 2 + own.normal(size=len(gates)) * 0.8
    config = {"task": task, "backbone": "t5-large", "seed": seed, "budget": str(budget), "mode": "fast"}
    pinned = {"in": [Gate(len(gates), "encoder.3.FFN.W1.gate", "encoder", 3, "FFN.W1", "BitFit2", 64, {}).to_dict()], "out": []}
    extra = {"backbone": "t5-large", "backbone_params": 737_000_000, "budget": budget, "steps_total": 30, "pinned": pinned}
    writer = RunWriter.create(folder / f"{task}-s{seed}", gates=gates, config=config, extra=extra)
    for step in range(30):
        alpha = settled * step / 10
        zeta = solve_shift(alpha, counts, budget - 64)
        numbers = {"seconds": 0.5, "zeta": zeta, "train_loss": 1 / (step + 1), "val_loss": 1.2 / (step + 1), "lr": 1e-3}
        writer.append(step=step, alpha=alpha, p=probabilities(alpha, zeta), **numbers)
    writer.set_status("finished")
    writer.close()
    return open_run(writer.path)


def runs_of(folder: Path, columns: int) -> dict[str, list[Run]]:
    """Three seeds of two tasks; made once."""
    at = folder / f"runs-{columns}"
    found = {task: [at / f"{task}-s{seed}" for seed in range(3)] for task in ("sentiment", "entailment")}
    return {
        task: [open_run(path) if path.exists() else made(at, task, seed, columns) for seed, path in enumerate(paths)]
        for task, paths in found.items()
    }


def picture(figure: object, style: str, mm: int | None, file: Path) -> Image.Image:
    width = 1280 / PX_PER_MM if mm is None else mm
    figures.save(figure, file, style=style, width_mm=width, **({"scale": 2} if mm == 84 else {}))
    return Image.open(io.BytesIO(file.read_bytes())).convert("RGB")


def sheet(pictures: list[Image.Image], file: Path) -> None:
    """Beside each other as they fit, then beneath."""
    rows: list[list[Image.Image]] = [[]]
    for one in pictures:
        if one.width > SHEET_PX:
            one = one.resize((SHEET_PX, math.ceil(one.height * SHEET_PX / one.width)))
        if rows[-1] and sum(other.width + 8 for other in rows[-1]) + one.width > SHEET_PX:
            rows.append([])
        rows[-1].append(one)
    height = sum(max(one.height for one in row) + 8 for row in rows)
    whole, y = Image.new("RGB", (SHEET_PX, height), "#888"), 0
    for row in rows:
        x = 0
        for one in row:
            whole.paste(one, (x, y))
            x += one.width + 8
        y += max(one.height for one in row) + 8
    whole.save(file)


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kaleido.start_sync_server(mathjax=False, enable_sandbox=False, silence_warnings=True)
    try:
        for columns in COLUMNS:
            runs = runs_of(folder, columns)
            drawing = every_figure(folder / f"study-{columns}", runs["sentiment"], runs["entailment"])
            for name, draw in drawing.items():
                if names and name.split()[0] not in names:
                    continue
                file = folder / f"{name.replace(' ', '-')}-{columns}.png"
                scratch = folder / "scratch.png"
                sheet([picture(draw(theme=theme), style, mm, scratch) for theme, style, mm in LOOKS], file)
                print(file, flush=True)
    finally:
        kaleido.stop_sync_server()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/contact-sheets"), sys.argv[2:])
