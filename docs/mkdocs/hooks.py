"""What the site needs beyond MkDocs.

Links of the guides to files outside docs/ lead to those files on GitHub, and in the site to a copy under ``repo/``. The
reference lists every figure.
"""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")
#: A browser shows these as they are; other texts get a name that it shows too.
_SHOWN = {".png", ".html", ".txt"}
log = logging.getLogger("mkdocs.hooks")


def on_config(config: Any, **_: Any) -> Any:
    """Pages that the menu does not place stand with the background."""
    (background,) = (part["Background"] for part in config.nav if isinstance(part, dict) and "Background" in part)
    placed = str(config.nav)
    background += [p.name for p in sorted(Path(config.docs_dir).glob("*.md")) if f"'{p.name}'" not in placed]
    return config


def _copy(path: str) -> str:
    return f"repo/{path}" if Path(path).suffix in _SHOWN else f"repo/{path}.txt"


def _figures() -> str:
    """The reference of each figure, from the list in ``figures/__init__.py``."""
    tree = ast.parse((ROOT / "s3pet_viz" / "figures" / "__init__.py").read_text(encoding="utf-8"))
    made = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return "\n\n".join(f"::: {node.module}.{alias.name}" for node in made for alias in node.names)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds each linked file of the repository, once."""
    linked = {
        path
        for page in files.documentation_pages()
        for path in _LINK.findall(page.content_string)
        if not path.startswith("../")
    }
    for path in sorted(linked):
        source = ROOT / path
        if not source.is_file():
            log.warning("link to a file that is not in the repository: ../%s", path)  # with --strict the build fails
            continue
        files.append(File.generated(config, _copy(path), content=source.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    # ../../../commit/... leads out of the repository's files: only GitHub can follow it.
    markdown = re.sub(r"\[([^\]]*)\]\(\.\./\.\./[^)]*\)", r"\1", markdown)
    markdown = markdown.replace("<!-- every name of s3pet_viz.figures -->", _figures())
    return _LINK.sub(lambda found: f"]({_copy(found[1])})", markdown)
