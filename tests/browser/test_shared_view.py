"""A link to a view opens the same view; a stranger's changes nothing, runs nothing, and is said to be wrong."""

from __future__ import annotations

import base64
import json
import os
import shutil
from xml.dom import minidom

import pytest

from s3pet_viz import figures, open_run
from s3pet_viz.cli._output import heatmap_page
from s3pet_viz.reports import report
from s3pet_viz.widgets import StructureExplorer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]
RUN = "similarity-0.2pct-s0"
VIEW = "document.querySelectorAll('.s3pet-viewer')[{}].s3pet.view"
EVIL = "<img src=x onerror=window.ran=1><script>window.ran=1</script>"


def share(page, which=0):
    return page.evaluate(f"{VIEW.format(which)}.share()")


def link_to(states) -> str:
    return "#view=" + base64.urlsafe_b64encode(json.dumps(states).encode()).decode().rstrip("=")


def opened(page, address):
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function("() => document.querySelector('.s3pet-viewer')?.s3pet.view.scene", timeout=180_000)
    page.wait_for_timeout(150)


def copied(page, kind, which=0):
    page.evaluate(f"async () => {{ await {VIEW.format(which)}.copy('{kind}'); }}")
    return page.evaluate(f"{VIEW.format(which)}.clipboard")


def test_a_link_opens_the_same_view(tmp_path):
    from lab import page_of

    run, made = open_run(RUN), tmp_path / "page.html"
    made.write_text(heatmap_page(run), encoding="utf-8")
    with page_of(CHROMIUM) as (page, errors):
        opened(page, made.as_uri())
        python = StructureExplorer(RUN).share()
        assert share(page) == python | {"theme": "light"}
        changed = python | {
            "theme": "dark", "rows": "likeness", "group": "module", "type": "LoRA", "own_scale": True, "in_cells": "rank",
            "show": ["curves", "path"], "step": 40, "budget": 3000, "selection": [list(run.gates_list[i].key) for i in (3, 7)],
        }  # fmt: skip
        structure = run.structure(3000, 40)
        names = [list(gate.key) for gate in run.gates_list]
        chosen = [list(gate.key) for gate in structure.gates]
        free = next(name for name in names if name not in chosen)
        gates = sorted([*chosen[1:], free], key=names.index)
        changed["edit"] = {"gates": gates, "budget": 3000, "step": 40}
        opened(page, made.as_uri() + link_to({"run": changed}))
        assert share(page) == changed
        state = page.evaluate("document.querySelector('.s3pet-viewer').s3pet.state()")
        assert (state["step"], state["budget"], state["selected"]) == (41, 3000, [3, 7])
        assert [names[g] for g in state["chosen"]] == gates
        assert page.locator(".s3pet-viewer").get_attribute("data-theme") == "dark"
        assert page.locator(".s3-line", has_text="1 put in, 1 taken out by hand").first.is_visible()
        link = copied(page, "link")
        assert page.url == link
        assert json.loads(copied(page, "view")) == changed
        again = StructureExplorer(RUN, state=json.loads(copied(page, "view")))
        assert again.share() == changed
        opened(page, link)
        assert share(page) == changed
        page.evaluate("address => { location.hash = address; }", link_to({"run": python}))  # pasted into the open page
        page.wait_for_function(f"() => {VIEW.format(0)}.share().step === null")
        assert share(page) == python  # its theme too: auto
        assert not errors, errors


def test_a_page_that_was_written_with_a_state_opens_with_it(tmp_path):
    from lab import page_of

    state = {"step": 10, "rows": "p", "selection": [list(open_run(RUN).gates_list[5].key)]}
    made = tmp_path / "page.html"
    made.write_text(heatmap_page(open_run(RUN), state=state), encoding="utf-8")
    with page_of(CHROMIUM) as (page, errors):
        opened(page, made.as_uri())
        found = share(page)
        assert {name: found[name] for name in state} == state
        assert not errors, errors


