"""The service's page in a real browser: what a person does with it, by mouse, by keyboard, on a phone and on paper."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import agfnet.serving
from served import Service, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt install chromium)")

SAMPLES = Path(agfnet.__file__).parent / "serving" / "page" / "samples"
PHOTO, SCAN = SAMPLES / "1-clinical.jpg", SAMPLES / "1-ultrasound.png"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
SECONDS = 20_000  # milliseconds until a test gives up waiting
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def service(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A real service of a small network, on this machine, without tokens."""
    with serving(calibrated, tmp_path_factory.mktemp("page"), "--threads", 1) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def opener(browser: Any, service: Any) -> Iterator[Open]:
    """Opens the page; afterwards: nothing was asked of another address, and the browser found no fault."""
    contexts: list[Any] = []
    faults: list[str] = []

    def watch(message: Any) -> None:
        # A refused request is also written there by the browser itself; the tests ask for refusals.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith((service.url.rstrip("/") + "/", "data:", "blob:" + service.url.rstrip("/"))):
            faults.append(f"asked for {request.url}")

    def open_page(width: int = 1280, height: int = 800, locale: str = "en-GB", **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale=locale, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", watch)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        page.goto(service.url)
        page.wait_for_selector(".zone")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def opened(browser: Any, service: Any) -> Iterator[Open]:
    with opener(browser, service) as open_page:
        yield open_page


@pytest.fixture
def page(opened: Open) -> Any:
    return opened()


@pytest.fixture(scope="module")
def shown(browser: Any, service: Any) -> Iterator[Any]:
    """A page with an answer from two views, for tests that leave it there."""
    with opener(browser, service) as open_page:
        yield answered(open_page())


def choose(page: Any, view: str, file: Path | dict[str, Any]) -> None:
    page.set_input_files(f"#file-{view}", file)
    page.wait_for_selector(f'.zone.filled[data-view="{view}"]')


def analyse(page: Any) -> None:
    page.click("#analyse")
    page.wait_for_selector(".result")


def answered(page: Any) -> Any:
    choose(page, "clinical", PHOTO)
    choose(page, "ultrasound", SCAN)
    analyse(page)
    return page


def sideways(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def number(text: str) -> float:
    return float(text.replace("\u2212", "-"))


def test_two_views_give_an_answer_with_everything_that_belongs_to_it(shown: Any, service: Any) -> None:
    model = shown.request.get(f"{service.url.rstrip('/')}/v1/model").json()
    told = shown.locator(".probabilities tbody th span:first-child").all_inner_texts()
    assert sorted(told) == sorted(model["classes"])
    assert shown.locator(".verdict .diagnosis strong").inner_text() == told[0]
    assert shown.locator(".verdict .state").inner_text()
    steps = [number(text) for text in shown.locator(".signed .number").all_inner_texts()]
    assert sum(steps[:-1]) == pytest.approx(steps[-1], abs=0.3)  # four numbers, each rounded to a tenth
    assert shown.locator(".alone").count() == 2
    assert shown.locator(".stage .over").count() == 2
    drawn = "[...document.querySelectorAll('.stage img')].every((image) => image.naturalWidth > 0)"
    shown.wait_for_function(drawn)
    record = shown.locator(".record").inner_text()
    assert model["sha256"][:12] in record
    assert all(f"{name} {share:.1%}" in record for name, share in model["prevalence"].items())
    if model["calibrated"]:
        assert shown.locator(".verdict.answered, .verdict.referred").count() == 1
        assert "in 100 cases" in shown.locator(".probabilities .meaning").inner_text()
    else:
        assert shown.locator(".verdict.open").count() == 1


def test_the_answer_can_be_taken_along(shown: Any) -> None:
    with shown.expect_download() as download:
        shown.click("#download")
    assert re.fullmatch(r"agfnet-[0-9a-f]{8}\.json", download.value.suggested_filename)
    told = json.loads(Path(download.value.path()).read_text())
    assert told["request_id"] in shown.locator(".record").inner_text()


def test_what_is_confirmed_later_is_sent(shown: Any) -> None:
    shown.click("#feedback button")
    assert "Choose a diagnosis" in shown.locator("#feedback-status").inner_text()
    shown.select_option("#feedback-choice", index=2)
    chosen = shown.locator("#feedback-choice").input_value()
    shown.click("#feedback button")
    sync_api.expect(shown.locator("#feedback-status")).to_have_text(f"Recorded: {chosen}.")


def test_one_view_is_enough_and_said_to_be_one(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    analyse(page)
    assert page.locator(".evidence figure").count() == 1
    assert "Missing: Skin ultrasound" in page.locator(".verdict").inner_text()


def test_no_image_is_said_beside_the_button(page: Any) -> None:
    page.click("#analyse")
    assert "at least one image" in page.locator("#case-error").inner_text()


def test_a_sample_fills_both_zones_and_says_what_it_is(page: Any) -> None:
    sample = json.loads((SAMPLES / "samples.json").read_text())["cases"][1]
    page.click(f'[data-sample="{sample["id"]}"]')
    sync_api.expect(page.locator(".zone.filled")).to_have_count(2)
    sync_api.expect(page.locator("#analyse")).to_be_focused()
    assert page.locator("#scale-ultrasound").input_value() == str(sample["mm_per_pixel"])
    analyse(page)
    assert f"drawn as: {sample['diagnosis']}" in page.locator(".sample-truth").inner_text()
    page.wait_for_selector('figure[data-view="ultrasound"] .scale:not(.unknown)')
    assert page.locator('figure[data-view="ultrasound"] .scale').inner_text().endswith("mm")


def test_samples_are_small() -> None:
    sizes = [file.stat().st_size for file in SAMPLES.iterdir()]
    assert len(sizes) == 7
    assert max(sizes) < 60_000
    assert sum(sizes) < 250_000


def test_the_overlay_follows_its_slider_by_keyboard(shown: Any) -> None:
    opacity = "document.querySelector('[data-evidence=ultrasound]').style.opacity"
    shown.focus("#opacity-ultrasound")
    shown.keyboard.press("Home")
    assert shown.evaluate(opacity) == "0"
    shown.keyboard.press("ArrowRight")
    assert shown.evaluate(opacity) == "0.05"
    shown.keyboard.press("End")
    assert shown.evaluate(opacity) == "1"
    assert shown.locator("#opacity-ultrasound").get_attribute("aria-valuetext") == "100%"


BAD = {
    "text": (b"these are words and no picture" * 9, "not an image"),
    "cut": (PHOTO.read_bytes()[:2500] if PHOTO.exists() else b"", "breaks off|damaged"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_explained_beside_its_zone(page: Any, kind: str) -> None:
    content, words = BAD[kind]
    choose(page, "clinical", PHOTO)
    choose(page, "ultrasound", {"name": "scan.jpg", "mimeType": "image/jpeg", "buffer": content})
    page.click("#analyse")
    sync_api.expect(page.locator("#error-ultrasound")).to_contain_text(re.compile(words))
    assert page.locator("#error-clinical").is_hidden()
    assert page.locator("#file-ultrasound").get_attribute("aria-invalid") == "true"
    sync_api.expect(page.locator("#file-ultrasound")).to_be_focused()
    choose(page, "ultrasound", SCAN)
    sync_api.expect(page.locator("#error-ultrasound")).to_be_hidden()
    analyse(page)


def test_a_scale_that_is_no_number_is_explained(page: Any) -> None:
    choose(page, "ultrasound", SCAN)
    page.fill("#scale-ultrasound", "wide")
    page.click("#analyse")
    assert "from 0.0005 to 2" in page.locator("#error-ultrasound").inner_text()
    sync_api.expect(page.locator("#scale-ultrasound")).to_be_focused()
    page.fill("#scale-ultrasound", "0,07")
    analyse(page)


def test_a_dicom_file_has_a_tile_and_no_name_is_shown(page: Any) -> None:
    file = {"name": "DOE^JANE.dcm", "mimeType": "", "buffer": bytes(128) + b"DICM" + bytes(64)}
    choose(page, "ultrasound", file)
    assert "DICOM file" in page.locator("#note-ultrasound").inner_text()
    assert page.locator('.zone[data-view="ultrasound"] img').count() == 0
    assert "DOE" not in page.locator("body").inner_text()


def test_a_dropped_file_is_taken(page: Any) -> None:
    page.evaluate(
        """async () => {
          const blob = await (await fetch('page/samples/1-clinical.jpg')).blob();
          const carried = new DataTransfer();
          carried.items.add(new File([blob], 'x.jpg', { type: 'image/jpeg' }));
          const zone = document.querySelector('.zone[data-view=clinical]');
          zone.dispatchEvent(new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true }));
        }"""
    )
    page.wait_for_selector(".zone.filled .thumb img")
    page.click(".zone.filled .remove")
    sync_api.expect(page.locator(".zone.filled")).to_have_count(0)
    sync_api.expect(page.locator("#file-clinical")).to_be_focused()


def test_an_answer_goes_when_its_images_change(page: Any) -> None:
    answered(page)
    page.click('.zone[data-view="clinical"] .remove')
    sync_api.expect(page.locator(".result")).to_have_count(0)
    sync_api.expect(page.locator("#live")).to_contain_text("earlier answer was taken away")


def test_from_load_to_answer_by_keyboard_alone(page: Any) -> None:
    passed = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = "(e => e.id || e.dataset.sample && 'sample-' + e.dataset.sample || e.className || e.tagName)"
        passed.append(page.evaluate(f"{focused}(document.activeElement)"))
        if passed[-1] == "sample-1":
            break
    assert passed[0] == "skip"
    wanted = ("file-clinical", "file-ultrasound", "analyse", "sample-1")
    assert [name for name in passed if name in wanted] == list(wanted)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#analyse")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#verdict-title")).to_be_focused()
    sync_api.expect(page.locator("#live")).to_contain_text("The answer is here")
    page.keyboard.press("Tab")
    sync_api.expect(page.locator("#opacity-clinical")).to_be_focused()


def test_everything_has_a_name_and_headings_follow_each_other(shown: Any) -> None:
    nameless = """[...document.querySelectorAll('button, input, select, img, section')].filter((e) => {
      if (e.tagName === 'IMG') return !e.hasAttribute('alt');
      const label = e.labels?.[0] ?? document.getElementById(e.getAttribute('aria-labelledby'));
      return !(e.getAttribute('aria-label') || label?.textContent.trim() || e.textContent.trim());
    }).map((e) => e.outerHTML)"""
    assert shown.evaluate(nameless) == []
    levels = shown.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert shown.evaluate("document.querySelectorAll('[style]').length") > 0  # widths, set from script
    source = shown.request.get(shown.url).text()
    assert "style=" not in source
    assert not re.search(r"<script(?![^>]* src=)", source)


def test_a_narrow_page_does_not_scroll_sideways(opened: Open) -> None:
    page = opened(width=360, height=740)
    assert not sideways(page)
    answered(page)
    for language in ("zh", "en"):
        page.click(f'[data-language="{language}"]')
        for width in (320, 360, 640):  # 640: 1280 at a zoom of 200 %
            page.set_viewport_size({"width": width, "height": 740})
            assert not sideways(page), (language, width)


def test_both_languages(opened: Open) -> None:
    page = opened(locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.locator("#analyse").inner_text() == "分析"
    answered(page)
    page.locator("#opacity-clinical").fill("25")
    diagnosis = page.locator(".diagnosis strong").inner_text()
    page.click('[data-language="en"]')
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("#analyse").inner_text() == "Analyse"
    assert page.locator(".diagnosis strong").inner_text() == diagnosis
    assert page.locator("#opacity-clinical").input_value() == "25"
    assert not re.search(r"[\u4e00-\u9fff]", page.locator("main").inner_text())
    page.reload()
    sync_api.expect(page.locator("#analyse")).to_have_text("Analyse")


def test_each_sentence_stands_in_both_languages_with_the_same_places(shown: Any) -> None:
    both = shown.evaluate("import('/page/i18n.js').then(({ en, zh }) => ({ en, zh }))")

    def places(strings: dict[str, Any]) -> dict[str, list[str]]:
        flat = {**strings, **{f"errors.{k}": v for k, v in strings["errors"].items()}}
        del flat["errors"]
        return {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in flat.items()}

    assert places(both["en"]) == places(both["zh"])
    source = (Path(agfnet.serving.__path__[0]) / "page" / "i18n.js").read_text(encoding="utf-8")
    keys = re.findall(r"^( +'?[\w-]+)'?: ", source, re.MULTILINE)
    assert {key for key in keys if keys.count(key) != 2} == set()  # of two alike the second would win


def test_the_notice_stays_in_view(shown: Any) -> None:
    shown.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    box = shown.locator(".notice").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 5
    assert "Research use only" in shown.locator(".notice").inner_text()


def test_dark_colours_by_the_system_and_by_the_button(opened: Open) -> None:
    page = opened(color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(back)
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.click("#theme")
    assert page.evaluate(back) != dark
    page.reload()
    page.wait_for_selector(".zone")
    assert page.evaluate(back) != dark


def test_on_paper_it_is_one_page(shown: Any) -> None:
    for language in ("zh", "en"):
        shown.click(f'[data-language="{language}"]')
        paper = shown.pdf(prefer_css_page_size=True, print_background=True)
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) == 1
    shown.emulate_media(media="print")
    assert shown.locator(".notice").is_visible()
    assert not shown.locator("#case").is_visible()
    assert shown.locator(".verdict").is_visible()
    shown.emulate_media(media="screen")


def refuse(page: Any, status: int, code: str, headers: dict[str, str] | None = None) -> None:
    """The next question is refused; those after it are asked."""
    body = json.dumps({"code": code, "message": "the service's own words", "view": None})

    def answer(route: Any) -> None:
        route.fulfill(status=status, body=body, content_type="application/json", headers=headers or {})

    page.route("**/v1/explain", answer, times=1)


def test_a_busy_service_is_said_to_be_busy_and_asked_again(page: Any) -> None:
    refuse(page, 503, "busy", {"Retry-After": "7"})
    choose(page, "clinical", PHOTO)
    page.click("#analyse")
    sync_api.expect(page.locator(".trouble")).to_contain_text("busy")
    assert re.search(r"Best in [67] s", page.locator(".trouble").inner_text())
    sync_api.expect(page.locator("#again")).to_be_focused()
    page.click("#again")
    page.wait_for_selector(".result")


def test_a_lost_network_is_said_and_an_unknown_code_keeps_the_services_words(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    page.route("**/v1/explain", lambda route: route.abort(), times=1)
    page.click("#analyse")
    sync_api.expect(page.locator(".trouble")).to_contain_text("cannot be reached")
    refuse(page, 400, "something-new")
    page.click("#again")
    sync_api.expect(page.locator(".trouble")).to_contain_text("the service's own words")


def test_a_token_is_asked_for_and_kept_for_the_tab_only(page: Any) -> None:
    refuse(page, 401, "unauthorized")
    choose(page, "clinical", PHOTO)
    assert page.locator("#token-form").is_hidden()
    page.click("#analyse")
    sync_api.expect(page.locator("#token")).to_be_focused()
    page.fill("#token", "sesame")
    with page.expect_request("**/v1/explain") as asked:
        page.keyboard.press("Enter")
    assert asked.value.headers["authorization"] == "Bearer sesame"
    page.wait_for_selector(".result")
    assert page.evaluate("[sessionStorage.length, Object.values(localStorage).includes('sesame')]") == [1, False]
    page.click("#forget")
    assert page.evaluate("sessionStorage.length") == 0
