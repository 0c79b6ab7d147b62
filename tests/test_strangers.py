"""A run, structure or study of a stranger's is safe to open: its text stays text wherever it is shown."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
import report_problems
from report_problems import write_run
from transfer_problems import write_study

from s3pet_viz import figures, open_run
from s3pet_viz.analysis import Study, Transfer
from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.analysis.health import health
from s3pet_viz.analysis.study import is_plain
from s3pet_viz.cli._output import heatmap_page
from s3pet_viz.errors import printable
from s3pet_viz.reports import page as page_module
from s3pet_viz.reports import report
from s3pet_viz.resources import find_resource
from s3pet_viz.runs.naming import new_folder
from s3pet_viz.structure import Structure
from s3pet_viz.studies.cells import key_of
from s3pet_viz.widgets import CompareRuns, LiveView, StructureExplorer, TransferExplorer

ROOT = Path(__file__).parent.parent
CHROME = Path("/usr/bin/chromium")
#: Each runs code, loads something, or looks like the page's own words, where it is not escaped.
PAYLOADS = {
    "script": "<script>window.ran=1</script>",
    "close": "</script></title></style><img src=x onerror=window.ran=1>",
    "link": '<a href="javascript:window.ran=1">open</a>',
    "svg": "<svg/onload=window.ran=1>",
    "attribute": "' onmouseover='window.ran=1' x='",
    "double": '" onmouseover="window.ran=1" x="',
    "bold": "<b>bold</b><br><i>x</i>",
    "entity": "&lt;img src=x onerror=window.ran=1&gt;",
    "comment": "<!--",
}
#: What the figures themselves put into plotly's labels.
OWN = re.compile(r"</?(?:b|br|i|sup|sub|span style=\"color:#[0-9a-f]{6}\"|span|extra)>")


@pytest.fixture(params=["bold", "all"])
def evil(request) -> str:
    """Each payload alone changes nothing that all of them in one text do not; looking takes its time."""
    return "".join(PAYLOADS.values()) if request.param == "all" else PAYLOADS[request.param]


def hostile(folder: Path, evil: str, monkeypatch: pytest.MonkeyPatch, **more: Any):
    """A run that says `evil` in every text field of run.json, gates.parquet, structure.json, scores.json, explain.json."""
    own = report_problems.space

    def space(_: str = ""):
        return [replace(g, pet_type=f"LNFit{evil}" if g.pet_type == "LNFit" else g.pet_type, options={evil: evil}) for g in own(evil)]

    monkeypatch.setattr(report_problems, "space", space)
    facts = {"host": evil, "device": evil, "precision": evil, "task_origin": evil, "stop_reason": evil, "load": {evil: evil}, "start_from": {"run": evil, "step": evil}}
    run = write_run(folder, evil=evil, status="failed", **{k: v for k, v in facts.items() if k != "host"}, **more)
    info = json.loads((run.path / "run.json").read_text())
    info |= {"started": evil, "finished": evil, "host": evil, "error": f"it broke {evil}"}
    (run.path / "run.json").write_text(json.dumps(info))
    known = json.loads((run.path / "structure.json").read_text())
    known["backbone"] = evil
    (run.path / "structure.json").write_text(json.dumps(known).replace(f'"pet_type": "LNFit{json.dumps(evil)[1:-1]}"', '"pet_type": "LNFit"'))
    (run.path / "scores.json").write_text(json.dumps({"task": evil, "metrics": {"score": 0.5, evil: evil}}))
    effects = tuple(GateEffect(g, p=0.5, alpha=0.1, rank=1, loss_increase=0.1, loss_increase_se=0.1) for g in run.structure().gates)
    Explanation(effects, task=evil, backbone=evil, run=evil, unit=evil, n_rows=8, loss=0.5).save(run.path)
    monkeypatch.setattr(report_problems, "space", own)
    return open_run(run.path)


class Tags(HTMLParser):
    """The elements of a page, and those of its attributes that load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.wrong: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.wrong += [f"{tag} {k}={v}" for k, v in attrs if k.startswith("on") or "javascript:" in (v or "")]
        self.wrong += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "srcdoc") and not (v or "").startswith("#")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_html(page: str, evil: str, extra: tuple[str, ...] = ()) -> None:
    found = Tags(page)
    allowed = {"p", "b", "br", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "div", "span", "code", *extra}
    assert found.tags <= allowed, found.tags - allowed
    assert found.wrong == []
    assert "<!--" not in page or evil != "<!--"


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield str(key)
            yield from texts(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from texts(child)
    elif isinstance(value, np.ndarray):
        yield from texts(value.tolist())


def check_figure(figure: Any, evil: str) -> None:
    """plotly reads <a href>, <b>, ... in every label: nothing but the figure's own marks may look like such."""
    for text in texts(figure.to_plotly_json()):
        rest = OWN.sub("", text)
        assert not re.search(r"<[a-zA-Z/!]", rest), text
        if "<" in evil or "&" in evil:
            assert evil not in text, text


def drawn(run: Any, other: Any) -> Iterator[Any]:
    for source in (run, run.structure(), [run, other]):
        yield figures.heatmap(source)
    for value in ("alpha", "rank", "selected"):
        yield figures.heatmap(run, value=value)
    for draw in (figures.trace, figures.curves, figures.budget_path):
        yield draw(run)
    yield from (figures.sums(run, by=by) for by in ("layer", "module", "pet_type"))
    yield from (figures.compare(run, other), figures.agreement([run, other]), figures.consensus([run, other]))
    yield from (figures.overlap([run, other], by=by) for by in ("gates", "params", "spearman"))
    yield figures.importance(run)


def widgets_of(root: Any) -> Iterator[Any]:
    yield root
    for child in getattr(root, "children", ()):
        yield from widgets_of(child)


# -- text stays text ---------------------------------------------------------------------------------------


def test_figures(tmp_path, evil, monkeypatch):
    run = hostile(tmp_path / "a", evil, monkeypatch)
    other = hostile(tmp_path / "b", evil, monkeypatch, seed=1)
    for figure in drawn(run, other):
        check_figure(figure, evil)


def test_reprs(tmp_path, evil, monkeypatch):
    run = hostile(tmp_path / "a", evil, monkeypatch)
    for shown in (run, run.structure(), Explanation.load(run), health(run)):
        check_html(shown._repr_html_(), evil)
    check_html(re.sub(r"<script.*?</script>", "", heatmap_page(run), flags=re.DOTALL), evil, ("html", "head", "meta", "title", "style", "body", "h2", "noscript"))


def test_studies(tmp_path, evil):
    name = evil.replace("/", "|")
    folder = write_study(tmp_path / "s", lambda source, target, seed, draw: 0.5 + 0.01 * len(source) + 0.1 * seed, targets=[name, "b"], seeds=[0, 1])
    path = next((folder / "cells").iterdir())
    path.write_text(json.dumps({"status": "failed", "error": {"kind": evil, "message": evil, "traceback": evil}}))
    study, matrix = Study(folder), Transfer(folder)
    for shown in (study, matrix):
        check_html(shown._repr_html_(), name)
    for draw in (lambda: figures.budgets(study), lambda: figures.transfer(matrix), lambda: figures.transfer(matrix, relative="random")):
        check_figure(draw(), name)
    view = TransferExplorer(folder)
    check_widgets(view, name)


def check_widgets(view: Any, evil: str) -> None:
    n = 0
    for widget in widgets_of(view):
        if isinstance(widget, ipywidgets.HTML):
            check_html(widget.value, evil, ("style", "svg", "path", "rect", "text"))
            n += 1
        assert not getattr(widget, "description_allow_html", False)
        if hasattr(widget, "to_plotly_json"):
            check_figure(widget, evil)
    assert n
    view.close()


def test_widgets(tmp_path, evil, monkeypatch):
    run = hostile(tmp_path / "a", evil, monkeypatch)
    other = hostile(tmp_path / "b", evil, monkeypatch, seed=1)
    for view in (StructureExplorer(run), CompareRuns([run, other]), LiveView(run)):
        check_widgets(view, evil)


def test_terminal(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from s3pet_viz.cli import app

    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    run = hostile(tmp_path / "a", evil, monkeypatch)
    for words in (["show", str(run.path), "--gates"], ["show", str(run.path / "structure.json")]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.output == printable(result.output)


@pytest.mark.slow
@pytest.mark.browser
def test_in_a_browser(tmp_path, monkeypatch):
    """Every payload in one report and one page of `show --html`: nothing runs, nothing is asked for."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROME.exists():
        pytest.skip("no /usr/bin/chromium")
    evil = "".join(PAYLOADS.values())
    run = hostile(tmp_path / "evil", evil, monkeypatch)
    pages = [report(run, tmp_path / "r.html", title=evil), tmp_path / "show.html"]
    pages[1].write_text(heatmap_page(run))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROME), args=flags)
        for path in pages:
            page = browser.new_page(viewport={"width": 900, "height": 900})
            seen: list[str] = []
            page.on("dialog", lambda dialog, seen=seen: (seen.append("dialog"), dialog.dismiss()))
            page.on("pageerror", lambda error, seen=seen: seen.append(f"error {error}"))
            page.on("request", lambda request, seen=seen: seen.append(request.url))
            page.goto(path.as_uri())
            page.wait_for_selector(".s3pet-viewer .s3-heatmap svg text", timeout=180_000)
            if path is pages[0]:
                page.wait_for_selector(".js-plotly-plot .main-svg", timeout=180_000)
            for box in page.locator(".s3pet-viewer input[type=checkbox]").all():
                box.check()
            svgs = page.locator(".s3pet-viewer figure svg")
            for i in range(svgs.count()):
                if svgs.nth(i).is_visible():
                    svgs.nth(i).hover()
            for summary in page.locator(".s3pet-viewer figure summary").all():
                if summary.is_visible():
                    summary.click()
            page.wait_for_timeout(300)
            assert "onerror" in page.locator(".s3pet-viewer").first.inner_text(), "the names are there, as text"
            assert seen == [path.as_uri()]
            assert page.evaluate("window.ran") is None
            assert page.locator("body img, body svg[onload], a[href^=javascript]").count() == 0
            page.close()
        browser.close()


# -- names stay in their folder ----------------------------------------------------------------------------

NAMES = [
    "../x", "..", ".", "", "/etc", "a/b", "a\\b", "..\\x", "\0", "x" * 300, "C:", "C:\\x", "CON:", "~", "~root/x", "\u202e", "a\nb", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tasks", "backbones", "runs", "studies"])
def test_embedded_names(kind, name):
    assert find_resource(kind, name) is None


@pytest.mark.parametrize("name", [n for n in NAMES if n != "~"])
def test_study_keys(tmp_path, name):
    assert not is_plain(name)
    folder = write_study(tmp_path / "s", lambda *_: 0.5, targets=["a", "b"], seeds=[0])
    info = json.loads((folder / "study.json").read_text())
    info["cells"][0]["key"] = name
    (folder / "study.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"study\.json"):
        Study(folder)


@pytest.mark.parametrize("name", NAMES)
def test_new_folders_stay_where_they_belong(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    made = new_folder(name, name, name, name, 0)
    assert made.parent == tmp_path / "runs"
    assert made.is_dir()
    key = key_of("search", name, name, "s0")
    assert is_plain(key)


def test_a_result_names_a_recorded_run_by_its_name_alone(tmp_path):
    folder = write_study(tmp_path / "s", lambda *_: 0.5, targets=["a", "b"], seeds=[0], searches=True)
    import shutil

    from s3pet_viz.analysis.study import run_folder

    shutil.rmtree(folder / "runs")
    path = folder / "cells" / "search-0.json"
    for name in ("../../../etc", str(tmp_path), "..", "a\0"):
        path.write_text(json.dumps({"status": "done", "row": {}, "recorded": name}))
        assert run_folder(folder, "search-0") == folder / "runs" / "search-0"


def test_a_run_that_is_a_link_writes_nothing_elsewhere(tmp_path):
    """Structures name positions, not files: a path there is only a text."""
    run = write_run(tmp_path / "calm", evil="../../../../etc/passwd")
    made = run.structure()
    made.save(tmp_path / "s.json")
    assert Structure.load(tmp_path / "s.json") == made
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "s.json"]


# -- nothing is unpickled, nothing is evaluated ------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
    ("torch", "hub"), ("os", "system"), ("os", "popen"),
}  # fmt: skip


def findings(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if (module, a.name) in FORBIDDEN_ATTRIBUTES]
        elif isinstance(node, ast.Call):
            name = node.func
            if isinstance(name, ast.Name) and name.id in FORBIDDEN_CALLS:
                found.append(name.id)
            if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
                pair = (name.value.id, name.attr)
                if pair in FORBIDDEN_ATTRIBUTES:
                    found.append(".".join(pair))
                # yaml.load only with the safe loader of pet/space.py.
                if pair == ("yaml", "load") and ast.unparse(node.args[1]) != "_Plain":
                    found.append(ast.unparse(node))
            for keyword in node.keywords:
                on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                if keyword.arg in ("allow_pickle", "trust_remote_code", "shell") and on:
                    found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
                if keyword.arg in ("weights_only", "use_safetensors") and ast.unparse(keyword.value) != "True":
                    found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and ast.unparse(value) != "False":
                    found.append(f"trust_remote_code: {ast.unparse(value)}")
    return found


def test_no_module_unpickles_or_evaluates():
    wrong = {}
    for path in sorted((ROOT / "s3pet_viz").rglob("*.py")):
        if found := findings(ast.parse(path.read_text())):
            wrong[str(path.relative_to(ROOT))] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "torch.load(f)", "from torch import load", "np.load(f, allow_pickle=True)", "eval('1')",
     "yaml.load(f, yaml.Loader)", "f(trust_remote_code=True)", "f(trust_remote_code=x)", "f(**{'trust_remote_code': x})", "run(shell=True)", "import joblib"],
)  # fmt: skip
def test_the_search_for_them_finds_them(code):
    assert findings(ast.parse(code))


def test_every_backbone_is_loaded_as_safetensors_without_code():
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "s3pet_viz" / "backbones").glob("*.py"))]
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in ("from_pretrained", "get_config_dict")]
    assert len(calls) >= 4
    for call in calls:
        assert any(k.arg is None and ast.unparse(k.value) == "hub" for k in call.keywords), ast.unparse(call)
        if "AutoModel" in ast.unparse(call.func):
            assert any(k.arg == "use_safetensors" for k in call.keywords)


def test_yaml_of_a_stranger(tmp_path):
    from s3pet_viz.errors import SpaceError
    from s3pet_viz.pet import load_space

    path = tmp_path / "space.yaml"
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)) + "gates: *a59\n"
    for text, message in (
        ("!!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        (bomb, "alias .* is not supported"),
        ("gates: &a [*a]", "alias .* is not supported"),
        ("gates: []\ngates: []", "twice"),
        ("gates: [{type: LoRA, modules: [x], modules: [y]}]", "twice"),
        ("{? [a] : b}", "space"),
    ):
        path.write_text(text)
        with pytest.raises(SpaceError, match=f"(?s){message}"):
            load_space(path)


def test_light_report_parses(tmp_path, evil, monkeypatch):
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "var Plotly;")
    run = hostile(tmp_path / "a", evil, monkeypatch)
    page = report(run, tmp_path / "r.html", title=evil).read_text()
    found = Tags(page)
    assert not found.tags & {"img", "svg", "iframe", "object", "embed", "form", "link", "base"}
    assert found.wrong == []
    assert page.count("<script>") == 2
    own = ("<script>", "<script type='application/json'", "<script type='module'>")
    assert len(re.findall("<script", page)) == sum(map(page.count, own))
    assert page.count("<script type='module'>") == 1
