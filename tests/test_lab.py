"""JupyterLab in a real browser: notebook 00 is opened, run from the top to the end, and looked at.

The picture is kept as `outputs/lab/00_start_here.png`. The test works on a copy
of the notebooks, since JupyterLab saves what it runs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = Path("notebooks/00_start_here.ipynb")
SECONDS = 420  # for the whole notebook, on two cores that others use too
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
IDLE = f"{PANEL} .jp-Notebook-ExecutionIndicator[data-status=idle]"

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the notebooks and parameters of this project, to run and save in."""
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def lab(project: Path) -> Iterator[Callable[[str | Path], str]]:
    """A JupyterLab server of its own: the address of a path on it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    home = project / "jupyter"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={project}"]
    command += [f"--IdentityProvider.token={token}"]
    env = {**os.environ, "JUPYTER_CONFIG_DIR": f"{home}/config", "JUPYTER_DATA_DIR": f"{home}/data"}
    env |= {"JUPYTER_RUNTIME_DIR": f"{home}/runtime", "IPYTHONDIR": f"{home}/ipython"}
    settings = home / "config/labconfig/page_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    log = project / "jupyterlab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=project, env=env, stdout=out, stderr=subprocess.STDOUT)

    def url(path: str | Path) -> str:
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    try:
        _wait_until(lambda: _get(url("api")), 90, f"JupyterLab to start; its log: {log}")
        yield url
    finally:
        server.terminate()  # ends its kernels too
        server.wait(120)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium of its own, driven over ChromeDriver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with ChromeDriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = ["--headless=new", "--window-size=1500,2200", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ]
    flags += [f"--user-data-dir={tmp_path / 'chromium'}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    for flag in flags:
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_page_load_timeout(120)
    try:
        yield chrome
    finally:
        chrome.quit()


def test_notebook_00_runs_from_top_to_end_in_jupyterlab(
    project: Path, browser: Any, lab: Callable[[str | Path], str]
) -> None:
    browser.get(lab("lab/tree" / NOTEBOOK))
    _wait_until(lambda: any(k["connections"] for k in _get(lab("api/kernels")) or ()), 90, "the kernel")
    _wait_until(lambda: _shown(browser, IDLE), 120, "the kernel to be idle")
    time.sleep(3)  # cells run before the page has heard of its kernel are dropped by JupyterLab
    _run_all(browser)
    asked = time.monotonic()
    cells: list[dict[str, Any]] = []

    def finished() -> bool:
        nonlocal asked
        if not _shown(browser, IDLE):
            return False
        _save(browser, project / NOTEBOOK)
        cells[:] = _code_cells(project / NOTEBOOK)
        if not any(cell["execution_count"] for cell in cells) and time.monotonic() - asked > 30:  # they were dropped
            _run_all(browser)
            asked = time.monotonic()
        return any(_errors(cell) for cell in cells) or all(cell["execution_count"] for cell in cells)

    try:
        _wait_until(finished, SECONDS, "the last cell")
    finally:
        for panel in _shown(browser, f"{PANEL} .jp-WindowedPanel-outer"):
            browser.execute_script("arguments[0].scrollTop = 0", panel)
        time.sleep(3)  # cells are drawn as they come into view
        picture = ROOT / "outputs/lab" / f"{NOTEBOOK.stem}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(picture))
    assert not [error for cell in cells for error in _errors(cell)]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any(kind.startswith("image/") for cell in cells for o in cell["outputs"] for kind in o.get("data", {}))
    assert not _shown(browser, ".jp-Dialog")


def _code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells with something in them; Jupyter does not run, nor number, empty ones."""
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def _errors(cell: dict[str, Any]) -> list[str]:
    return [f"{o['ename']}: {o['evalue']}" for o in cell["outputs"] if o["output_type"] == "error"]


def _shown(browser: Any, selector: str, text: str = "") -> list[Any]:
    from selenium.common.exceptions import StaleElementReferenceException

    found = []
    for element in browser.find_elements("css selector", selector):
        with suppress(StaleElementReferenceException):  # the page has drawn it anew meanwhile
            if element.is_displayed() and text in element.text:
                found.append(element)
    return found


def _click(browser: Any, selector: str, text: str) -> None:
    from selenium.common.exceptions import StaleElementReferenceException

    def clicked() -> bool:
        with suppress(StaleElementReferenceException):
            for element in _shown(browser, selector, text):
                element.click()
                return True
        return False

    _wait_until(clicked, 60, f"{text!r} to click on")


def _run_all(browser: Any) -> None:
    _click(browser, ".lm-MenuBar-item", "Run")
    _click(browser, ".lm-Menu-item[data-command='runmenu:run-all'] .lm-Menu-itemLabel", "Run All Cells")


def _save(browser: Any, file: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    before, end = file.stat().st_mtime_ns, time.monotonic() + 10
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
    while file.stat().st_mtime_ns == before and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(3)  # a second save in the middle of the first would ask which of the two to keep


def _get(url: str) -> Any:
    """What the server answers, or None where there is none yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def _wait_until(condition: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.5)
