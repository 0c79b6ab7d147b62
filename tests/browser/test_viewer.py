"""The viewer in real JupyterLab: what it shows is the run, whatever the kernel, the machine and the page do."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from s3pet_viz.runs import open_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]

#: A search in a process of its own that is not in a hurry: so many steps, so long each.
WRITER = """
import sys, time, pathlib, subprocess
script = '''
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from report_problems import space
from s3pet_viz.runs import RunWriter
from s3pet_viz.structure import probabilities, select, solve_shift, Structure
from s3pet_viz.runs.control import ControlReader
gates = space()
counts = np.array([g.n_params for g in gates])
path, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
rng = np.random.default_rng(0)
alpha = np.zeros(len(gates))
writer = RunWriter.create(path, gates=gates, config=dict(task="mood", backbone="tiny", budget="40"),
                          extra=dict(budget=40, steps_total=steps, backbone_params=100_000))
asked = ControlReader(writer.path)
for step in range(steps):
    if asked.request() == "pause":
        writer.set_status("paused")
        while asked.request() == "pause":
            time.sleep(0.05)
        writer.set_status("running")
    if asked.request() == "stop":
        writer.set_status("stopped")
        sys.exit()
    alpha = alpha + rng.normal(size=len(gates)) * 0.2
    zeta = solve_shift(alpha, counts, 40)
    writer.append(step=step, seconds=pause, zeta=zeta, train_loss=1 / (step + 1), val_loss=1 / (step + 1), lr=1e-3,
                  alpha=alpha, p=probabilities(alpha, zeta))
    time.sleep(pause)
chosen = select(np.float32(alpha), counts, 40)
writer.write_structure(Structure(tuple(gates[i] for i in chosen), budget=40))
writer.set_status("finished")
'''
process = subprocess.Popen([sys.executable, "-c", script, {path!r}, str({steps}), str({pause})])
while not pathlib.Path({path!r}, "run.json").exists():
    assert process.poll() is None
    time.sleep(0.1)
import s3pet_viz as s3
run = s3.open_run({path!r})
"""
TESTS = str(Path(__file__).parent.parent)


@pytest.fixture
def book(server, request):
    """Writes a notebook of these cells; gives its name and the run's folder."""
    from lab import notebook

    root, _ = server

    def write(*cells: str, steps: int = 60, pause: float = 0.15, search: bool = True) -> tuple[str, Path]:
        name = request.node.name.replace("[", "-").replace("]", "")
        path = root / f"run-{name}"
        first = [WRITER.format(tests=TESTS, path=str(path), steps=steps, pause=pause)] if search else ["import s3pet_viz as s3"]
        return notebook(root / f"{name}.ipynb", (*first, *cells)), path

    return write


def last_frame(view, run):
    """The run's end, to the gate, in what is said and in what is drawn."""
    chosen = sorted(g.index for g in run.structure().gates)
    assert view["chosen"] == chosen
    assert view["parameters"] == run.structure().n_params
    assert view["step"] == view["steps"] == run.n_steps
    assert view["outlines"] == len(chosen)
    assert view["inked"]


def test_the_picture_moves_and_ends_right_behind_a_blocking_wait(server, book, shots):
    """Run All Cells, with a cell that blocks the kernel until the search has ended."""
    from lab import open_notebook, page_of, run_all, until, views

    name, path = book("s3.watch(run)", "run.wait(600)", "'all cells done'", steps=100)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a first picture")
        seen: set[int] = set()
        until(lambda: seen.update(v["step"] for v in views(page)) or len(seen) > 4, 120, lambda: f"the picture moves: {seen}")
        assert open_run(path).status == "running", "it moved while the kernel was blocked"
        open_run(path).pause()  # from another process, as `s3pet pause` or another notebook does
        until(lambda: views(page)[0]["status"] == "paused", 60, lambda: views(page)[0])
        open_run(path).resume()
        until(lambda: views(page)[0]["status"] == "finished", 180, lambda: views(page))
        until(lambda: views(page)[0]["step"] == 100, 60, lambda: views(page))
        last_frame(views(page)[0], open_run(path))
        page.screenshot(path=shots / "viewer-blocked.png")
        assert not errors, errors


