"""The page in a real browser: a sentence finds its clip on the built-in people, and all that can be clicked.

The head learns the very clips that are indexed, from encoders of random weights: this tests the way from the words
typed to the clip shown, not what an encoder has learned.
"""

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright
from runs import shrunk, write_index, write_video

from oskar.data.people import ACTIONS, PeopleClips, PeopleWorld, generate
from oskar.embedding.embed import EmbedConfig, embed
from oskar.pretraining import MaskedPrediction
from oskar.searching.indexing import index
from oskar.searching.serve import page_server
from oskar.tasks.retrieval import RetrievalConfig, evaluate_retrieval
from oskar.tokens.words import train_words
from oskar.train.pretrain import save_transfer

N_CLIPS = 16
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH to open the page in"),
]


@pytest.fixture(scope="module")
def people() -> PeopleClips:
    return generate(PeopleWorld(n_frames=8, resolution=48, n_people=2), torch.arange(N_CLIPS), 0)


@pytest.fixture(scope="module")
def address(people: PeopleClips, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run of random weights, a head that learned the clips, their embeddings, an index, and its server."""
    place = tmp_path_factory.mktemp("search")
    data, run = people_folder(place / "data", people), place / "run"
    config = shrunk("oskar-tiny")
    config = replace(config, tokens=replace(config.tokens, n_frames=8, n_words=24, vocabulary_size=400))
    torch.manual_seed(0)
    words = train_words(people.captions, 400)
    save_transfer(MaskedPrediction(config), config, words, run / "encoder")
    learn = RetrievalConfig(steps=200, batch_size=N_CLIPS, lr=3e-3, width=32, precision="float32", device="cpu")
    evaluate_retrieval(run, [str(data)], "video", place / "head", learn, "frozen")
    embed(run, [data], place / "clips.safetensors", EmbedConfig(workers=0, device="cpu"), head=place / "head")
    index([place / "clips.safetensors"], place / "db")
    with page_server(place / "db", data, run, head=place / "head", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.port}/"
        server.shutdown()
        thread.join()


def people_folder(folder: Path, people: PeopleClips) -> Path:
    """Videos, joints and captions of the people; the last clip is there once more, for the split that a head needs."""
    rows: list[dict[str, object]] = []
    for i in range(N_CLIPS):
        write_video(folder / f"{i}.mkv", people.frames[i].permute(0, 2, 3, 1).numpy())
        joints = people.joints[i].numpy()
        np.savez(
            folder / f"{i}.npz", joints=joints[..., :2], confidence=joints[..., 2], layout="COCO-17", units="share"
        )
        rows.append(
            {
                "clip_id": f"p{i}", "path": f"{i}.mkv", "joints_path": f"{i}.npz", "caption": people.captions[i],
                "label": ACTIONS[int(people.labels[i])], "split": "train", "caption_source": "written",
            }
        )  # fmt: skip
    return write_index(folder, [*rows, {**rows[-1], "clip_id": "again", "split": "test"}])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page at desktop width; fails if it logs an error or asks anybody else for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith(address) else problems.append(asked.url))
    opened.goto(address)
    expect(opened.locator("#map .point")).to_have_count(N_CLIPS + 1)
    yield opened
    assert not problems
    context.close()


def found_clips(page: Page) -> list[str]:
    return [str(card.get_attribute("data-clip")) for card in page.locator(".card").all()]


def ask(page: Page, words: str) -> list[str]:
    page.fill("#query", words)
    page.press("#query", "Enter")
    expect(page.locator("#status")).to_contain_text(f"“{words}”")
    expect(page.locator("#status")).to_contain_text(re.compile(r"\d results? for"))
    return found_clips(page)


def test_a_sentence_finds_its_clip_first(page: Page, people: PeopleClips) -> None:
    assert page.locator("#mode-text").is_checked()
    ranks = [ask(page, people.captions[i]).index(f"data/p{i}") for i in (0, 5, 9, 12)]
    assert ranks == [0, 0, 0, 0]


def test_thumbnails_play_and_can_be_stopped(page: Page, people: PeopleClips) -> None:
    ask(page, people.captions[3])
    video = page.locator(".card video").first
    expect(page.locator(".card .play").first).to_have_text("Pause")
    video.evaluate("v => v.currentTime > 0 || new Promise(r => v.addEventListener('timeupdate', r, {once: true}))")
    assert video.evaluate("v => [v.error, v.videoWidth > 0, v.muted]") == [None, True, True]
    page.click("#pause")
    expect(page.locator(".card .play").first).to_have_text("Play")
    assert page.locator(".card video[src]").evaluate_all("vs => vs.every(v => v.paused)")


def test_more_like_this_the_map_and_a_skeleton(page: Page, people: PeopleClips) -> None:
    first = ask(page, people.captions[3])[0]
    page.locator(".card .skeleton").first.click()
    canvas = page.locator(".card canvas[data-frame]").first
    expect(canvas).to_be_visible()
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    assert canvas.evaluate(drawn)
    page.locator(".card .like").first.click()
    expect(page.locator("#status")).to_contain_text(f"clips like {first}")
    assert first not in found_clips(page)
    assert page.locator("#map .point.found").count() == len(found_clips(page))
    point = page.locator("#map .point").first
    point.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    chosen = page.evaluate("document.activeElement.getAttribute('aria-label')").split(",")[0]
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(f"clips like {chosen}")


def test_words_of_captions_and_a_label(page: Page, people: PeopleClips) -> None:
    page.check("#mode-captions")
    found = ask(page, "person")
    assert found
    expect(page.locator(".card .facts").first).to_contain_text("score of words")
    label = ACTIONS[int(people.labels[2])]
    page.select_option("#label", label)
    page.check("#mode-text")
    assert ask(page, people.captions[2])[0] == "data/p2"
    wanted = {f"data/p{i}" for i in range(N_CLIPS) if ACTIONS[int(people.labels[i])] == label}
    assert set(found_clips(page)) <= wanted | {"data/again"}


def test_it_fits_a_phone(page: Page, people: PeopleClips) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, people.captions[1])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [box for button in page.locator("button:visible").all() if (box := button.bounding_box()) is not None]
    assert min(box["height"] for box in boxes) >= 40
