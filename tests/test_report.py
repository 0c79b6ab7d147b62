"""The report: what is in it, that nothing from outside becomes code, and that nothing half is written."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_problems import EVIL, space, write_run
from typer.testing import CliRunner

from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.cli import app
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.reports import page as page_module
from s3pet_viz.reports import report
from s3pet_viz.reports.page import figure_json
from s3pet_viz.runs import open_run

CHROME = Path("/usr/bin/chromium")


class Reader(HTMLParser):
    """Tags, attributes that load or run something, text, and scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.handlers: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.policy = ""
        self.anchors: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset", "xlink:href"):
                self.loads.append((tag, value or ""))
            if name.startswith("on"):
                self.handlers.append(f"{tag} {name}={value}")
            if name == "id":
                self.anchors.add(value or "")
        found = dict(attrs)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.scripts and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(code) for found, code in self.scripts if (found.get("id") or "").startswith("f")]

    @property
    def viewers(self) -> list[dict[str, Any]]:
        """Documents of the viewers."""
        states = [json.loads(code) for found, code in self.scripts if (found.get("id") or "").startswith("v")]
        return [json.loads(state["doc"]) for state in states]


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def titles(page: Reader) -> list[str]:
    return [figure["layout"].get("title", {}).get("text", "") for figure in page.figures]


def explain(run) -> None:
    """Every chosen gate is worth 0.1 more than the one before."""
    effects = tuple(
        GateEffect(gate, p=0.5, alpha=0.1, rank=i + 1, loss_increase=0.1 * i, loss_increase_se=0.01, metric_change=0.0, gradient=0.1)
        for i, gate in enumerate(run.structure().gates)
    )
    Explanation(effects, task="mood", backbone="tiny", n_rows=8, loss=0.5).save(run.path)


@pytest.fixture(autouse=True)
def _light(request, monkeypatch):
    """5 MB of plotly.js take a second to parse; only a browser needs them."""
    if "browser" not in request.fixturenames:
        monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "var Plotly;\r\n")


# -- what is in it -----------------------------------------------------------------------------------------


def test_one_run(tmp_path):
    run = write_run(tmp_path / "calm")
    explain(run)
    page = read(report(run.path, tmp_path / "deep" / "report.html"))
    text = page.text
    for words in ("Search report: calm", "tiny", "mood", "60 of 60", "40 parameters = 0.4000% of the backbone", "torch", "2.x"):
        assert words in text, words
    structure = run.structure()
    assert f"{len(structure)} gates, {structure.n_params} parameters" in text
    for gate in structure.gates:
        assert gate.position in text
        assert f"{run.p()[gate.index]:.4f}" in text
    # three sums, trace, curves, budget path, importance; the gates are in the viewer
    assert len(page.figures) == 7
    (viewer,) = page.viewers
    assert viewer["space"]["position"] == [gate.position for gate in run.gates_list]
    assert viewer["effects"]
    shown = "\n".join(titles(page))
    for words in ("sums by layer", "sums by module", "sums by PET type", "gate probabilities", "losses", "budget grows", "worth"):
        assert words in shown, words