def test_on_a_slow_and_busy_machine_no_picture_is_empty_or_wrong(server, book, shots):
    """Chromium six times slower, two cores of other work, and a kernel that is blocked."""
    from lab import load, open_notebook, page_of, run_all, throttle, until, views

    cells = (
        "s3.watch(run)",
        "s3.widgets.StructureExplorer('similarity-0.2pct-s0')",
        "s3.widgets.CompareRuns(['similarity-0.2pct-s0', 'sentiment-0.2pct-s0'])",
        "s3.widgets.TransferExplorer('tiny-t5')",
        "run.wait(600)",
    )
    name, path = book(*cells, steps=40, pause=0.4)
    with page_of(CHROMIUM) as (page, errors), load():
        throttle(page, 6)
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: len(views(page)) == 4 and all(v["inked"] or "trained on" in v["text"] for v in views(page)), 400, lambda: views(page))
        until(lambda: views(page)[0]["status"] == "finished" and views(page)[0]["step"] == 40, 300, lambda: views(page)[0])
        live, explorer, compared, transfer = views(page)
        last_frame(live, open_run(path))
        last_frame(explorer, open_run("similarity-0.2pct-s0"))
        last_frame(compared, open_run("similarity-0.2pct-s0"))
        assert [sorted(one["chosen"]) for one in compared["runs"]] == [
            sorted(g.index for g in open_run(run).structure().gates) for run in ("similarity-0.2pct-s0", "sentiment-0.2pct-s0")
        ]
        assert transfer["source"] != transfer["target"]
        assert transfer["chosen"]
        page.screenshot(path=shots / "viewer-slow.png")
        assert not errors, errors


def test_an_untouched_explorer_shows_the_runs_own_structure(server, book):
    from lab import open_notebook, page_of, run_all, until, views

    runs = ["sentiment-0.1pct-s0", "similarity-0.2pct-s0", "entailment-0.2pct-s1", "minilm-sst2-0.0139pct-s0"]
    name, _ = book(*(f"s3.widgets.StructureExplorer({run!r})" for run in runs), search=False)
    with page_of(CHROMIUM, height=6000) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: len(views(page)) == len(runs) and all(v["inked"] for v in views(page)), 180, lambda: views(page))
        for _ in range(3):
            time.sleep(1)  # nothing may change by itself
            for view, run in zip(views(page), runs, strict=True):
                opened = open_run(run)
                assert view["chosen"] == sorted(g.index for g in opened.structure().gates)
                assert (view["budget"], view["outlines"]) == (opened.info["budget"], len(opened.structure().gates))
        assert not errors, errors


def test_pictures_fill_their_cell_at_once_and_after_a_resize(server, book):
    from lab import open_notebook, page_of, run_all, until, views

    name, _ = book("s3.widgets.StructureExplorer('similarity-0.2pct-s0')", "import time; time.sleep(20)", search=False)
    with page_of(CHROMIUM) as (page, _):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a picture")
        for width in (1300, 900, 1500):
            page.set_viewport_size({"width": width, "height": 1200})
            until(lambda: abs(views(page)[0]["width"] - views(page)[0]["room"]) < 8 and abs(views(page)[0]["drawn"] - views(page)[0]["width"]) < 12, 30, lambda: views(page)[0])
        assert views(page)[0]["drawn"] > 900


def test_buttons_work_behind_a_cell_that_awaits_and_pend_behind_one_that_blocks(server, book, shots):
    from lab import open_notebook, page_of, run_all, until, views

    name, path = book("view = s3.watch(run)\nview", "await run.finished()", "import time; time.sleep(12)", steps=100_000, pause=0.1)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and (views(page)[0]["step"] or 0) > 3, 120, "steps")
        run = open_run(path)
        button = lambda label: page.locator(".s3pet-viewer button", has_text=label)  # noqa: E731
        button("Pause").click()
        until(lambda: run.status == "paused", 60, "paused, though a cell waits")
        until(lambda: views(page)[0]["status"] == "paused", 60, "said so")
        held = views(page)[0]["step"]
        until(lambda: button("Resume").is_enabled(), 60, "Resume")
        button("Resume").click()
        until(lambda: (views(page)[0]["step"] or 0) > held, 180, "it goes on")
        button("Stop").click()
        until(lambda: run.status == "stopped", 60, "stopped")
        until(lambda: views(page)[0]["status"] == "stopped", 60, "said so")
        # Now a cell blocks: a request is shown as pending until the kernel is free.
        button("Resume").click()
        until(lambda: "resuming" in views(page)[0]["text"], 10, lambda: views(page)[0]["text"])
        page.screenshot(path=shots / "viewer-pending.png")
        assert not errors, errors


