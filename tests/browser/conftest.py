"""A service, a browser, and its page with and without an answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import answered

from served import Service, serving

CHROMIUM = shutil.which("chromium")
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
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium (Debian: apt install chromium)")
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

    def open_page(
        width: int = 1280, height: int = 800, locale: str = "en-GB", *, before: str = "", **options: Any
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale=locale, reduced_motion="reduce", **options
        )
        contexts.append(context)
        context.add_init_script(before)
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
