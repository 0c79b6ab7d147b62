"""``s3pet watch``: a search, live in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from s3pet_viz.cli import _common as c
from s3pet_viz.errors import RunError, printable

if TYPE_CHECKING:
    from rich.console import Console, Group

    from s3pet_viz.viewer.feed import Feed, Frame

RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or a recorded run's name.", show_default=False)
]
Once = Annotated[bool, typer.Option("--once", help="Show it as it is now, and leave.")]
Every = Annotated[float, typer.Option(help="Where the output is no terminal: seconds from line to line.", min=0.1)]

#: Seconds from look to look, and so at least from picture to picture: at most 5 a second.
_LOOK = 0.2
_BAR = 24
_ERROR_LINES = 8
_SIGNS = {"running": "▶", "paused": "❚❚", "finished": "✔", "stopped": "■", "failed": "✖", "dead": "✖"}
_COLOURS = {"running": "bold blue", "finished": "bold green", "failed": "bold red", "dead": "bold red"}
_LEVELS = {"problem": "bold red", "warning": "yellow", "good": "green"}


def watch(run: RunFolder, once: Once = False, every: Every = 5.0) -> None:
    """Watch a search: its heatmap, losses, budget and time left, until it has ended.

    Ctrl-C leaves; the search goes on. Exit code 1 where the search failed or died.
    """
    from s3pet_viz.viewer.feed import Feed

    model = Feed(run)
    out = c.console()
    try:
        if once:
            frame = next(_frames(model))
            out.print(picture(model, frame, out.width))
        elif out.is_terminal and not out.is_dumb_terminal:
            frame = _show(model, out)
        else:
            frame = _tell(model, out, every)
    except KeyboardInterrupt as interrupt:
        c.say(
            f"\nleft; the search goes on. Look again: s3pet watch {c.quoted(run)}; end it: s3pet stop {c.quoted(run)}"
        )
        interrupt.explained = True  # type: ignore[attr-defined]
        raise
    if not once and frame.status in ("stopped", "failed", "dead"):
        c.say(f"go on with: s3pet resume {c.quoted(run)}")
    if frame.status in ("failed", "dead"):
        raise typer.Exit(1)


def _frames(model: Feed) -> Iterator[Frame]:
    """The run now, and then at each look, until it has ended; the last one is of the end.

    Raises:
        RunError: it cannot be read, at first or ever again.
    """
    from s3pet_viz.runs.layout import RUN_JSON
    from s3pet_viz.viewer.feed import Frame

    frame = model.poll() or Frame()
    if frame.problem is not None:
        raise RunError(frame.problem)
    while True:
        yield frame
        if frame.ended:
            return
        time.sleep(_LOOK)
        frame = model.poll() or frame
        if frame.problem is not None and not (model.path / RUN_JSON).exists():
            raise RunError(frame.problem)


def _show(model: Feed, out: Console) -> Frame:
    """One picture that is drawn anew where something has changed."""
    from rich.live import Live

    drawn: object = None
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        for frame in _frames(model):
            size = out.size
            if drawn is None or drawn[0] is not frame or drawn[1] != size:  # type: ignore[index]
                live.update(picture(model, frame, size.width, size.height - 1), refresh=True)
                drawn = (frame, size)
    return frame


def _tell(model: Feed, out: Console, every: float) -> Frame:
    """A line at once, then every so many seconds, and one of the end. No control codes."""
    told, said = -math.inf, ""
    for frame in _frames(model):
        now = time.monotonic()
        if now - told >= every or frame.ended or frame.status != said:
            out.print(line(frame), soft_wrap=True)
            told, said = now, frame.status
    if frame.error:
        out.print(printable(frame.error), soft_wrap=True)
    return frame


# -- what is shown -----------------------------------------------------------------------------------------


def line(frame: Frame) -> str:
    """The run in one line."""
    losses = _losses(frame)
    said = [f"{frame.status} {frame.early_stop}"] if frame.early_stop else [frame.status, _progress(frame)]
    words = [*said, _left(frame), losses and f"loss {losses}", _expected(frame)]
    words.append(frame.problem or "")
    return printable(" · ".join(word for word in words if word))


def picture(model: Feed, frame: Frame, width: int, height: int | None = None) -> Group:
    """The run as a block of lines.

    Args:
        width, height: of the terminal; a heatmap that is too tall is cut, and says so. None: as tall as it gets.
    """
    from rich.console import Group
    from rich.text import Text

    from s3pet_viz.viewer.text import text_heatmap

    name = printable(model.run.name if model.run is not None else model.path)
    status = f"{_SIGNS.get(frame.status, '◌')} {frame.status}"
    top = [Text.assemble((status, _COLOURS.get(frame.status, "bold")), f"  {name}")]
    facts = [("steps", "  ".join(word for word in (_bar(frame), _progress(frame), _left(frame)) if word))]
    facts += [("ended", f"early, {printable(frame.early_stop)}" if frame.early_stop else "")]
    facts += [("loss", _losses(frame)), ("budget", _expected(frame)), ("chosen", _chosen(frame))]
    top += [Text.assemble((f"{what:<8}", "dim"), said) for what, said in facts if said]
    for finding in frame.findings:
        top.append(Text.assemble((f"{'health':<8}", "dim"), (printable(finding.title), _LEVELS.get(finding.level, ""))))
    if frame.problem is not None:
        top.append(Text(f"cannot be read now: {printable(frame.problem)}", style="red"))
    if frame.error:
        for part in printable(frame.error).splitlines()[-_ERROR_LINES:]:
            top.append(Text(part, style="red"))
    top.append(Text(""))
    if frame.p is None or frame.selected is None:
        grid = [Text("no steps recorded yet")]
    else:
        pinned = (model.run.pinned_in, model.run.pinned_out) if model.run is not None else ((), ())
        made = text_heatmap(model.gates, frame.p, frame.selected, pinned=pinned, width=width)
        grid = [part for part in made.renderables if isinstance(part, Text)]
    for text in (*top, *grid):
        text.plain = printable(text.plain)  # names of modules come from a file
        text.no_wrap, text.overflow = True, "ellipsis"
    room = len(grid) if height is None else max(0, height - len(top))
    if len(grid) > room:
        cut = len(grid) - max(0, room - 1)
        grid = [*grid[: max(0, room - 1)], Text(f"… {cut} more lines: make the terminal taller", style="dim")]
    return Group(*top, *grid)


def _done(frame: Frame) -> int:
    return 0 if frame.step is None else frame.step + 1


def _bar(frame: Frame) -> str:
    if not frame.steps_total:
        return ""
    full = min(_BAR, _BAR * _done(frame) // frame.steps_total)
    return "━" * full + "─" * (_BAR - full)


def _progress(frame: Frame) -> str:
    done = _done(frame)
    if not frame.steps_total:
        return f"step {done:,}"
    return f"step {done:,} of {frame.steps_total:,} ({min(1.0, done / frame.steps_total):.0%})"


def _left(frame: Frame) -> str:
    from s3pet_viz.runs.status import duration

    seconds = frame.seconds_left
    return f"{duration(seconds)} left" if seconds is not None and math.isfinite(seconds) else ""


def _losses(frame: Frame) -> str:
    names = {"train_loss": "train", "val_loss": "validation"} if frame.scalars else {}
    known = [(frame.scalars[name], what) for name, what in names.items()]
    return ", ".join(f"{value:.4g} {what}" if math.isfinite(value) else f"– {what}" for value, what in known)


def _expected(frame: Frame) -> str:
    if not frame.scalars:
        return ""
    of = f" of {frame.budget:,}" if frame.budget else ""
    return f"{frame.scalars['expected']:,.1f}{of} parameters expected"


def _chosen(frame: Frame) -> str:
    if frame.selected is None:
        return ""
    return f"{int(frame.selected.sum()):,} gates, {frame.chosen_params or 0:,} parameters"
