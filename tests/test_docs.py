"""The README and the guides: every block of code is run, every link leads somewhere, the site builds without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import doc_blocks
import pytest
import yaml
from doc_blocks import PAGES, ROOT, Block, Inline, all_blocks, blocks_of
from plotly.basedatatypes import BaseFigure
from tiny_families import tiny_family
from typer.main import get_command

import s3pet_viz
from s3pet_viz.cli import app

LANGUAGES = {"python", "sh", "yaml", "json", "text", "diff", ""}
#: Pages with blocks that cannot be run here, and how many: a new one has to be counted, with its reason on the page.
NOT_RUN = {
    "CONTRIBUTING.md": 2,
    "docs/cluster.md": 3,
    "docs/compare.md": 1,
    "docs/explain.md": 1,
    "docs/export.md": 1,
    "docs/performance.md": 1,
    "docs/reliability.md": 1,
    "docs/search.md": 2,
    "docs/tracking.md": 2,
    "docs/transfer.md": 1,
    "docs/views.md": 1,
}
FACE = set(s3pet_viz.__all__)
FIGURES = set(s3pet_viz.figures.__all__)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """The folder of a tiny decoder-only language model."""
    folder, tiny = tmp_path_factory.mktemp("causal"), tiny_family("llama")
    tiny.model().save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:task reviews. .*read off column:UserWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks transformers 5 for it
@pytest.mark.usefixtures("forked_launches", "studies_in_threads")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p)], ids=_name)
def test_blocks_run(page, tmp_path, monkeypatch, causal):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BaseFigure, "show", lambda figure, *_, **__: figure.to_json())
    names = {"__name__": "__main__", "inline": Inline(), "causal": causal}
    for block in blocks_of(page):
        if block.language == "python":
            doc_blocks.check_python(block, FACE, FIGURES)
            if not block.skipped:
                doc_blocks.run_python(block, names)
        elif block.language == "sh":
            if block.skipped:
                for words in doc_blocks.lines_of(block):
                    doc_blocks.check_line(block, words)
            else:
                doc_blocks.run_sh(block)
        else:
            assert block.language in LANGUAGES, block.place


def test_blocks_that_are_not_run_are_counted():
    skipped = [block for block in all_blocks() if block.skipped]
    print("\n".join(f"{block.place}: {block.skipped}" for block in skipped))
    assert Counter(_name(block.page) for block in skipped) == NOT_RUN
    assert all(block.language in ("python", "sh") for block in skipped)


def test_quoted_code_is_that_of_the_file():
    """Blocks that are not run because they are a file's own lines."""
    quoted = [block for block in all_blocks() if block.skipped.startswith("as it stands in ")]
    assert quoted
    for block in quoted:
        assert block.code in (ROOT / block.skipped.split()[-1]).read_text(encoding="utf-8"), block.place


def test_every_command_is_shown():
    lines = [words for b in all_blocks() if b.language == "sh" for words in doc_blocks.lines_of(b)]
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {words[1] for words in lines if words[0] == "s3pet"} >= commands - {"demo"}  # that is `make demo`


def test_a_marker_changes_what_it_names():
    block = Block(ROOT / "README.md", 1, "python", "f.g(1, a=2)\nh = f.g(b=3)\n", changed="g(a=5)")

    class Calls(list):
        def g(self, *args, **kwargs):
            self.append((args, kwargs))

    names = {"f": Calls()}
    doc_blocks.run_python(block, names)
    assert names["f"] == [((1,), {"a": 5}), ((), {"b": 3, "a": 5})]
    with pytest.raises(AssertionError, match="names calls that are not there"):
        doc_blocks.run_python(Block(ROOT / "README.md", 1, "python", "f.h\n", changed="g(a=5)"), {"f": property()} | {"f": Block})
    with pytest.raises(AssertionError, match="s3.serach"):
        doc_blocks.check_python(Block(ROOT / "README.md", 1, "python", "s3.serach()\n"), FACE, FIGURES)
    for line in ("s3pet serach", "python benchmarks/speed/views.py --nothing 3", "make coffee", "rm -r data"):
        with pytest.raises(AssertionError, match=line.split()[1]):
            doc_blocks.run_sh(Block(ROOT / "README.md", 1, "sh", line))
    with pytest.raises(Exception, match="--bugdet"):
        doc_blocks.check_line(block, "accelerate launch -m s3pet_viz search --bugdet 3".split())