def test_every_entry_of_the_contents_leads_somewhere(tmp_path):
    write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)
    page = read(report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html"))
    links = [value[1:] for tag, value in page.loads if tag == "a"]
    assert len(links) > 10
    assert set(links) <= page.anchors
    placed = re.findall(r"data-figure='(f\d+)'", (tmp_path / "r.html").read_text())
    assert placed == [f"f{i}" for i in range(1, len(page.figures) + 1)]


def test_several_runs(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    page = read(report(runs, tmp_path / "r.html"))
    shown = "\n".join(titles(page))
    assert "3 searches compared" in page.text
    assert "seed 1 less seed 0" in shown
    assert "seed 2 less seed 0" in shown
    for words in ("Jaccard", "Spearman", "Agreement of 3 pairs", "Consensus of 3 runs"):
        assert words in shown, words
    assert [viewer["kind"] for viewer in page.viewers] == ["compare", "run", "run", "run"]  # side by side, and each
    row = re.search(r"<tr class=differs><th scope='row'>seed</th>(.*?)</tr>", (tmp_path / "r.html").read_text())
    assert row
    assert re.findall(r"<td>(.*?)</td>", row[1]) == ["0", "1", "2"]


def test_many_runs_are_rows(tmp_path):
    runs = [write_run(tmp_path / f"s{seed}", 3, seed=seed) for seed in range(5)]
    page = (report(runs, tmp_path / "r.html")).read_text()
    for seed in range(5):
        assert f"<tr><th scope='row'>seed {seed}</th>" in page
    assert "The same for all" in page


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", evil="x")  # other positions: no gate in common
    page = read(report([a, b], tmp_path / "r.html"))
    assert "share no gate" in page.text
    assert any("gate probabilities" in title for title in titles(page))


def test_same_runs_same_file(tmp_path):
    run = write_run(tmp_path / "calm")
    one = report(run, tmp_path / "1.html").read_bytes()
    assert report([open_run(run.path)], tmp_path / "2.html").read_bytes() == one


def test_recorded_run_by_name_and_title(tmp_path, monkeypatch):
    run = write_run(tmp_path / "calm")
    monkeypatch.setattr("s3pet_viz.sources.find_resource", lambda kind, name: run.path if name == "known" else None)
    page = read(report("known", tmp_path / "r.html", title="A <b>title"))
    assert "A <b>title" in page.text
    assert "b" not in page.tags[: page.tags.index("nav")]


# -- states ------------------------------------------------------------------------------------------------


def test_without_steps(tmp_path):
    run = write_run(tmp_path / "new", 0, status="stopped")
    page = read(report(run, tmp_path / "r.html"))
    assert "no steps are recorded yet" in page.text
    assert page.figures == []
    other = write_run(tmp_path / "old")
    page = read(report([run, other], tmp_path / "r2.html"))
    assert "nothing to compare yet" in page.text
    assert len(page.figures) == 6


def test_dead_failed_and_running(tmp_path):
    dead = write_run(tmp_path / "dead", status=None)
    page = read(report(dead, tmp_path / "r.html"))
    assert "Its process is gone without having ended it" in page.text
    assert "killed?" in page.text
    assert len(page.figures) == 6
    failed = read(report(write_run(tmp_path / "failed", status="failed"), tmp_path / "r.html"))
    assert "it broke" in failed.text
    from s3pet_viz.runs import RunWriter

    with RunWriter.create(tmp_path / "live", gates=space(), config={}, extra={"budget": 40}) as writer:
        counts = np.ones(len(space()))
        writer.append(step=0, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=counts * 0, p=counts * 0.2)
        page = read(report(tmp_path / "live", tmp_path / "r.html"))
        assert "still running" in page.text
        writer.set_status("stopped")


def test_explanation_of_another_structure_is_left_out(tmp_path):
    run = write_run(tmp_path / "calm")
    explain(run)
    path = run.path / "explain.json"
    data = json.loads(path.read_text())
    data["gates"] = data["gates"][1:]
    path.write_text(json.dumps(data))
    page = read(report(run, tmp_path / "r.html"))
    assert "explains another structure" in page.text
    assert len(page.figures) == 6
    assert page.viewers[0]["effects"] is None


def test_scores(tmp_path):
    run = write_run(tmp_path / "calm")
    (run.path / "scores.json").write_text(json.dumps({"task": "mood", "metrics": {"score": 0.875, "loss": 0.25}}))
    text = read(report(run, tmp_path / "r.html")).text
    assert "0.8750 on mood" in text
    assert "metrics.loss" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("structure.json", "{"),
        ("scores.json", "[1]"),
        ("explain.json", '{"kind": "other"}'),
        ("evals.jsonl", "no json\n"),
        ("run.json", "{}"),
        ("gates.parquet", "PAR1"),
        ("steps/part-00000.arrow", "not arrow at all"),
    ],
)
def test_a_damaged_run_is_named_before_anything_is_written(tmp_path, name, content):
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad", seed=1)
    (bad.path / name).write_text(content)
    out = tmp_path / "new" / "r.html"
    with pytest.raises(ValueError, match=re.escape(str(bad.path / name))):
        report([good.path, bad.path], out)
    assert not out.parent.exists()


