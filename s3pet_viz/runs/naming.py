"""Names of new run directories."""

from __future__ import annotations

import re
import time
from pathlib import Path

from s3pet_viz.errors import RunError
from s3pet_viz.files import located


def new_folder(task: str, backbone: str, budget: object, mode: str, seed: int) -> Path:
    """Make a new folder under ``runs/`` whose name tells what is searched, and when.

    Raises:
        RunError: it cannot be made.
    """
    share = str(budget).replace("%", "pct")
    parts = (Path(task).name, Path(backbone).name, share, mode, f"s{seed}", time.strftime("%Y%m%d-%H%M%S"))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip(".-")[:200]
    number = 1
    while True:
        folder = located("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1  # another search began in the same second
        except OSError as error:
            raise RunError(f"{folder}: cannot make the run directory ({error.strerror})") from None
        else:
            return folder
