"""``s3pet pause | resume | stop``: what a detached search is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s3pet_viz.cli import _common as c

RunFolder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def pause(run: RunFolder) -> None:
    """Hold a search after its present step; it keeps its memory."""
    from s3pet_viz.sources import RUN, open_source

    open_source(run, allow=RUN).pause()
    c.say("asked to pause")


def resume(run: RunFolder) -> None:
    """Let a paused search go on, or continue one that was stopped, failed or died, in a process of its own."""
    from s3pet_viz.launcher import relaunch
    from s3pet_viz.sources import RUN, open_source

    found = open_source(run, allow=RUN)
    if found.ended:
        found = relaunch(found)
        c.say(f"searching in process {found.info['pid']}: {found.path}")
    else:
        found.resume()
        c.say("asked to go on")


def stop(run: RunFolder) -> None:
    """End a search after its present step; it can be continued."""
    from s3pet_viz.sources import RUN, open_source

    open_source(run, allow=RUN).stop()
    c.say("asked to stop")
