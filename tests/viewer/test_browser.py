"""The page in a headless Chromium: what a user sees and does."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bevstack.geometry import Boxes3D, Camera
from bevstack.viewer.learned import StreamStatus
from bevstack.viewer.received import Picture
from bevstack.viewer.server import PageServer
from bevstack.viewer.state import Diagnostic, LogLine, PageState, Status

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright: pip install playwright")
pytestmark = pytest.mark.browser

# A machine without display, GPU or network; as root Chromium has no sandbox of its own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("BEVSTACK_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set BEVSTACK_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield made
        made.close()


class Drive:
    """A synthetic drive that keeps coming: six cameras, three boxes, one second of statuses per call of ``step``."""

    def __init__(self, rig: dict[str, Camera], boxes: Boxes3D, jpeg: bytes) -> None:
        self.state = PageState()
        self.rig, self.boxes, self.jpeg = rig, boxes, jpeg
        self.count = 0
        self.silent: set[str] = set()
        for camera in rig.values():
            self.state.set_camera(camera)
        self.state.set_about(source="a test drive")

    def step(self) -> None:
        self.count += 1
        stamp = self.count * 100_000_000
        for name in self.rig:
            if name not in self.silent:
                self.state.add_picture(name, Picture(stamp, self.jpeg))
        self.state.set_truth(stamp, self.boxes)
        self.state.set_boxes(stamp, self.boxes)
        stages = (("decode", 12.0), ("network", 80.0), ("nms", 3.0))
        counts, drops = dict.fromkeys(self.rig, self.count), dict.fromkeys(self.rig, 0)
        self.state.set_status(
            Status(stamp, "fastbev-nano", "onnx", self.count, self.count, 0, 0.0, stages, 101.0, counts, drops)
        )


@pytest.fixture
def drive(rig: dict[str, Camera], boxes: Boxes3D, jpeg: bytes) -> Drive:
    return Drive(rig, boxes, jpeg)


@pytest.fixture
def server(drive: Drive) -> Iterator[PageServer]:
    made = PageServer(drive.state, port=0)
    made.start()
    yield made
    made.close()


@pytest.fixture
def page(browser: Any, server: PageServer, drive: Drive) -> Iterator[Any]:
    """The page after its first views, with a drive that goes on; errors of its script fail the test."""
    context = browser.new_context(viewport={"width": 1600, "height": 900}, color_scheme="dark")
    made = context.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(0.05):
            drive.step()

    runner = threading.Thread(target=go, daemon=True)
    runner.start()
    made.goto(server.url)
    made.wait_for_selector("html[data-seq]", timeout=TIMEOUT_MS)
    yield made
    ended.set()
    runner.join()
    context.close()
    assert [e for e in errors if "ERR_CONNECTION" not in e] == []


def until(page: Any, condition: Callable[[], bool]) -> None:
    """Waits for a condition of the document (the page's security policy forbids playwright's own waiting by eval)."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not condition():
        assert time.monotonic() < deadline, "the page did not come to show it"
        page.wait_for_timeout(50)


def seq(page: Any) -> int:
    return int(page.evaluate("document.documentElement.dataset.seq"))


def has_colour(page: Any, selector: str, colour: str) -> bool:
    """Any pixel of the canvas near ``#rrggbb``."""
    return bool(
        page.evaluate(
            """([selector, colour]) => {
                const canvas = document.querySelector(selector);
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                const want = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
                for (let i = 0; i < data.length; i += 4)
                    if (want.every((w, k) => Math.abs(data[i + k] - w) < 24)) return true;
                return false;
            }""",
            [selector, colour],
        )
    )


CAR = "#4da3ff"


