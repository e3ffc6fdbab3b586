"""The service's page in a real browser: what a person does with it, by mouse, by keyboard, on a phone and on paper."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browsing import PAGE, PHOTO, SAMPLES, alter, analyse, answered, choose

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
Open = Callable[..., Any]


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
    text = Path(download.value.path()).read_text()
    told = json.loads(text)
    assert told["request_id"] in shown.locator(".record").inner_text()
    assert set(told["views"]) == {"clinical", "ultrasound"}
    assert "base64" not in text  # the pictures are the patient's


def test_what_is_confirmed_later_is_sent(shown: Any) -> None:
    shown.click("#feedback button")
    assert "Choose a diagnosis" in shown.locator("#feedback-status").inner_text()
    shown.select_option("#feedback-choice", index=2)
    chosen = shown.locator("#feedback-choice").input_value()
    shown.click("#feedback button")
    sync_api.expect(shown.locator("#feedback-status")).to_have_text(f"Recorded: {chosen}.")
    shown.select_option("#feedback-choice", "other")
    shown.click("#feedback button")
    told = shown.locator("#feedback-status")
    sync_api.expect(told).to_have_text("Recorded: another diagnosis, none of these.")
    shown.click('[data-language="zh"]')
    sync_api.expect(told).to_have_text("已记录：其他诊断，不在以上之列。")
    shown.click('[data-language="en"]')


def test_one_view_is_enough_and_said_to_be_one(page: Any) -> None:
    alter(page, "explain", {"referred": False, "reasons": []})
    choose(page, "clinical", PHOTO)
    analyse(page)
    assert page.locator(".evidence figure").count() == 1
    assert "Missing: Skin ultrasound" in page.locator(".verdict").inner_text()
    meaning = page.locator(".probabilities .meaning").inner_text()
    assert "seen with the same views" in meaning
    assert "of answers are wrong" in meaning


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


def test_a_scale_that_is_typed_for_a_sample_leaves_it_a_sample(page: Any) -> None:
    page.click('[data-sample="1"]')
    sync_api.expect(page.locator("#analyse")).to_be_focused()
    page.fill("#scale-ultrasound", "0.09")
    analyse(page)
    assert page.locator(".sample-truth").count() == 1
    assert page.locator("#feedback").count() == 0  # nothing is confirmed of a phantom


def test_a_file_beside_a_sample_takes_the_sample_away(page: Any) -> None:
    page.click('[data-sample="1"]')
    sync_api.expect(page.locator("#analyse")).to_be_focused()
    choose(page, "clinical", PHOTO)
    sync_api.expect(page.locator(".zone.filled")).to_have_count(1)
    analyse(page)
    assert page.locator(".sample-truth").count() == 0
    assert page.locator(".evidence figure").count() == 1


def test_what_stays_of_an_answered_case_is_marked(page: Any) -> None:
    answered(page)
    choose(page, "clinical", SAMPLES / "2-clinical.jpg")
    sync_api.expect(page.locator("#doubt-ultrasound")).to_contain_text("still of the case before")
    sync_api.expect(page.locator("#live")).to_contain_text("still of the case before")
    assert page.locator("#doubt-clinical").is_hidden()
    analyse(page)  # all the same: the answer then says it
    sync_api.expect(page.locator("#doubt-ultrasound")).to_be_hidden()
    sync_api.expect(page.locator(".verdict")).to_contain_text(
        "Skin ultrasound: this image was kept from the case before"
    )
    choose(page, "clinical", PHOTO)
    choose(page, "ultrasound", SAMPLES / "2-ultrasound.png")
    sync_api.expect(page.locator("#doubt-ultrasound")).to_be_hidden()
    sync_api.expect(page.locator("#doubt-clinical")).to_be_hidden()
    analyse(page)
    assert "kept from the case before" not in page.locator(".verdict").inner_text()


def test_what_stays_is_marked_also_after_the_other_was_removed_or_a_scale_typed(page: Any) -> None:
    answered(page)
    page.click('.zone[data-view="clinical"] .remove')
    choose(page, "clinical", SAMPLES / "2-clinical.jpg")
    sync_api.expect(page.locator("#doubt-ultrasound")).to_contain_text("still of the case before")
    page.reload()
    page.wait_for_selector(".zone")
    answered(page)
    page.fill("#scale-ultrasound", "0.08")
    choose(page, "clinical", SAMPLES / "2-clinical.jpg")
    sync_api.expect(page.locator("#doubt-ultrasound")).to_contain_text("still of the case before")


def test_a_sample_goes_also_after_its_other_image_was_removed(page: Any) -> None:
    page.click('[data-sample="1"]')
    sync_api.expect(page.locator("#analyse")).to_be_focused()
    page.click('.zone[data-view="clinical"] .remove')
    choose(page, "clinical", PHOTO)
    sync_api.expect(page.locator('.zone.filled[data-view="ultrasound"]')).to_have_count(0)


def test_a_sample_that_cannot_be_fetched_leaves_what_is_there(page: Any) -> None:
    answered(page)
    page.route("**/page/samples/2-ultrasound.png", lambda route: route.abort())
    page.click('[data-sample="2"]')
    sync_api.expect(page.locator("#case-error")).to_contain_text("cannot be reached")
    sync_api.expect(page.locator(".result")).to_have_count(1)
    sync_api.expect(page.locator("#live")).to_contain_text("Sample 2 could not be loaded")


def test_of_two_samples_the_last_one_stays(page: Any) -> None:
    page.evaluate(
        """() => {
          const { fetch } = window;
          window.fetch = async (asked, options) => {
            if (String(asked).endsWith('1-clinical.jpg')) await new Promise((done) => setTimeout(done, 800));
            return fetch(asked, options);
          };
        }"""
    )
    page.click('[data-sample="1"]')
    page.click('[data-sample="2"]')
    sync_api.expect(page.locator('[data-sample="2"]')).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(1200)
    sync_api.expect(page.locator('[data-sample="2"]')).to_have_attribute("aria-pressed", "true")


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
    source = (PAGE / "i18n.js").read_text(encoding="utf-8")
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
