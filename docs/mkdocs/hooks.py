"""What the site needs beyond MkDocs.

Links of the guides to files outside docs/ lead to those files on GitHub, and in the site to a copy under ``repo/``. The
reference lists every figure. The menu lists the notebooks. Below a comment ``<!-- viewer of RUN -->`` the site has the
viewer itself, of that recorded run, in the place of the picture that stands there for GitHub.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Link, Navigation, Section

from s3pet_viz.config import SearchConfig, TuneConfig
from s3pet_viz.config.options import options_of
from s3pet_viz.config.scoring import ScoreConfig
from s3pet_viz.sources import open_run
from s3pet_viz.viewer.page import run_state, standing_page

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")
#: A browser shows these as they are; other texts get a name that it shows too.
_SHOWN = {".png", ".html", ".txt"}
_VIEWER = re.compile(r"<!-- viewer of ([\w.-]+) -->\n+!\[([^\]]*)\]\([^)]*\)")
#: The viewer in a frame, which is told the colours of the site, now and when they change; what is selected stays.
_FRAME = """<iframe id="viewer" src="viewer/{run}.html" title="{words}" loading="eager"
style="width:100%;height:820px;border:1px solid var(--md-default-fg-color--lightest)"></iframe>
<script>
{{
  const frame = document.getElementById("viewer"), site = document.body;
  const tell = () => frame.contentWindow.postMessage({{ scheme: site.dataset.mdColorScheme }}, "*");
  frame.addEventListener("load", tell);
  new MutationObserver(tell).observe(site, {{ attributes: true, attributeFilter: ["data-md-color-scheme"] }});
}}
</script>"""
#: In the frame: what the site tells is what JupyterLab would.
_HEARD = """<script>
addEventListener("message", ({ source, data }) => {
  if (source === parent && typeof data?.scheme === "string") document.body.dataset.jpThemeLight = String(data.scheme !== "slate");
});
</script>"""
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{max-width:960px;margin:24px auto;padding:0 16px;font:15px/1.5 sans-serif;color:#1f2933}}
img,svg{{max-width:100%;height:auto}}pre{{overflow:auto;background:#f5f7f9;padding:8px}}
.output_area pre,.output pre{{background:none}}td,th{{padding:2px 10px}}</style>
{body}</html>"""
log = logging.getLogger("mkdocs.hooks")


def on_config(config: Any, **_: Any) -> Any:
    """Pages that the menu does not place stand with the background."""
    (background,) = (part["Background"] for part in config.nav if isinstance(part, dict) and "Background" in part)
    placed = str(config.nav)
    background += [p.name for p in sorted(Path(config.docs_dir).glob("*.md")) if f"'{p.name}'" not in placed]
    return config


def notebook_html(path: Path) -> str:
    """A notebook as a page without scripts, as GitHub shows it: of figures and widgets the pictures."""
    # jsonschema, which nbconvert loads, would build 38 grammars of addresses (3 s); notebooks have none to check.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    shown = ["text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain"]
    exporter = HTMLExporter(config=Config({"NbConvertBase": {"display_data_priority": shown}}), template_name="basic")
    body, _ = exporter.from_filename(str(path))
    return _PAGE.format(title=path.stem, body=body)


def _copy(path: str) -> str:
    if path.endswith(".ipynb"):
        return f"repo/{path.removesuffix('.ipynb')}.html"
    return f"repo/{path}" if Path(path).suffix in _SHOWN else f"repo/{path}.txt"


def _options(config: type) -> str:
    """A table of the options, from their fields."""
    rows = [f"| `{one.name}` | {one.text.replace('|', chr(92) + '|')} |" for one in options_of(config).values()]
    return "\n".join(["| option | |", "|---|---|", *rows])


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
        content = notebook_html(source) if source.suffix == ".ipynb" else source.read_bytes()
        files.append(File.generated(config, _copy(path), content=content))
    for name in sorted({found[1] for page in files.documentation_pages() for found in _VIEWER.finditer(page.content_string)}):
        state = run_state(open_run(name), key="run", theme="auto")
        files.append(File.generated(config, f"viewer/{name}.html", content=standing_page(name, state, _HEARD)))
    return files


def on_nav(nav: Navigation, files: Files, **_: Any) -> Navigation:
    """The notebooks stand behind the first pages, under the names that they give themselves."""
    books = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if _copy(f"notebooks/{path.name}") in files.src_uris]
    titles = ["".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0] for path in books]
    links = [Link(title.lstrip("# "), _copy(f"notebooks/{path.name}")) for title, path in zip(titles, books, strict=True)]
    at = next(i for i, item in enumerate(nav.items) if isinstance(item, Section))
    nav.items.insert(at, Section("Notebooks", links))  # type: ignore[arg-type]
    return nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    # ../../../commit/... leads out of the repository's files: only GitHub can follow it.
    markdown = re.sub(r"\[([^\]]*)\]\(\.\./\.\./[^)]*\)", r"\1", markdown)
    markdown = _VIEWER.sub(lambda found: _FRAME.format(run=found[1], words=found[2]), markdown)
    for config in (SearchConfig, TuneConfig, ScoreConfig):
        markdown = markdown.replace(f"<!-- options of {config.__name__} -->", _options(config))
    markdown = markdown.replace("<!-- every name of s3pet_viz.figures -->", _figures())
    return _LINK.sub(lambda found: f"]({_copy(found[1])})", markdown)