def test_refuses(tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        report([], tmp_path / "r.html")
    with pytest.raises(RunError, match="no such run"):
        report(tmp_path / "none", tmp_path / "r.html")
    with pytest.raises(ConfigError, match="folder"):
        report(tmp_path / "none", tmp_path)
    run = write_run(tmp_path / "calm", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        report(run, tmp_path / "file" / "r.html")


def test_command(tmp_path):
    run = write_run(tmp_path / "calm", 3)
    out = tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", str(run.path), "--out", str(out), "--title", "Mine"])
    assert result.exit_code == 0, result.output
    assert "report: " in result.output
    assert "Mine" in read(out).text
    before = out.read_bytes()
    refused = CliRunner().invoke(app, ["report", str(run.path), "--out", str(out)])
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert out.read_bytes() == before
    assert CliRunner().invoke(app, ["report", str(run.path), "--out", str(out), "--force"]).exit_code == 0
    assert out.read_bytes() != before


# -- nothing from outside becomes code ---------------------------------------------------------------------


def hostile(tmp_path: Path, status: str = "failed"):
    # A folder cannot be called like that; every field of a file can.
    run = write_run(tmp_path / "evil", evil=EVIL, status=status)
    (run.path / "scores.json").write_text(json.dumps({"task": EVIL, "metrics": {"score": 0.5, EVIL: EVIL}}))
    return run


def test_text_from_outside_is_text(tmp_path):
    run, calm = hostile(tmp_path), write_run(tmp_path / "calm", seed=1)
    plain = read(report([calm, write_run(tmp_path / "calm2", seed=2)], tmp_path / "plain.html"))
    for page in (
        read(report(run, tmp_path / "r.html", title=EVIL)),
        read(report([run, calm, write_run(tmp_path / "evil2", evil=EVIL, seed=3)], tmp_path / "r2.html")),
    ):
        assert set(page.tags) <= set(plain.tags) | {"pre"}  # no img, nothing new
        assert page.handlers == []
        assert [value for tag, value in page.loads if not (tag == "a" and value.startswith("#s"))] == []
        code = [found for found, _ in page.scripts if found.get("type") != "application/json"]
        assert len(code) == 3
        assert EVIL in page.text
        # plotly understands some HTML in its labels, so there the signs are escaped once more.
        for figure in page.figures:
            assert EVIL not in json.dumps(figure, ensure_ascii=False)


def test_policy_allows_these_three_scripts_and_no_network(tmp_path):
    page = read(report(write_run(tmp_path / "calm", 3), tmp_path / "r.html"))
    code = [text for found, text in page.scripts if found.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [f"'sha256-{h}'" for h in hashes]
    assert "http" not in page.policy
    assert page.loads
    assert all(tag == "a" and value.startswith("#") for tag, value in page.loads)


def test_figure_json_can_end_no_script():
    import plotly.graph_objects as go

    words = "</script><!--<script>&\u2028 é"
    made = figure_json(go.Figure(go.Scatter(x=[1.5], y=[2], name=words)))
    assert not set("<>&\u2028") & set(made)
    assert json.loads(made)["data"][0]["name"] == words


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROME.exists():
        pytest.skip("no /usr/bin/chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROME), args=flags)
        yield opened
        opened.close()


@pytest.mark.browser
def test_in_a_browser(tmp_path, browser):
    """Every figure is drawn; a hostile run opens no dialog, runs and loads nothing; nothing is wider than the window."""
    run = hostile(tmp_path)
    explain(run)
    write_run(tmp_path / "evil2", evil=EVIL, seed=3)
    path = report([run.path, tmp_path / "evil2"], tmp_path / "r.html", title=EVIL)
    page = browser.new_page(viewport={"width": 750, "height": 900})
    seen: list[str] = []
    page.on("dialog", lambda dialog: (seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: seen.append(f"{message.type} {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error {error}"))
    page.on("request", lambda request: seen.append(f"request {request.url}"))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=180_000)
    page.mouse.move(300, 300)
    assert seen == [f"request {path.as_uri()}"]
    n_figures = len(read(path).figures)
    assert n_figures > 15
    assert page.locator(".js-plotly-plot").count() == n_figures
    assert page.locator(".js-plotly-plot .main-svg").count() >= n_figures
    assert page.locator("img").count() == 0
    assert "alert(1)" in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 750
    # The policy holds even if a script got in by another way.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    page.close()


def test_a_run_folder_elsewhere(tmp_path):
    """A run that was copied, without its lock and log, is reported as it is."""
    run = write_run(tmp_path / "calm")
    shutil.copytree(run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("lock", "log.txt"))
    assert "finished" in read(report(tmp_path / "copy", tmp_path / "r.html")).text
