"""Writes the recorded studies' tables into docs/results.md, between their markers.

    python benchmarks/studies/paste_results.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs/results.md"
#: Marker -> what prints its tables.
TABLES = {
    "study:tiny-t5": ["print_study.py", "tiny-t5"],
    "study:minilm": ["print_study.py", "minilm"],
    "study:minilm-open": ["minilm_open.py", "--print"],
}


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for marker, (script, *arguments) in TABLES.items():
        done = subprocess.run(
            [sys.executable, HERE / script, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
        )
        table = done.stdout.strip()
        block = re.compile(rf"(?s)(<!-- {marker} -->\n).*?(\n<!-- /{marker} -->)")
        text, n = block.subn(lambda found, table=table: found[1] + table + found[2], text)
        assert n == 1, f"{PAGE}: {n} places for {marker}"
        print(f"{marker}: {len(table.splitlines())} lines")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
