"""Reports in a real browser: nothing is fetched, nothing overflows a phone, every picture is shown."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, packed_folder

from oskar.recipes import recipe
from oskar.reporting import pictured_run
from oskar.reporting.side_by_side import report
from oskar.train.pretrain import pretrain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 375)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at pages with")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of a run with skeletons, and that of two runs."""
    folder = tmp_path_factory.mktemp("browser")
    data = packed_folder(folder / "joints", 24)
    config = recipe("oskar-tiny").with_overrides([*TINY, 'tokens.modalities=["skeleton"]'])
    runs = [folder / "a-run-with-a-name-that-is-rather-long", folder / "another-run-with-a-name-that-is-rather-long"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictured_run, "MOST_CLIPS", 12)
        for seed, run in enumerate(runs):
            pretrain(config.with_overrides([f"train.seed={seed}"]), [str(data)], run)
        return [report(runs[:1]), report(runs)]


def test_pages_in_chromium(pages: list[Path]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path in pages:
            for width in WIDTHS:
                look_at(browser, path, width)
        browser.close()


def look_at(browser: Any, path: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    fetched: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    assert [url for url in fetched if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width, f"{path.name} is wider than {width}"
    sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
    assert all(natural > 0 and 8 < shown <= width for natural, shown in sizes)
    # what is drawn as SVG has a size too, and a line of a legend is no higher than its words
    heights = page.evaluate("[...document.querySelectorAll('.strip svg')].map(s => s.getBoundingClientRect().height)")
    assert all(height > 30 for height in heights)
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, td, th, li, figcaption, caption')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    page.close()
