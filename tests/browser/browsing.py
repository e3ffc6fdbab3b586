"""What a person does on the service's page, by the words of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agfnet.serving

PAGE = Path(agfnet.serving.__path__[0]) / "page"
SAMPLES = PAGE / "samples"
PHOTO, SCAN = SAMPLES / "1-clinical.jpg", SAMPLES / "1-ultrasound.png"


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


def alter(page: Any, path: str, change: dict[str, Any]) -> None:
    """Change some of the service's answer to the next question of a path; in the page, as a route loses the files."""
    page.evaluate(
        """([path, change]) => {
          const { fetch } = window;
          let next = true;
          window.fetch = async (asked, options) => {
            const answer = await fetch(asked, options);
            if (!next || asked !== `v1/${path}`) return answer;
            next = false;
            return Response.json({ ...(await answer.json()), ...change });
          };
        }""",
        [path, change],
    )
