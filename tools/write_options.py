"""Write s3pet_viz/config/typed.py, which tells editors the options that functions take.

    python tools/write_options.py
"""

from __future__ import annotations

from pathlib import Path

from s3pet_viz.config import SearchConfig, TuneConfig
from s3pet_viz.config.options import options_of

#: Options that are parameters of `search` itself.
OWN = ("task", "backbone", "budget", "space")
TARGET = Path(__file__).parent.parent / "s3pet_viz" / "config" / "typed.py"


def text() -> str:
    lines = [
        '"""Written by tools/write_options.py from the fields of `SearchConfig` and `TuneConfig`, for editors."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, TypedDict",
    ]
    for config, without in ((SearchConfig, OWN), (TuneConfig, ())):
        lines += ["", "", f"class {config.__name__.removesuffix('Config')}Options(TypedDict, total=False):"]
        for name in options_of(config):
            kind = "Any" if name in ("start_from", "family") else config.__annotations__[name]  # a Run or a file too
            lines += [] if name in without else [f"    {name}: {kind}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