def test_two_views_a_reload_and_a_late_page(server, book):
    """Both views of one run, and what opens in mid-run, hold the whole history."""
    from lab import open_notebook, page_of, run_all, until, views

    name, path = book("view = s3.watch(run)\nview", "view", steps=240, pause=0.15)
    with page_of(CHROMIUM, height=3000) as (page, _):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: len(views(page)) == 2 and all((v["step"] or 0) > 3 for v in views(page)), 120, lambda: views(page))
        page.keyboard.press("Control+s")
        time.sleep(1)
        page.reload()
        until(lambda: len(views(page)) == 2 and all(v["inked"] for v in views(page)), 180, lambda: views(page))
        page.goto("about:blank")  # closed, and opened again while its kernel goes on
        page.goto(server[1].format(name))
        until(lambda: len(views(page)) == 2 and all(v["inked"] for v in views(page)), 180, lambda: views(page))
        # The history is whole: the first step can be gone back to, in one view alone.
        page.evaluate("() => { const v = document.querySelector('.s3pet-viewer').s3pet.view; v.goTo(0); }")
        until(lambda: views(page)[0]["step"] == 1, 30, lambda: views(page)[0])
        until(lambda: views(page)[1]["status"] == "finished", 180, lambda: views(page)[1])
        first, second = views(page)
        assert first["step"] == 1
        last_frame(second, open_run(path))
        page.evaluate("() => document.querySelector('.s3pet-viewer').s3pet.view.goTo(1e9)")
        until(lambda: views(page)[0]["step"] == 240, 30, lambda: views(page)[0])
        last_frame(views(page)[0], open_run(path))


@pytest.mark.parametrize("how", ["Restart", "Shut Down"])
def test_a_kernel_that_is_gone_leaves_the_last_picture_and_says_so(server, book, shots, how):
    from lab import open_notebook, page_of, run_all, until, views

    name, _ = book("s3.watch(run)", steps=100_000, pause=0.1)
    with page_of(CHROMIUM) as (page, _):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and (views(page)[0]["step"] or 0) > 3, 120, "steps")
        page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").first.click()
        page.locator(".lm-Menu-itemLabel", has_text=f"{how} Kernel").first.click()
        if how == "Restart":
            page.locator(".jp-Dialog button", has_text="Restart").last.click()
        until(lambda: views(page) and views(page)[0]["kernel"] == "gone", 120, lambda: views(page))
        view = views(page)[0]
        assert view["inked"]
        assert view["outlines"] == len(view["chosen"]) > 0
        assert "kernel of this view is gone" in view["text"]
        page.screenshot(path=shots / "viewer-kernel-gone.png")


def test_sliders_keys_and_the_selection_need_no_kernel(server, book, shots):
    """Behind a blocked kernel: another budget is what Python would choose; keys play, walk and clear."""
    from lab import open_notebook, page_of, run_all, until, views

    name, _ = book("e = s3.widgets.StructureExplorer('similarity-0.2pct-s0')\ne", "import time; time.sleep(20)", "import asyncio\nwhile not e.selection:\n    await asyncio.sleep(0.1)\nprint('chosen by hand:', e.selection)", search=False)
    run = open_run("similarity-0.2pct-s0")
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a picture")
        slider = page.locator(".s3pet-viewer input[aria-label=budget]")
        box = slider.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2, steps=6)
        page.mouse.up()
        until(lambda: views(page)[0]["budget"] < run.info["budget"], 30, lambda: views(page)[0]["budget"])
        time.sleep(0.5)
        view = views(page)[0]
        assert view["chosen"] == sorted(g.index for g in run.structure(budget=view["budget"]).gates)
        assert view["outlines"] == len(view["chosen"])
        map_ = page.locator(".s3pet-viewer .s3-heatmap svg")
        map_.focus()
        for key in ("ArrowDown", "ArrowRight", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        until(lambda: len(views(page)[0]["selected"]) == 1, 30, lambda: views(page)[0]["selected"])
        (gate,) = views(page)[0]["selected"]
        page.keyboard.press("Space")
        until(lambda: views(page)[0]["step"] < 200, 30, "it plays")
        page.keyboard.press("Space")
        page.screenshot(path=shots / "viewer-keys.png")
        page.locator(".jp-OutputArea-output", has_text=f"chosen by hand: ({gate},)").wait_for(timeout=180_000)
        map_.focus()
        page.keyboard.press("Escape")
        until(lambda: not views(page)[0]["selected"], 30, "Escape clears")
        assert not errors, errors


def test_hover_words_stand_beside_the_pointer_in_a_scrolled_notebook(server, book):
    """JupyterLab makes what is "fixed" scroll with its notebook."""
    from lab import open_notebook, page_of, run_all, until, views

    name, _ = book(*["s3.widgets.StructureExplorer('similarity-0.2pct-s0')"] * 3, search=False)
    with page_of(CHROMIUM, height=900) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: len(views(page)) >= 2 and views(page)[1]["inked"], 120, lambda: views(page))
        map_ = page.locator(".s3pet-viewer .s3-heatmap svg").nth(1)
        map_.scroll_into_view_if_needed()
        box = map_.bounding_box()
        x, y = box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        tip = page.locator(".s3-tip:visible")
        tip.wait_for(timeout=180_000)
        found = tip.bounding_box()
        assert 0 < found["x"] - x < 40
        assert min(abs(found["y"] - y), abs(found["y"] + found["height"] - y)) < 40
        assert not errors, errors


