"""The code blocks of the guides: found, read and run, each page in its own folder.

A block runs as it stands, unless a comment on the line above it says otherwise::

    <!-- not run: needs a cluster -->
    <!-- run with: search(steps=2), tune(steps=1) -->
    <!-- run with: search --steps 2; tune --steps 1 -->

``run with`` gives arguments of the named calls (of ``s3.search(...)``, or of ``s3pet search`` lines) that the test
adds or puts in the place of those on the page. ``causal`` names the folder of a tiny decoder-only language model.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from typer.main import get_command
from typer.testing import CliRunner

from s3pet_viz.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_MARK = re.compile(r"<!-- (not run|run with): (.+) -->")
#: Set-up and benchmarks take minutes wherever they stand: only looked at (`check_line`).
_MINUTES = ("make", "python")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    skipped: str = ""
    changed: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    mark: tuple[str, str] | None = None
    fence: tuple[int, str] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None and line.startswith("```"):
            fence, lines = (number, line[3:].strip()), []
        elif fence is not None and line.rstrip() == "```":
            kind, text = mark or ("", "")
            found.append(
                Block(
                    page, fence[0], fence[1], "\n".join(lines) + "\n",
                    skipped=text if kind == "not run" else "", changed=text if kind == "run with" else "",
                )
            )  # fmt: skip
            fence = mark = None
        elif fence is not None:
            lines.append(line)
        elif line.strip():
            match = _MARK.fullmatch(line.strip())
            assert match or ("<!-- run" not in line and "<!-- not run" not in line), f"{page}:{number}: {line}"
            mark = (match[1], match[2]) if match else None
    assert fence is None, f"{page}:{fence}: a block that does not end"
    return found


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


# -- python ------------------------------------------------------------------------------------------------


class Inline(Executor):
    """Does the work of a study in this process, so that torch is loaded once."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _Change(ast.NodeTransformer):
    def __init__(self, calls: dict[str, ast.Call]) -> None:
        self.calls, self.used = calls, set[str]()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in self.calls:
            self.used.add(name)
            names = {k.arg for k in self.calls[name].keywords}
            node.keywords = [k for k in node.keywords if k.arg not in names] + self.calls[name].keywords
            node.args = self.calls[name].args or node.args
        return node


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Executes the block in `names`, its errors shown at the page's own lines."""
    tree = ast.parse("\n" * block.line + block.code, filename=str(block.page))
    if block.changed:
        calls: Any = ast.parse(f"({block.changed},)", mode="eval").body
        change = _Change({call.func.id: call for call in calls.elts})
        tree = ast.fix_missing_locations(change.visit(tree))
        assert change.used == set(change.calls), f"{block.place}: 'run with' names calls that are not there"
    exec(compile(tree, str(block.page), "exec"), names)


def check_python(block: Block, face: set[str], figures: set[str]) -> None:
    """The block compiles, and what it takes from ``s3`` and ``s3.figures`` is there."""
    tree = ast.parse(block.code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "s3":
            assert node.attr in face, f"{block.place}: s3.{node.attr}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "s3.figures":
            assert node.attr in figures, f"{block.place}: s3.figures.{node.attr}"


# -- sh ----------------------------------------------------------------------------------------------------


def lines_of(block: Block) -> Iterator[list[str]]:
    """The words of each command; comments off, lines that end in a backslash joined."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_sh(block: Block) -> None:
    """Runs the ``s3pet`` lines in this process; those of `_MINUTES` are looked at."""
    changes = {}
    for part in filter(None, block.changed.split(";")):
        command, *more = shlex.split(part)
        changes[command] = more
    used = set()
    for words in lines_of(block):
        check_line(block, words)
        assert words[0] in ("s3pet", *_MINUTES), f"{block.place}: {shlex.join(words)}: mark it 'not run', and say why"
        if words[0] == "s3pet":
            used.add(words[1])
            arguments = [*words[1:], *changes.get(words[1], ())]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{block.place}: s3pet {shlex.join(arguments)}\n{result.output}"
    assert set(changes) <= used, f"{block.place}: 'run with' names commands that are not there"


def check_line(block: Block, words: list[str]) -> None:
    """A command exists, with its options: ours by typer, scripts by their arguments, make by its targets."""
    if words[0] == "accelerate" or words[0] == "torchrun":
        at = words.index("s3pet_viz")
        words = ["s3pet", *words[at + 1 :]]
    where = f"{block.place}: {shlex.join(words)}"
    if words[0] == "s3pet":
        commands = get_command(app).commands  # type: ignore[attr-defined]
        assert words[1] in commands, where
        command: click.Command = commands[words[1]]
        command.make_parser(click.Context(command)).parse_args(args=list(words[2:]))  # an unknown option raises
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets, where
    elif words[0] == "python":
        script = ROOT / words[1]
        assert script.is_file(), where
        options = {w for w in words[2:] if w.startswith("--")}
        assert all(f'"{option}"' in script.read_text() for option in options), where