def test_shows_cameras_boxes_figures_and_logs(page: Any, drive: Drive, tmp_path: Path) -> None:
    drive.state.add_log(LogLine(time.time(), "warn", "bev_node", "cam_back is late"))
    drive.state.set_diagnostics([Diagnostic("recorder: recording", "ok", "recording", {"megabytes": "12.3"})])
    until(page, lambda: page.locator("#fact-rung").inner_text() == "fastbev-nano")
    assert page.locator(".camera").count() == 6
    assert page.locator(".camera").first.get_attribute("data-name") == "cam_front_left"
    until(page, lambda: has_colour(page, '.camera[data-name="cam_front"] canvas', CAR))
    until(page, lambda: has_colour(page, "#bev-canvas", CAR))
    assert "1 car, 1 pedestrian, 1 truck" in page.locator("#bev-canvas").get_attribute("aria-label")
    assert page.locator("#fact-latency").inner_text() == "101 ms"
    assert page.locator("#fact-boxes").inner_text() == "3"
    assert page.locator("#stages .name").all_inner_texts() == ["decode", "network", "nms", "end to end"]
    assert page.locator("#streams tr").count() == 6
    until(page, lambda: "cam_back is late" in page.locator("#logs").inner_text())
    until(page, lambda: page.locator("#fact-recorder").inner_text() == "12.3 MB")
    assert page.locator("#link").inner_text() == "live"
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_pause_holds_and_goes_on(page: Any) -> None:
    page.keyboard.press("Space")
    until(page, lambda: page.locator("#link").inner_text() == "paused")
    page.wait_for_timeout(400)
    held = seq(page)
    page.wait_for_timeout(600)
    assert seq(page) == held
    page.locator("#pause").click()
    until(page, lambda: seq(page) > held + 2)
    assert page.locator("#link").inner_text() == "live"


def test_theme_switches_and_is_remembered(page: Any) -> None:
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.keyboard.press("t")
    assert page.evaluate(theme) == "light"
    page.reload()
    page.wait_for_selector("html[data-seq]", timeout=TIMEOUT_MS)
    assert page.evaluate(theme) == "light"
    page.locator("#theme").click()
    assert page.evaluate(theme) == "dark"


def test_camera_is_enlarged_by_key_and_by_click(page: Any) -> None:
    page.keyboard.press("2")
    assert page.locator(".camera.large").get_attribute("data-name") == "cam_front"
    page.keyboard.press("Escape")
    assert page.locator(".camera.large").count() == 0
    page.locator('.camera[data-name="cam_back"]').click()
    assert page.locator(".camera.large").get_attribute("data-name") == "cam_back"


def test_class_and_score_filters(page: Any) -> None:
    until(page, lambda: has_colour(page, "#bev-canvas", CAR))
    page.locator('#legend button[data-name="car"]').click()
    until(page, lambda: page.locator("#fact-boxes").inner_text() == "2")
    assert page.locator('#legend button[data-name="car"]').get_attribute("aria-pressed") == "false"
    until(page, lambda: not has_colour(page, '.camera[data-name="cam_front"] canvas', CAR))
    page.locator("#score").fill("0.5")
    until(page, lambda: page.locator("#fact-boxes").inner_text() == "1")


def test_zoom_by_keys_wheel_and_hover_tells_about_the_box(page: Any) -> None:
    canvas = page.locator("#bev-canvas")
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    page.keyboard.press("+")
    page.keyboard.press("0")
    scale = min(box["height"], box["width"] * 1.35) / 112
    page.mouse.move(middle[0], middle[1] - 15 * scale)  # the car 15 m ahead
    until(page, lambda: page.locator("#bev-tip").is_visible())
    assert "car #3" in page.locator("#bev-tip").inner_text()
    assert "8.0 m/s" in page.locator("#bev-tip").inner_text()


def test_log_filter(page: Any, drive: Drive) -> None:
    drive.state.add_log(LogLine(time.time(), "info", "camera_node", "quiet words"))
    drive.state.add_log(LogLine(time.time(), "error", "bev_node", "loud words"))
    until(page, lambda: "quiet words" in page.locator("#logs").inner_text())
    page.locator("#log-level").select_option("3")
    assert "quiet words" not in page.locator("#logs").inner_text()
    assert "loud words" in page.locator("#logs").inner_text()
    page.locator("#log-level").select_option("0")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("quiet")
    until(page, lambda: "loud words" not in page.locator("#logs").inner_text())


def test_a_silent_camera_is_marked(page: Any, drive: Drive) -> None:
    drive.silent.add("cam_back")
    until(page, lambda: "late" in page.locator('.camera[data-name="cam_back"]').get_attribute("class"))
    assert "no image for" in page.locator('.camera[data-name="cam_back"] .note').inner_text()
    assert page.locator("#streams tr[data-level=error]").count() == 1


def test_the_end_of_a_source_is_said_and_no_camera_is_blamed(page: Any, drive: Drive) -> None:
    drive.silent.update(drive.rig)
    until(page, lambda: page.locator(".camera.late").count() == 6)
    drive.state.set_ended()
    until(page, lambda: page.locator("#link").inner_text() == "end of source")
    assert page.locator(".camera.late").count() == 0


def test_text_from_the_stack_is_text_not_markup(page: Any, drive: Drive) -> None:
    drive.state.add_log(LogLine(time.time(), "info", "<b>x</b>", "<img src=x onerror=alert(1)>"))
    until(page, lambda: "<img src=x" in page.locator("#logs").inner_text())
    assert page.locator("#logs img").count() == 0


