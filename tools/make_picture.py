"""Draw the picture of the README: a heatmap of a run, as PNG, with headless Chromium.

    python tools/make_picture.py out/demo/run docs/heatmap.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import s3pet_viz as s3

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=2 "
    "--virtual-time-budget=10000"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--width", type=int, default=900)
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("make_picture: expected Chromium on the PATH (apt-get install chromium), found none")
    figure = s3.figures.heatmap(s3.open_run(args.run))
    figure.update_layout(width=args.width)
    height = int(figure.layout.height or 600)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(
            f"<body style='margin:0'>{figure.to_html(include_plotlyjs=True, config={'displayModeBar': False})}</body>"
        )
        subprocess.run(
            [chromium, *FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={args.width},{height}",
             f"--screenshot={args.png.resolve()}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    print(f"{args.png}: {args.width} x {height}")


if __name__ == "__main__":
    main()
