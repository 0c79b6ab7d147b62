"""A heatmap for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Group
from rich.style import Style
from rich.text import Text

from s3pet_viz.analysis.grid import Grid
from s3pet_viz.errors import RunError, printable
from s3pet_viz.structure import Gate

#: Light to dark: the shade alone tells the level where there is no colour.
_SHADES = "·░▒▓█"
_COLOURS = ("#9db7d1", "#7fa8d1", "#4a8cc2", "#2f74b5", "#1f5f9f")
_CHOSEN = Style(color="#f26b1d", bold=True)
_WIDTH = 80


def text_heatmap(
    gates: Sequence[Gate],
    p: ArrayLike | None,
    selected: ArrayLike,
    *,
    pinned: tuple[Sequence[Gate], Sequence[Gate]] = ((), ()),
    texts: Sequence[str] | None = None,
    width: int | None = None,
) -> Group:
    """Rows = module and PET type, columns = layers, a shaded block per gate, ● after chosen ones.

    Units share the block of their position: the sum of their p, and in place of ● the rank, how many are chosen.

    The encoder stands beside the decoder where both fit, else above it; a stack that does not fit is
    folded. Print it with a `rich.console.Console`; it reads without colour too.

    Args:
        gates: the search space, shape (n_gates,).
        p: shape (n_gates,), probabilities; shaded on the scale 0 to the largest p. None: only the choice is shown.
        selected: shape (n_gates,) of bool, or indices of the chosen gates.
        pinned: gates that were pinned in and out, which are not among `gates`: ■ and ×.
        texts: what stands behind the sign of each gate, shape (n_gates,); of units that share a cell the first one's.
        width: columns of the terminal; 80 where not given.

    Raises:
        RunError: shapes differ.
    """
    values = np.asarray(np.zeros(len(gates)) if p is None else p, dtype=np.float64)
    if values.shape != (len(gates),) or not len(gates):
        raise RunError(f"p: expected one value per gate, shape ({len(gates)},), found {values.shape}")
    chosen = np.zeros(len(gates), dtype=bool)
    mask = np.asarray(selected)
    if mask.dtype == bool and mask.shape != values.shape:
        raise RunError(f"selected: expected shape ({len(gates)},), found {mask.shape}")
    chosen[mask if mask.dtype == bool else mask.astype(np.int64)] = True

    ranks: dict[tuple[int, int], int] = {}
    inside, outside = pinned
    grid = Grid(gates, (), [*inside, *outside])
    if any(gate.unit is not None for gate in gates):  # one cell for the units of a position: the sum of p, and the rank
        at = list(zip(grid.row.tolist(), grid.col.tolist(), strict=True))
        sums = dict.fromkeys(at, 0.0)
        for cell, value, mark, gate in zip(at, values, chosen, gates, strict=True):
            sums[cell] += float(value)
            ranks[cell] = ranks.get(cell, 0) + int(mark and gate.unit is not None)
        values = np.array([sums[cell] for cell in at])
    high = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    levels = np.zeros(len(gates), dtype=np.int64)
    if high > 0:
        levels = np.clip(np.nan_to_num(values) / high * len(_SHADES), 0, len(_SHADES) - 1).astype(np.int64)
    cells = {}
    for row, column, level, mark in zip(grid.row.tolist(), grid.col.tolist(), levels, chosen, strict=True):
        rank = ranks.get((row, column), 0)
        sign = "●" if mark and not rank else " " if not rank else str(rank) if rank < 10 else "+"
        cells[grid.rows[row], grid.columns[column]] = (int(level), sign)
    for i, (row, column) in enumerate(grid.pinned.T.tolist()):
        cell = grid.rows[row], grid.columns[column]
        shade, sign = cells.get(cell, (-1, " "))
        cells[cell] = shade, sign if sign != " " else "■" if i < len(inside) else "×"
    labels = {row: _short(row) for row in grid.rows}
    margin = max(len(label) for label in labels.values()) + 1
    said: dict[tuple[str, str], str] = {}
    for row, column, words in zip(grid.row.tolist(), grid.col.tolist(), texts or (), strict=texts is not None):
        said.setdefault((grid.rows[row], grid.columns[column]), words)
    wide = 2 + max((len(words) + 1 for words in said.values() if words), default=0)
    room = max(wide, (width or _WIDTH) - margin)
    blocks = [_block(columns, labels, cells, margin, said, wide) for columns in _fold(grid.columns, room, wide)]
    lines = [line for i, block in enumerate(blocks) for line in ([Text("")] if i else []) + block]
    legend = _legend(None if p is None else high, int(chosen.sum()), width or _WIDTH, bool(ranks))
    if inside or outside:
        legend.append(Text(f"■ pinned in by hand ({len(inside):,}), × pinned out ({len(outside):,}): not searched"))
    return Group(*lines, Text(""), *legend)


def _fold(columns: list[str], room: int, wide: int) -> list[list[str]]:
    """Columns of each block; "" is the gap between the stacks. A column takes so many characters."""
    if wide * len(columns) <= room:
        return [columns]
    per = room // wide
    stacks = [list(stack) for named, stack in itertools.groupby(columns, key=bool) if named]
    return [stack[i : i + per] for stack in stacks for i in range(0, len(stack), per)]


def _block(
    columns: list[str],
    labels: dict[str, str],
    cells: dict[tuple[str, str], tuple[int, str]],
    margin: int,
    said: dict[tuple[str, str], str],
    wide: int,
) -> list[Text]:
    lines = [Text(" " * margin + line.rstrip(), style="dim") for line in _header(columns, wide)]
    for row, label in labels.items():
        line = Text(label.ljust(margin))
        for column in columns:
            if (row, column) not in cells:
                line.append(" " * wide)
                continue
            level, sign = cells[row, column]
            line.append(_SHADES[level] if level >= 0 else " ", Style(color=_COLOURS[level]))
            line.append(sign, "" if sign in " ■×" else _CHOSEN)
            line.append(said.get((row, column), "").ljust(wide - 2))
        line.rstrip()
        if any((row, column) in cells for column in columns):
            lines.append(line)
    return lines


def _header(columns: list[str], wide: int) -> list[str]:
    """The stack's name, the tens and the ones of the layer numbers; e and f are the outer norms."""
    name = ""
    for letter, stack in itertools.groupby(columns, key=lambda column: column[:1]):
        word, room = {"E": "encoder", "D": "decoder"}.get(letter, letter), wide * len(list(stack))
        name += (word if len(word) <= room else letter).ljust(room)
    short = [column.partition(".")[2] for column in columns]
    short = [{"emb": "e", "final": "f"}.get(label, label) for label in short]
    tens = "".join((label[:-1][-1:] or " ").ljust(wide) for label in short)
    ones = "".join((label[-1:] or " ").ljust(wide) for label in short)
    return [name, *([tens] if tens.strip() else []), ones]


def _legend(high: float | None, n_chosen: int, width: int, ranked: bool) -> list[Text]:
    chosen = Text("3 rank, ● " if ranked else "● ", _CHOSEN)
    chosen.append(f"chosen ({n_chosen:,})", Style.null())
    if high is None:
        return [chosen]
    shades = Text("sum of p  " if ranked else "p  ")
    for level, shade in enumerate(_SHADES):
        shades.append(shade, Style(color=_COLOURS[level]))
        shades.append(f" {high * (level + 1) / len(_SHADES):.2g}  " if high > 0 else " 0  ")
    shades.append("(upper ends)", "dim")
    if shades.cell_len + 3 + chosen.cell_len <= width:
        return [Text.assemble(shades, "   ", chosen)]
    return [shades, chosen]


def _short(row: str) -> str:
    return printable(row.replace(" · ", " ", 1).replace("LowRankAdapter", "LRA"))
