"""How much of a structure's budget goes to gates that cannot help, by the way it was placed.

    python benchmarks/studies/inert_share.py

Reads the recorded structures of data/studies/tiny-t5, which were placed before such gates were left out, and measures on
tiny-t5 and one task which gates these are (`s3pet_viz.pet.inert`). No training; about ten seconds.
"""

from __future__ import annotations

import pandas as pd
from studies_common import STUDIES

import s3pet_viz as s3
from s3pet_viz.errors import S3PETError
from s3pet_viz.pet import load_space
from s3pet_viz.tuning import Workbench

METHODS = ("searched", "gradient", "random", "BitFit")


def main() -> None:
    found = Workbench.open("sentiment", "tiny-t5", device="cpu").candidates(load_space("S3PET-M"))
    inert = {gate.key for gate in found.inert}
    print(f"{len(inert)} of {len(found.gates) + len(inert)} gates of S3PET-M cannot help: {sorted({g.row for g in found.inert})}")
    study, rows = s3.open_study(STUDIES / "tiny-t5"), []
    for cell in study.cells:
        if cell["labels"].get("method") in METHODS:
            try:
                structure = study.structure(cell["key"])
            except S3PETError:  # a cell without a structure of its own
                continue
            wasted = [gate for gate in structure.gates if gate.key in inert]
            rows.append((cell["labels"]["method"], len(wasted), len(structure), sum(g.n_params for g in wasted), structure.n_params))
    table = pd.DataFrame(rows, columns=["method", "inert gates", "gates", "inert parameters", "parameters"])
    sums = table.groupby("method").agg("sum").join(table.groupby("method").size().rename("structures"))
    sums["% of gates"] = 100 * sums["inert gates"] / sums["gates"]
    sums["% of parameters"] = 100 * sums["inert parameters"] / sums["parameters"]
    print(sums[["structures", "% of gates", "% of parameters"]].round(1).to_string())


if __name__ == "__main__":
    main()