def offline(page, folder, run):
    """The page of `s3pet show --html`."""
    from s3pet_viz.cli._output import heatmap_page

    made = folder / "page.html"
    made.write_text(heatmap_page(open_run(run)), encoding="utf-8")
    page.goto(made.as_uri())
    page.locator(".s3pet-viewer .s3-heatmap").wait_for(timeout=180_000)


def test_at_every_step_the_page_draws_the_recorded_p(tmp_path):
    from lab import page_of

    run = open_run("similarity-0.2pct-s0")
    with page_of(CHROMIUM) as (page, errors):
        offline(page, tmp_path, "similarity-0.2pct-s0")
        for step in (0, 3, 100, run.n_steps - 1):
            p = page.evaluate("(row) => { const { view } = document.querySelector('.s3pet-viewer').s3pet; view.goTo(row); view.draw(); return [...view.scene.p]; }", step)
            assert p == pytest.approx(run.p(step=step).tolist(), abs=1e-6)
        assert not errors, errors


def test_one_step_is_seen_and_what_is_saved_is_whole(tmp_path):
    """A point where there is no line; XML though a name holds signs that XML has no word for; numbers, not logarithms."""
    from xml.dom import minidom

    import widget_runs
    from lab import page_of

    gates = [widget_runs.Gate(i, f"encoder.{i}.Q", "encoder", i, "Q\x01\"", "LoRA", 10 + i, {"r": 1 + i}) for i in range(4)]
    made = widget_runs.Growing(tmp_path / "run", gates)
    made.write()
    made.end()
    with page_of(CHROMIUM, width=336) as (page, errors):  # the heatmap is 300 px wide: a canvas's own width
        offline(page, tmp_path, str(tmp_path / "run"))
        page.wait_for_function("() => document.querySelector('.s3-heatmap canvas').width === 300")
        assert page.locator(".s3-heatmap canvas").is_visible()
        assert page.locator(".s3-traces circle").count() == 4
        page.locator("label", has_text="other budgets").locator("input").check()
        for picture in ("heatmap", "budget-path"):
            for kind in ("svg", "png", "csv"):
                with page.expect_download(timeout=180_000) as saved:
                    page.locator(f".s3-{picture} .s3-tools button", has_text=kind.upper()).click(force=True)
                saved.value.save_as(tmp_path / f"{picture}.{kind}")
            assert minidom.parse(str(tmp_path / f"{picture}.svg")).getElementsByTagName("rect")
            assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        entered = [float(line.rsplit(",", 1)[1]) for line in (tmp_path / "budget-path.csv").read_text().splitlines()[1:]]
        assert len(entered) == 4
        assert min(entered) == 10
        assert not errors, errors


def test_without_anywidget_beside_the_server_a_picture_says_what_to_install(tmp_path_factory, shots):
    """JupyterLab in another environment than the kernel: it cannot load the module."""
    from lab import jupyterlab, notebook, open_notebook, page_of, run_all

    root = tmp_path_factory.mktemp("other")
    settings = root / ".jupyter" / "config" / "labconfig"
    settings.mkdir(parents=True)
    (settings / "page_config.json").write_text('{"disabledExtensions": {"anywidget": true}}')
    notebook(root / "other.ipynb", ["import s3pet_viz as s3\ns3.widgets.StructureExplorer('similarity-0.2pct-s0')"])
    with jupyterlab(root) as address, page_of(CHROMIUM) as (page, _):
        open_notebook(page, address, "other.ipynb")
        run_all(page)
        picture = page.locator(".jp-OutputArea .s3pet-static svg")
        picture.wait_for(state="visible", timeout=120_000)
        assert "pip install anywidget in the environment that runs JupyterLab" in " ".join(picture.locator("text").all_text_contents())
        assert picture.locator("path").count() > 5
        page.screenshot(path=shots / "viewer-no-anywidget.png")


def test_the_dark_theme_is_jupyterlabs(server, book, shots):
    from lab import open_notebook, page_of, run_all, until, views

    name, _ = book("s3.widgets.StructureExplorer('similarity-0.2pct-s0')", search=False)
    with page_of(CHROMIUM) as (page, errors):
        open_notebook(page, server[1], name)
        run_all(page)
        until(lambda: views(page) and views(page)[0]["inked"], 120, "a picture")
        paper = "() => getComputedStyle(document.querySelector('.s3pet-viewer')).backgroundColor"
        light = page.evaluate(paper)
        page.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; }")
        until(lambda: page.evaluate("() => document.querySelector('.s3pet-viewer').dataset.theme") == "dark", 30, "dark")
        until(lambda: page.evaluate(paper) != light, 30, "dark paper")
        page.screenshot(path=shots / "viewer-dark.png")
        assert not errors, errors
