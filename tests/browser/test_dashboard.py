"""The dashboard in a browser: served with a token, live, and read only unless told otherwise."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from lab import page_of
from widget_runs import HOSTILE, Growing, space

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium found (apt-get install chromium)"),
]


@contextmanager
def served(folder, *words):
    """The address that `s3pet dashboard` prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "s3pet_viz", "dashboard", str(folder), "--no-browser", "--port", str(port), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            line = server.stdout.readline()
            yield re.search(r"http://\S+", line)[0], line
        finally:
            server.send_signal(signal.SIGINT)
            ended = server.wait(120)
    assert ended == 130


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        growing = Growing(tmp_path / "runs" / f"a{seed}", space(3, 3), task=HOSTILE if seed else "sentiment", seed=seed)
        growing.write(3)
        growing.end()
    return tmp_path / "runs"


def state(page):
    return page.evaluate("document.querySelector('.s3pet-runs').s3pet.state()")


def test_it_reads_and_moves_and_lets_nobody_in_without_the_token(folder, shots):
    live = Growing(folder / "live", space(3, 3), task="topics")
    live.write(1)
    with served(folder) as (address, line), page_of(CHROMIUM) as (page, errors):
        assert "read only" in line
        bare = address.partition("?")[0]
        with pytest.raises(urllib.error.HTTPError, match="403|401|405"):
            urllib.request.urlopen(urllib.request.Request(bare + "api/kernels", method="POST"), timeout=60)
        seen = urllib.request.urlopen(bare, timeout=60)
        assert "login" in seen.url
        assert b"sentiment" not in seen.read()

        page.goto(address)
        page.wait_for_selector(".s3pet-runs tbody tr", timeout=240_000)
        assert state(page)["all"] == 3
        assert page.get_by_role("button", name="Delete").count() == 0
        page.get_by_role("button", name="live", exact=True).click()
        page.wait_for_selector(".s3pet-viewer .s3-heatmap svg text", timeout=120_000)
        live.write(4)
        page.wait_for_function("() => [...document.querySelectorAll('.s3pet-viewer')].some((v) => v.s3pet?.state().step === 5)", timeout=120_000)
        page.wait_for_function("() => document.querySelector('.s3pet-runs').innerText.match(/running\\s+5/)", timeout=120_000)
        page.screenshot(path=shots / "dashboard.png")
        live.end()
        assert not [e for e in errors if "ERR_NAME_NOT_RESOLVED" not in e]


def test_sorting_filtering_and_deleting_which_asks_twice(folder):
    with served(folder, "--control") as (address, line), page_of(CHROMIUM) as (page, errors):
        assert "may be changed" in line
        page.goto(address)
        page.wait_for_selector(".s3pet-runs tbody tr", timeout=240_000)
        page.get_by_role("button", name="seed").click()
        assert state(page)["runs"] == ["a1", "a0"]
        page.get_by_label("filter").fill("sentiment")
        assert state(page)["runs"] == ["a0"]
        page.get_by_label("filter").fill("")
        page.get_by_label("pick a1").check()
        page.get_by_role("button", name="Delete…", exact=True).click()
        page.get_by_role("button", name="Keep").click()
        assert (folder / "a1").exists()
        page.get_by_role("button", name="Delete…", exact=True).click()
        page.get_by_role("button", name="Delete 1 run…").click()
        assert (folder / "a1").exists()
        page.get_by_role("button", name="Yes, delete 1 run").click()
        page.wait_for_function("() => document.querySelector('.s3pet-runs').s3pet.state().all === 1", timeout=120_000)
        assert not (folder / "a1").exists()
        page.get_by_label("pick a0").check()
        page.get_by_role("button", name="Name, tags, note").click()
        page.get_by_label("tags").fill("paper, best")
        page.get_by_role("button", name="Save").click()
        page.wait_for_function("() => document.querySelector('.s3pet-runs').innerText.includes('paper, best')", timeout=120_000)
        assert not [e for e in errors if "ERR_NAME_NOT_RESOLVED" not in e]