# -- links and lines ---------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
#: data/README.md is no page of ours to run, but its links count.
#: A file of the repository as text names it: with its first folder, or with its folder in s3pet_viz/.
_FOLDERS = "|".join(
    [*("s3pet_viz tests benchmarks tools docs notebooks search results report".split()),
     *(path.parent.name for path in (ROOT / "s3pet_viz").glob("*/__init__.py"))]
)  # fmt: skip
_NAMED = re.compile(rf"(?<![\w./~-])(?:{_FOLDERS})/[\w./-]*\.(?:py|md|mjs|js|jsonl|ipynb|yml|png)\b")


def _texts(*suffixes: str) -> list[Path]:
    folders = ("s3pet_viz", "tests", "benchmarks", "tools", "docs", "data", "notebooks")
    found = [p for folder in folders for suffix in suffixes for p in (ROOT / folder).rglob(f"*.{suffix}")]
    return [*(p for p in found if ROOT / "notebooks" / "runs" not in p.parents), *ROOT.glob("*.md")]


def test_files_that_are_named_are_there():
    wrong, found = [], 0
    for path in [*_texts("md", "py", "js"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        for name in _NAMED.findall(path.read_text(encoding="utf-8")):
            found += 1
            if not any((folder / name).is_file() for folder in (ROOT, ROOT / "s3pet_viz", ROOT / "tests")):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong
    assert found > 200


def test_nothing_outside_the_repository_is_cited():
    """Another folder's name can be an example (``/shared/runs``); a file beside the repository is nobody else's."""
    for path in _texts("md", "py", "js", "ipynb", "json", "jsonl"):
        assert "../" + "shared" not in path.read_text(encoding="utf-8"), path


LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "data" / "README.md", ROOT / "benchmarks" / "NOTES.md"]


def _anchor(heading: str) -> str:
    """GitHub's and MkDocs' name of a heading, for plain headings."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", LINKED, ids=_name)
def test_links_resolve_in_the_repository(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in _LINK.findall(text):
        if re.match(r"https?://", link) or link.startswith("../../../commit/"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{_name(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{_name(page)}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{_name(page)}: {link}"


#: Written by a script.
UNWRAPPED = {"docs/compatibility.md"}


@pytest.mark.parametrize("page", [p for p in PAGES if _name(p) not in UNWRAPPED], ids=_name)
def test_prose_is_wrapped(page):
    long = [
        number
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > 120 and not line.startswith(("|", "![", "<!--")) and "](" not in line
    ]
    assert not long, f"{_name(page)}: lines {long} are longer than 120 characters"


def test_citation_and_changes_know_the_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format demands
    assert cited["version"] == s3pet_viz.__version__
    assert f"\n## {s3pet_viz.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_figure_file_is_listed():
    for path in (ROOT / "s3pet_viz" / "figures").glob("[!_]*.py"):
        assert path.stem in FIGURES, path
        assert path.stem in ("save", "caption") or f"{path.stem}_table" in FIGURES, path


def test_pictures_are_small():
    sizes = {picture: picture.stat().st_size for picture in (ROOT / "docs").rglob("*.png")}
    assert all(size < 150_000 for size in sizes.values()), sizes
    assert sum(sizes.values()) < 1_500_000


# -- the site ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    result = subprocess.run(
        [*command, "-f", str(ROOT / "docs/mkdocs/mkdocs.yml"), "-d", str(folder)],
        text=True, capture_output=True, check=False, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_site_has_every_page_and_name(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file() or page.stem == "index", page
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    homes = {name: getattr(s3pet_viz, name) for name in FACE - {"errors", "figures", "widgets", "__version__"}}
    for name, value in homes.items():
        assert re.search(rf'id="s3pet_viz\.[\w.]*\.{name}"', api), f"docs/api.md lacks {value.__module__}.{name}"
    for name in FIGURES:
        assert re.search(rf'id="s3pet_viz\.figures\.[\w.]*\.?{name}"', api), name


def test_site_loads_nothing_from_a_network(site):
    loaded = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc="https?:|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="https?:""")
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text(encoding="utf-8")), sheet
