"""The service's page in a real browser, where something is wrong: with a file, the service or its model."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from browsing import PHOTO, SCAN, alter, analyse, answered, choose

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
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


def test_the_same_file_twice_is_explained_beside_the_second(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    choose(page, "ultrasound", PHOTO)
    page.click("#analyse")
    sync_api.expect(page.locator("#error-ultrasound")).to_contain_text("same file as another image")
    assert page.locator("#error-clinical").is_hidden()


def test_a_file_that_cannot_be_read_takes_the_answer_before_away_and_is_not_sent(page: Any) -> None:
    answered(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    moved = "Promise.reject(new DOMException('moved', 'NotFoundError'))"
    page.evaluate(f"() => {{ Blob.prototype.arrayBuffer = () => {moved}; }}")
    choose(page, "clinical", SCAN)
    sync_api.expect(page.locator("#error-clinical")).to_contain_text("cannot be read")
    sync_api.expect(page.locator(".result")).to_have_count(0)
    page.click("#analyse")
    sync_api.expect(page.locator("#file-clinical")).to_be_focused()
    assert not [url for url in sent if url.endswith("/v1/explain")]


def test_a_scale_that_is_no_number_is_explained(page: Any) -> None:
    choose(page, "ultrasound", SCAN)
    page.fill("#scale-ultrasound", "wide")
    page.click("#analyse")
    assert "from 0.0005 to 2" in page.locator("#error-ultrasound").inner_text()
    sync_api.expect(page.locator("#scale-ultrasound")).to_be_focused()
    page.fill("#scale-ultrasound", "0,07")
    analyse(page)


def test_a_photo_has_a_scale_where_the_network_was_trained_at_one(page: Any) -> None:
    assert page.locator("#scale-clinical").count() == 0

    def at_a_scale(route: Any) -> None:
        model = route.fetch().json()
        model["views"]["clinical"]["mm_per_pixel"] = 0.1
        route.fulfill(json=model)

    page.route("**/v1/model", at_a_scale)
    page.reload()
    page.wait_for_selector(".zone")
    choose(page, "clinical", PHOTO)
    page.fill("#scale-clinical", "0,07")
    with page.expect_request("**/v1/explain") as asked:
        page.click("#analyse")
    sent = asked.value.post_data_buffer
    assert b'name="mm_per_pixel_clinical"' in sent
    assert b"0.07" in sent
    page.wait_for_selector(".result")


def refuse(page: Any, status: int, code: str, headers: dict[str, str] | None = None, *, path: str = "explain") -> None:
    """The next question of a path is refused; those after it are asked."""
    body = json.dumps({"code": code, "message": "the service's own words", "view": None})

    def answer(route: Any) -> None:
        route.fulfill(status=status, body=body, content_type="application/json", headers=headers or {})

    page.route(f"**/v1/{path}", answer, times=1)


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


OTHER = "f" * 64


def test_an_answer_of_another_model_is_shown_with_its_facts(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    alter(page, "explain", {"bundle_sha256": OTHER, "prediction": "cyst"})
    alter(page, "model", {"sha256": OTHER, "malignant": ["cyst"]})
    analyse(page)
    assert page.locator(".verdict .tag.malignant").is_visible()
    assert OTHER[:12] in page.locator("#model-line").inner_text()
    assert OTHER[:12] in page.locator(".record").inner_text()


@pytest.mark.parametrize("now", [{"sha256": OTHER, "views": {"dermoscopic": {"kind": "dermoscopy"}}}, {}])
def test_where_another_model_asks_for_other_images_the_page_is_to_be_loaded_again(
    page: Any, now: dict[str, Any]
) -> None:
    """Or where each question may be answered by another."""
    choose(page, "clinical", PHOTO)
    alter(page, "explain", {"bundle_sha256": OTHER})
    alter(page, "model", now)
    page.click("#analyse")
    sync_api.expect(page.locator(".trouble")).to_contain_text("another model by now. Load the page again")
    assert page.locator("#again").count() == 0
    assert page.locator(".result").count() == 0


def test_a_diagnosis_that_the_service_does_not_know_is_said(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    analyse(page)
    refuse(page, 422, "unknown-diagnosis", path="feedback")
    page.select_option("#feedback-choice", index=1)
    page.click("#feedback button")
    sync_api.expect(page.locator("#feedback-status")).to_contain_text("does not know this diagnosis")


def test_a_page_at_another_address_is_not_asked_for_a_token(page: Any) -> None:
    refuse(page, 403, "forbidden")
    choose(page, "clinical", PHOTO)
    page.click("#analyse")
    sync_api.expect(page.locator(".trouble")).to_contain_text("does not answer a page at this address")
    assert page.locator("#token-form").is_hidden()
    assert page.locator("#again").count() == 0


def test_too_much_in_all_is_not_said_of_one_file(page: Any) -> None:
    refuse(page, 413, "oversized-body")
    choose(page, "clinical", PHOTO)
    page.click("#analyse")
    sync_api.expect(page.locator(".trouble")).to_contain_text("Together the files are larger")


def test_a_scale_that_cannot_be_is_explained_beside_it(page: Any) -> None:
    body = json.dumps({"code": "implausible-scale", "message": "", "view": "ultrasound"})
    page.route("**/v1/explain", lambda route: route.fulfill(status=422, body=body), times=1)
    choose(page, "ultrasound", SCAN)
    page.fill("#scale-ultrasound", "1")
    page.click("#analyse")
    sync_api.expect(page.locator("#error-ultrasound")).to_contain_text("cannot be those of this image")
    sync_api.expect(page.locator("#scale-ultrasound")).to_be_focused()


def test_without_leave_to_store_a_token_it_lasts_for_the_page(opened: Any) -> None:
    forbidden = "() => { throw new DOMException('no', 'SecurityError'); }"
    page = opened(before=f"for (const name of ['sessionStorage', 'localStorage']) "
                         f"Object.defineProperty(window, name, {{ get: {forbidden} }});")  # fmt: skip
    refuse(page, 401, "unauthorized")
    choose(page, "clinical", PHOTO)
    page.click("#analyse")
    page.fill("#token", "sesame")
    with page.expect_request("**/v1/explain") as asked:
        page.keyboard.press("Enter")
    assert asked.value.headers["authorization"] == "Bearer sesame"
    page.wait_for_selector(".result")


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
    sync_api.expect(page.locator(".zone.filled")).to_have_count(0)  # nor is the case left to the next person
    sync_api.expect(page.locator(".result")).to_have_count(0)


def test_what_is_said_to_be_recorded_is_what_was_sent(page: Any) -> None:
    choose(page, "clinical", PHOTO)
    analyse(page)
    page.select_option("#feedback-choice", index=1)
    sent = page.locator("#feedback-choice").input_value()
    page.evaluate(
        """() => {
          const { fetch } = window;
          const later = () => new Promise((done) => setTimeout(done, 500));
          window.fetch = async (...asked) => { await later(); return fetch(...asked); };
        }"""
    )
    page.click("#feedback button")
    page.select_option("#feedback-choice", index=2)
    sync_api.expect(page.locator("#feedback-status")).to_have_text(f"Recorded: {sent}.")
