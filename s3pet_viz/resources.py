"""Where the embedded tasks, backbones, recorded runs and studies lie: inside an installed wheel, or in the
repository's data/ folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from s3pet_viz.files import is_folder

_PACKAGE = Path(__file__).resolve().parent
Kind = Literal["tasks", "backbones", "runs", "studies"]
_ROOTS = (_PACKAGE / "_data", _PACKAGE.parent / "data")  # the wheel's copy first, then a checkout's


def find_resource(kind: Kind, name: str) -> Path | None:
    """The folder of an embedded task, backbone, recorded run or study, or None where there is none of that name.

    A name is one plain folder name: anything with a path separator, a drive, or `..` gives None.
    """
    plain = name not in ("", ".") and not any(part in name for part in ("/", "\\", "..", ":", "\0"))
    if kind not in get_args(Kind) or not plain:
        return None
    for root in _ROOTS:
        folder = root / kind / name
        if is_folder(folder):
            return folder
    return None


def list_resources(kind: Kind) -> list[str]:
    """The names of the embedded tasks, backbones, recorded runs or studies, sorted; empty where none are shipped."""
    names: set[str] = set()
    for root in _ROOTS:
        if (root / kind).is_dir():
            names.update(path.name for path in (root / kind).iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith((".", "_")))


def text_of(*place: str) -> str:
    """The text of a file that lies in the package."""
    return _PACKAGE.joinpath(*place).read_text(encoding="utf-8")
