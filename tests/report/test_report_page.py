"""The page of `cmfr report` in a headless browser, driven over Chromium's debugging pipe.

Skipped where no Chromium is found: `apt-get install chromium`, or CHROMIUM=PATH.
"""

# ruff: noqa: F811 (fixtures come by import, and are arguments too)
from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_command import (  # noqa: F401
    ANCHOR,
    GOOD,
    HIGH,
    QPS,
    SETS,
    folder,
    make,
    report,
    results,
)

from cmfr.evaluation.records import class_curve

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
PATIENCE = 60  # seconds for one answer of a busy machine


def _binary() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def _pipe() -> list[int]:
    """A pipe away from the numbers 3 and 4, which the browser's ends get."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


class Browser:
    """One page of a headless Chromium; the protocol is JSON with a zero byte behind it."""

    def __init__(self, binary: str, profile: Path) -> None:
        (to_read, self._out), (self._in, to_write) = _pipe(), _pipe()
        command = (
            f'exec "$0" "$@" 3<&{to_read} 4>&{to_write} {to_read}<&- {to_write}>&-',
            binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={profile}",
        )  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", *command], pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._number, self._buffer, self.events = 0, b"", []  # type: ignore[var-annotated]
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            data = os.read(self._in, 1 << 16) if ready else b""
            if not data:
                raise RuntimeError("the browser does not answer")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression; its exceptions fail the test."""
        found = self.send(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def scroll_to(self, element: str) -> None:
        """Returns when the page has noticed."""
        self.run(
            f"{element}.scrollIntoView({{block: 'center'}}); new Promise(done =>"
            "requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
        )

    def wait(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        self.scroll_to(f"document.querySelector({json.dumps(selector)})")
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, code: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code, text="\r" if name == "Enter" else "")  # fmt: skip

    def choose(self, selector: str, value: str) -> None:
        self.run(
            f"(() => {{ const s = document.querySelector({json.dumps(selector)}); "
            f"s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')); }})()"
        )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        found = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Errors of the console, and everything that was loaded besides the page itself."""
        said = [json.dumps(e["params"]) for e in self.events
                if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]  # fmt: skip
        loaded = [e["params"]["request"]["url"] for e in self.events
                  if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return said + [url for url in loaded[1:] if not url.startswith("data:")]

    def close(self) -> None:
        try:
            self._session = None
            self.send("Browser.close")
        except (OSError, RuntimeError):
            self._process.kill()
        self._process.wait(PATIENCE)
        os.close(self._out)
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    binary = _binary()
    if binary is None:
        pytest.skip("no Chromium here: `apt-get install chromium`, or set CHROMIUM")
    found = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(browser, folder) -> Browser:
    browser.open(folder / "index.html")
    return browser


CURVES = "#rd .card[data-set='class_d'] g.series"


def drawn(page: Browser) -> list[int]:
    return page.run(
        f"[...document.querySelectorAll({json.dumps(CURVES)})].map(g => +g.dataset.codec)"
    )


def test_page_opens_without_errors_and_loads_nothing(page):
    assert drawn(page) == [0, 1, 2, 3]
    assert page.run("document.querySelectorAll('#rd .card').length") == len(SETS)
    names = page.run("[...document.querySelectorAll('#legend button')].map(b => b.textContent)")
    assert names[:2] == [ANCHOR, GOOD] and names[3] == HIGH
    assert page.complaints() == []


def test_a_button_hides_a_curve_in_all_plots_and_brings_it_back(page, tmp_path):
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    page.screenshot(before)
    page.click("#legend button[data-codec='3']")
    assert drawn(page) == [0, 1, 2]
    assert page.run("document.querySelectorAll(\"g.series[data-codec='3']\").length") == 0
    pressed = "document.querySelector(\"#legend button[data-codec='3']\").ariaPressed"
    assert page.run(pressed) == "false"
    page.screenshot(after)
    assert before.read_bytes() != after.read_bytes()
    page.run("document.querySelector(\"#legend button[data-codec='3']\").focus()")
    page.key("Enter", 13)
    assert drawn(page) == [0, 1, 2, 3] and page.run(pressed) == "true"


def test_pointing_at_a_point_names_codec_label_rate_and_value(page):
    page.scroll_to(f"document.querySelector({json.dumps(CURVES)})")
    x, y = page.run(
        f"(() => {{ const b = document.querySelectorAll({json.dumps(CURVES)})[0]"
        ".querySelectorAll('.point')[4].getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait("!document.getElementById('tip').hidden")
    text = page.run("document.getElementById('tip').textContent")
    bpp, value = class_curve([r for r in make(ANCHOR) if r.dataset == "class_d"], "psnr_yuv")[4]
    assert text.splitlines()[0] == ANCHOR
    assert f"label {QPS[4]}, rate index 4" in text
    assert f"{bpp:.4f} bpp" in text and f"{value:.3f} PSNR-YUV (6:1:1), dB" in text


def test_arrow_keys_go_through_the_points(page):
    page.run("document.querySelector('#rd svg').focus()")
    for _ in range(2):
        page.key("ArrowRight", 39)
    said = "document.getElementById('said').textContent"
    assert page.run(said).startswith(ANCHOR) and "rate index 1" in page.run(said)
    page.key("ArrowUp", 38)
    assert page.run(said).startswith(GOOD)
    page.key("Escape", 27)
    assert page.run("document.getElementById('tip').hidden")


def test_metric_axis_and_sequence_can_be_chosen(page):
    axis = "document.querySelector('#rd svg').textContent"
    assert "PSNR-YUV" in page.run(axis)
    page.choose("#metric", "ms_ssim_y")
    assert "MS-SSIM-Y, linear" in page.run(axis)
    visible = "[...document.querySelectorAll('#bd [data-metric]')].filter(d => !d.hidden)"
    assert page.run(f"{visible}.map(d => d.dataset.metric)") == ["ms_ssim_y"]
    page.click("[data-axis=log]")
    assert "bits per pixel (logarithmic)" in page.run(axis)
    assert page.run("document.querySelector('[data-axis=linear]').ariaPressed") == "false"
    first = "document.querySelector('#rd path.curve').getAttribute('d')"
    before = page.run(first)
    page.choose("#rd .card select", "1")
    assert page.run(first) != before
    assert page.complaints() == []


def test_quality_by_frame_is_drawn_for_the_chosen_rate(page):
    line = "document.querySelector('#drift g.series path.curve').getAttribute('d')"
    assert page.run(f"{line}.split('L').length") == 12  # frames
    before = page.run("document.querySelector('#drift svg').textContent")
    page.choose("#drift select[aria-label='Rate index']", "3")
    assert page.run("document.querySelector('#drift svg').textContent") != before
    assert page.run("document.querySelectorAll('#drift .point').length") == 4  # I-frames


def test_overlap_is_told_at_a_number(page):
    cell = "[...document.querySelectorAll('#bd td [data-tip]')].find(c => c.dataset.tip"
    page.run(f"{cell}.startsWith('quality')).focus()")
    assert "overlap 100%" in page.run("document.getElementById('tip').textContent")
    page.run("document.activeElement.blur()")
    assert page.run("document.getElementById('tip').hidden")


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone_and_reads_in_the_dark(browser, folder, dark):
    browser.open(folder / "index.html", 380, 800, dark)
    assert browser.run("document.documentElement.scrollWidth") <= 380
    paper, ink = (
        [int(x) for x in browser.run(f"getComputedStyle(document.body).{c}")[4:-1].split(",")]
        for c in ("backgroundColor", "color")
    )
    assert (sum(paper) < sum(ink)) == dark and abs(sum(paper) - sum(ink)) > 500
    svg = "document.querySelector('#rd svg').getBoundingClientRect().width"
    assert 300 < browser.run(svg) <= 380
