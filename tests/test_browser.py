"""The page in a real browser: no errors, nothing wider than the window, tables that sort, wide,
narrow and dark."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from proxynas.report import ReportInputs, write

from .test_page import everything
from .test_report import inputs, many

api = pytest.importorskip(
    "playwright.sync_api", reason="no browser test: playwright is not installed"
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = {"wide": (1280, "light"), "narrow": (400, "light"), "dark": (1280, "dark")}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The system's Chromium, or the one that ``playwright install chromium`` fetched."""
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if path is None:
            pytest.skip(
                "no browser: install Debian's chromium, or run 'playwright install chromium'"
            )
        flags = (
            ["--no-sandbox"] if os.geteuid() == 0 else []
        )  # Chromium refuses its sandbox to root
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports with all that one can have, with no truth, and with many candidates of a coreset."""
    folder = tmp_path_factory.mktemp("pages")
    reports: dict[str, ReportInputs] = {
        "everything": everything(folder / "a.sqlite"),
        "no-truth": inputs(folder / "b.sqlite", None),
        "many": many(600, seeds=3),
    }
    return {name: write(folder / name, report) for name, report in reports.items()}


def opened(
    browser: "Browser", path: Path, width: int, scheme: str = "light"
) -> "tuple[Page, list[str]]":
    """The page in a window, and what its console says against it."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors: list[str] = []
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else errors.append(request.url)
        ),
    )
    page.goto(path.as_uri())
    return page, errors


@pytest.mark.parametrize("name", ["everything", "no-truth", "many"])
@pytest.mark.parametrize("view", WIDTHS)
def test_nothing_is_wrong_or_too_wide(
    browser: "Browser", pages: dict[str, Path], tmp_path: Path, name: str, view: str
) -> None:
    width, scheme = WIDTHS[view]
    page, errors = opened(browser, pages[name], width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    image = Path(os.environ.get("PROXYNAS_SCREENSHOTS", tmp_path)) / f"{name}-{view}.png"
    page.screenshot(path=image, full_page=True)
    inside = "document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(inside), "the page is wider than the window"
    brightness = np.asarray(Image.open(image).convert("L")).mean()
    assert bool(brightness < 100) is (scheme == "dark")
    assert errors == []
    page.close()


def test_the_first_screen_has_all_answers(browser: "Browser", pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["everything"], 1280)
    for part in (".tiles", ".next", "details.verdict"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800
    page.close()


def test_tables_sort_by_a_click(browser: "Browser", pages: dict[str, Path]) -> None:
    page, errors = opened(browser, pages["everything"], 1280)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    title = page.get_by_role("button", name="Parameters")
    body = "document.querySelector('[aria-label=\"Best networks\"] tbody')"
    column = f"[...{body}.rows].map(row => +row.cells[4].dataset.value)"
    title.click()
    falling = page.evaluate(column)
    assert falling == sorted(falling, reverse=True)
    title.click()
    assert page.evaluate(column) == sorted(falling)
    assert errors == []
    page.close()


def test_a_candidate_lights_up_everywhere(browser: "Browser", pages: dict[str, Path]) -> None:
    page, errors = opened(browser, pages["everything"], 1280)
    page.locator("tr[data-key]").first.hover()
    lit = page.evaluate("[...document.querySelectorAll('.lit')].map(item => item.dataset.key)")
    assert len(lit) > 1
    assert len(set(lit)) == 1
    assert errors == []
    page.close()


def test_downloads_are_in_the_page_itself(browser: "Browser", pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["everything"], 1280)
    with page.expect_download() as waiting:
        page.get_by_text("Download best.csv").click()
    assert waiting.value.suggested_filename == "best.csv"
    assert Path(waiting.value.path()).read_text(encoding="utf-8").startswith("Rank,Architecture,")
    page.close()