def test_strangers_links_change_nothing_and_are_said(tmp_path):
    from lab import page_of

    other = StructureExplorer("minilm-sst2-0.0139pct-s0").share()
    strangers = [
        ({"run": other}, "of: expected"), ({"run": {"rows": EVIL}}, "rows: expected"), ({"run": {EVIL: 1}}, "unknown field"),
        ({"run": {"selection": [[EVIL, EVIL]]}}, "selection: expected"), ({"run": {"step": 10**6}}, "step: expected"),
        ({"run": EVIL}, "expected a view's state"), ({EVIL: {"rows": "p"}}, "another page"), ({"__proto__": {"rows": "p"}}, "another page"),
        ({"run": {"rows": "p", "budget": -1}}, "budget: expected"),
    ]  # fmt: skip
    made = tmp_path / "page.html"
    made.write_text(heatmap_page(open_run(RUN)), encoding="utf-8")
    fragments = [(link_to(states), words) for states, words in strangers]
    fragments += [("#view=" + EVIL.replace("<", "%3C"), "damaged"), ("#view=AAAA", "damaged"), ("#view=", "damaged")]
    with page_of(CHROMIUM) as (page, errors):
        opened(page, made.as_uri())
        before = share(page)
        for fragment, words in fragments:
            opened(page, made.as_uri() + fragment)
            assert share(page) == before, fragment
            assert words in page.locator(".s3pet-viewer .s3-note").first.inner_text(), fragment
        assert page.evaluate("window.ran") is None
        assert page.locator(".s3pet-viewer img, .s3pet-viewer script").count() == 0
        assert not errors, errors


def test_a_report_of_several_viewers_keys_states_by_viewer(tmp_path):
    from lab import page_of

    made = report(["entailment-0.2pct-s0", "entailment-0.2pct-s1"], tmp_path / "report.html")
    with page_of(CHROMIUM) as (page, errors):
        opened(page, made.as_uri())
        ids = page.evaluate("[...document.querySelectorAll('.s3pet-viewer')].map(el => el.s3pet.view.store.doc.id)")
        assert ids == ["compared", "run-1", "run-2"]
        untouched = [share(page, k) for k in range(3)]
        states = {"run-2": untouched[2] | {"step": 20, "rows": "params"}, "compared": untouched[0] | {"a": untouched[0]["b"], "overlap": "rank"}}
        opened(page, made.as_uri() + link_to(states))
        assert [share(page, k) for k in range(3)] == [states["compared"], untouched[1], states["run-2"]]
        link = copied(page, "link", 2)
        opened(page, link)
        assert [share(page, k) for k in range(3)] == [*untouched[:2], states["run-2"]]
        assert not errors, errors


def test_a_picture_for_a_paper_has_its_width_and_its_caption(tmp_path):
    from lab import page_of

    made = tmp_path / "page.html"
    made.write_text(heatmap_page(open_run(RUN)), encoding="utf-8")
    with page_of(CHROMIUM) as (page, errors):
        opened(page, made.as_uri())
        for mm in (84, 178):
            with page.expect_download(timeout=180_000) as saved:
                page.locator(".s3-heatmap .s3-tools button", has_text=f"{mm} mm").click(force=True)
            saved.value.save_as(tmp_path / f"{mm}.svg")
            svg = minidom.parse(str(tmp_path / f"{mm}.svg")).documentElement
            assert svg.getAttribute("width") == f"{mm}mm"
            assert svg.getElementsByTagName("desc")[0].firstChild.data == figures.caption(RUN)
            assert not [t for t in svg.getElementsByTagName("text") if "…" in t.firstChild.data], "no label is cut"
            assert "Gate probabilities p of" in page.locator(".s3pet-viewer").inner_text()
        assert copied(page, "caption") == figures.caption(RUN)
        page.evaluate(f"{VIEW.format(0)}.fields.in_cells.set('alpha')")  # read at a page's width, too wide for a column's
        said = [page.evaluate(f"(mm) => {{ const view = {VIEW.format(0)}; view.draw(); return view.map.paper(mm, (sheet) => view.caption(sheet)); }}", mm) for mm in (84, 178)]
        assert ["In cells: α" in one for one in said] == [False, True]
        assert [one.count("s3-rank") > 100 for one in said] == [False, True]
        assert not errors, errors


def test_the_kernel_knows_what_is_looked_at(server):
    """In JupyterLab, though a cell blocked the kernel while the view was changed."""
    from lab import notebook, open_notebook, page_of, run_all, until, views

    root, address = server
    cells = [
        "import s3pet_viz as s3, time",
        f"e = s3.widgets.StructureExplorer({RUN!r})\ne",
        "time.sleep(12)",
        "import asyncio\nwhile e.share()['step'] != 30:\n    await asyncio.sleep(0.1)\ns = e.share(); print('told:', s['step'], s['rows'])",
    ]
    notebook(root / "shared.ipynb", cells)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, address, "shared.ipynb")
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a picture")
        page.evaluate(f"() => {{ const view = {VIEW.format(0)}; view.fields.rows.set('likeness'); view.goTo(30); }}")
        until(lambda: views(page)[0]["step"] == 31, 30, "it is drawn while the kernel is blocked")
        page.locator(".jp-OutputArea-output", has_text="told: 30 likeness").wait_for(timeout=180_000)
        assert not errors, errors
