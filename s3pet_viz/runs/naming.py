"""Names of new run directories."""

from __future__ import annotations

import re
import time
from pathlib import Path

from s3pet_viz.errors import RunError, S3PETError
from s3pet_viz.files import located


def new_folder(task: str, backbone: str, budget: object, mode: str, seed: int) -> Path:
    """Make a new folder under ``runs/`` whose name tells what is searched, and when. Raises RunError: it cannot be
    made.
    """
    share = str(budget).replace("%", "pct")
    parts = (Path(task).name, Path(backbone).name, share, mode, f"s{seed}", time.strftime("%Y%m%d-%H%M%S"))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip(".-")[:200]
    return numbered(located("runs") / stem, RunError, "cannot make the run directory")


def numbered(folder: Path, kind: type[S3PETError], doing: str) -> Path:
    """Make this folder, or where it is there already (of another in the same second) one with a number after its name.
    Raises an error of `kind` that says what could not be done.
    """
    made, number = folder, 1
    while True:
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            number += 1
            made = folder.with_name(f"{folder.name}-{number}")
        except OSError as error:
            raise kind(f"{made}: {doing} ({error.strerror})") from None
        else:
            return made