def test_comes_back_after_the_server_was_away(page: Any, server: PageServer, drive: Drive) -> None:
    port = server.port
    server.close()
    until(page, lambda: page.locator("#link").get_attribute("data-state") == "lost")
    again = PageServer(drive.state, port=port)
    again.start()
    try:
        until(page, lambda: page.locator("#link").get_attribute("data-state") == "live")
    finally:
        again.close()


def test_small_screen_scrolls_only_down(browser: Any, server: PageServer, drive: Drive) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.goto(server.url)
    drive.step()
    page.wait_for_selector("html[data-seq]", timeout=TIMEOUT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("#bev-canvas").bounding_box()["width"] > 300
    context.close()


def test_everything_can_be_reached_with_the_tab_key(page: Any) -> None:
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.name || ''"))
    assert {
        "pause",
        "theme",
        "help-open",
        "cam_front",
        "bev-canvas",
        "zoom-in",
        "score",
        "car",
        "log-level",
        "log-text",
    } <= reached


def test_learned_streams_show_pictures_and_figures(page: Any, drive: Drive, server: PageServer, tmp_path: Path) -> None:
    assert page.locator("#learned").is_hidden(), "no streams, no panel"

    def code(count: int, decode: bool = True) -> None:
        stamp = drive.count * 100_000_000
        for name in ("cam_front", "cam_back"):
            stages = (("analysis", 40.0), ("total", 61.0))
            status = StreamStatus(name, "encode", stamp, "codec-nano", "onnx", 320, 180, 1440, 0.2, 21.0, stages=stages)
            drive.state.learned.set_status(replace(status, frames_in=count + 2, frames_out=count, frames_dropped=2))
            if decode and name in server.learned_cameras():
                drive.state.learned.add_decoded(name, Picture(stamp, np.full((180, 320, 3), 94, np.uint8)))

    def grey(kind: str) -> int:
        return int(
            page.evaluate(
                """(kind) => {
                    const image = document.querySelector(`#learned img[alt^="${kind} of"]`);
                    if (!image || !image.complete || !image.naturalWidth) return -1;
                    const canvas = document.createElement("canvas");
                    canvas.width = canvas.height = 1;
                    const context = canvas.getContext("2d");
                    context.drawImage(image, 0, 0, 1, 1);
                    return context.getImageData(0, 0, 1, 1).data[0];
                }""",
                kind,
            )
        )

    def explained() -> bool:
        code(drive.count, decode=False)
        return page.locator(".learned-reason").is_visible() and page.locator(".learned-pictures").is_hidden()

    until(page, explained)
    assert "decoder_node" in page.locator(".learned-reason").inner_text()

    def shown() -> bool:
        code(drive.count)
        return grey("decoded") >= 0

    until(page, shown)
    assert [round(grey(kind) / 4) for kind in ("original", "decoded", "difference")] == [22, 24, 8]  # 90, 94, 8 x 4
    assert page.locator(".learned-reason").is_hidden()
    facts = dict(zip(page.locator("#learned dt").all_inner_texts(), page.locator("#learned dd").all_inner_texts()))
    assert (facts["bits per pixel"], facts["bytes"], facts["picture"]) == ("0.200", "1,440", "320 × 180")
    assert facts["PSNR"] == "36.09 dB"  # 20 log10(255 / 4)
    assert facts["encode"] == "61.0 ms"
    assert facts["dropped"].startswith("2 of ")
    assert page.locator("#learned select option").all_inner_texts() == ["cam_front", "cam_back"]
    page.locator("#learned select").select_option("cam_back")
    until(page, lambda: server.learned_cameras() == {"cam_back"})
    page.locator("#learned button").click()
    until(page, lambda: server.learned_cameras() == set())
    assert page.locator(".learned-pictures").is_hidden()
    page.locator("#learned button").click()
    until(page, lambda: server.learned_cameras() == {"cam_back"})
    lost = StreamStatus("cam_back", "encode", drive.count * 100_000_000, frames_in=9, frames_dropped=3, reason="out of memory")
    drive.state.learned.set_status(lost)
    until(page, lambda: page.locator(".learned-reason").inner_text() == "out of memory")
    assert "1,440" in page.locator("#learned .learned-facts").inner_text(), "a lost frame does not wipe what the last one had"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [page.locator(f".{name}").bounding_box() for name in ("cameras", "logs", "learned")]
    for above, below in itertools.pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"] + 1, "panels do not overlap"
