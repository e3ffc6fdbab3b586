"""The report as one HTML page that needs nothing else: no network, no file beside it. And the model card."""

from __future__ import annotations

import base64
import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from agfnet.evaluation.checklist import checklist
from agfnet.evaluation.evaluate import REPORT
from agfnet.evaluation.missed import missed_text
from agfnet.evaluation.pictures import confusion_picture, reliability_picture, roc_picture
from agfnet.evaluation.report_pictures import coverage_picture, decision_picture, precision_recall_picture, risk_picture
from agfnet.evaluation.summary import class_table, figure_text, headline, subgroup_tables
from agfnet.files import write_json, write_text
from agfnet.places import place
from agfnet.prediction.bundle import CARD, DECISION, GRAPH
from agfnet.prediction.explanation import Explanation, explanation_sheet
from agfnet.prediction.output import NOT_CALIBRATED, percent

PAGE = "report.html"


def write_report(facts: Mapping[str, Any], explained: Mapping[str, Explanation], folder: Path) -> Path:
    """Write `report.html`, `report.json` and `model_card.md` into a folder.

    Args:
        facts: from `report_facts`.
        explained: from `report_facts`.
        folder: that has the scorecard's files already.

    Returns:
        The page.
    """
    card, page = model_card(facts), report_page(facts, explained)
    write_json(folder / REPORT, {**facts, "model_card_sha256": hashlib.sha256(card.encode()).hexdigest()})
    write_text(folder / CARD, card)
    write_text(folder / PAGE, page)
    return folder / PAGE


def report_page(facts: Mapping[str, Any], explained: Mapping[str, Explanation]) -> str:
    """The page, from the facts and the explanations of the cases that are shown."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": _share, "points": _points, "figure": figure_text}
    template = files("agfnet.evaluation").joinpath("templates/report.html").read_text(encoding="utf-8")
    shown = {
        kind: [_shown(own, explained[own["case_id"]], tuple(facts["card"]["classes"])) for own in entries]
        for kind, entries in facts["shown"].items()
    }
    return environment.from_string(template).render(
        facts=facts,
        subject=_subject(facts["card"]),
        headline=headline(facts["card"]),
        pictures=_pictures(facts),
        shown=shown,
        missed=missed_text(facts["missed"]),
        checklist=checklist(facts),
    )


def _subject(card: Mapping[str, Any]) -> str:
    """What is reported on. The table's folder is this machine's, and a card is passed on."""
    name = place(card["table"]).name
    return f"{card['part']} part of {name}" if card["part"] else f"all cases of {name}"


def _pictures(facts: Mapping[str, Any]) -> dict[str, str]:
    """Name -> PNG as a data URI."""
    card = facts["card"]
    drawn: dict[str, Callable[[Path], None]] = {
        "confusion": lambda path: confusion_picture(card, path),
        "roc": lambda path: roc_picture(card, path),
        "precision_recall": lambda path: precision_recall_picture(facts["precision_recall"], path),
        "reliability": lambda path: reliability_picture(card, path),
        "risk": lambda path: risk_picture(card, path),
    }
    if facts["decision"]:
        drawn["decision"] = lambda path: decision_picture(facts["decision"], path)
    if facts["sets"]:
        drawn["coverage"] = lambda path: coverage_picture(facts["sets"], path)
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in drawn.items():
            path = Path(folder) / f"{name}.png"
            draw(path)
            with Image.open(path) as image:
                out[name] = _uri(smaller_png(image), "png")
    return out


def smaller_png(image: Image.Image) -> bytes:
    """PNG of few colours: a third of the bytes, and nothing to see of it.

    By an octree: a median cut makes one colour of two lines.
    """
    stream = io.BytesIO()
    image.convert("RGB").quantize(128, Image.Quantize.FASTOCTREE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shown(own: Mapping[str, Any], explained: Explanation, classes: tuple[str, ...]) -> dict[str, str]:
    stream = io.BytesIO()
    title = f"case {own['case_id']}, diagnosis {own['label']}"
    explanation_sheet(explained, classes, title).save(stream, "JPEG", quality=80)
    shares = ", ".join(f"{view} {share:+.2f}" for view, share in own["shares"].items())
    caption = (
        f"Case {own['case_id']}, diagnosis {own['label']}: said {own['said']} with {percent(own['probability'])}; "
        f"shares in log-odds: {shares}."
    )
    alt = f"{caption} Each view beside the same view with the class evidence laid over it."
    return {"uri": _uri(stream.getvalue(), "jpeg"), "alt": alt, "caption": caption}


def _share(entry: Mapping[str, float | None] | None) -> str:
    """A share as percent with its interval."""
    return "not defined" if entry is None else figure_text(entry, ".1f", times=100, unit=" %")


def _points(entry: Mapping[str, float | None] | None) -> str:
    """A difference of two shares with its interval."""
    return "not defined" if entry is None else figure_text(entry, ".1f", times=100, unit=" points")


def _referral(facts: Mapping[str, Any]) -> list[str]:
    found = facts["referral"]
    if not found:
        return []
    return [
        (
            f"Answered, by the chosen share of errors of at most {percent(found['risk'])}: {found['answered_cases']} "
            f"of {facts['card']['n_cases']} cases, {_share(found['answered'])}; wrong of these: "
            f"{_share(found['error_answered'])}. Diagnosis sets, chosen coverage {percent(facts['sets']['chosen'])}: "
            f"{_share(facts['sets']['coverage'])} of {facts['sets']['cases']} hold the diagnosis."
        ),
        "",
    ]


def model_card(facts: Mapping[str, Any]) -> str:
    """A model card (Mitchell et al. 2019, 1810.03993) in Markdown, from the facts of a report."""
    card, run, cohort = facts["card"], facts["run"], facts["cohort"]
    lines = [
        "# Model card",
        "",
        f"**{facts['notice']}**",
        "",
        "## Model",
        "",
        # The bundle's own sum changes with the card that is put into it; the network's does not.
        f"- Trained with agfnet, fusion: {facts['fusion']}; bundle format {run['format']}",
        f"- Network (`{GRAPH}`) SHA-256 `{run['sha256'][GRAPH]}`",
        f"- Calibration (`{DECISION}`) SHA-256 `{run['sha256'][DECISION]}`"
        if facts["calibration"]
        else f"- {NOT_CALIBRATED.capitalize()}",
        f"- Classes: {', '.join(card['classes'])}",
        "- Views: "
        + ", ".join(
            f"{view} ({own['kind']}, {own['size'][0]} x {own['size'][1]} px)" for view, own in run["views"].items()
        ),
        f"- Versions: {', '.join(f'{name} {v}' for name, v in run['run']['versions'].items())}",
        "",
        "## Intended use",
        "",
        "Research on the diagnosis of skin lesions from several views of one lesion. Not for the care of patients.",
        "",
        "## Training data",
        "",
        *(f"- {part}: {own['cases']} cases of {own['patients']} patients" for part, own in cohort["parts"].items()),
        "",
        "## Evaluation",
        "",
        f"{card['n_cases']} cases of {card['n_patients']} patients ({_subject(card)}).",
        "",
        "| Figure | Value (95 % interval) |",
        "|---|---|",
        *(f"| {title} | {text} |" for title, text in headline(card)),
        "",
        *class_table(card),
        "",
        *subgroup_tables(card),
        *_referral(facts),
        *([missed_text(facts["missed"]), ""] if card["malignant"] else []),
        "## Missing views",
        "",
        *(
            f"- {view} alone: balanced accuracy {_share(own['balanced_accuracy'])} ({own['cases']} cases)"
            for view, own in facts["missing_views"].items()
        ),
        "",
        "## Limits",
        "",
        *(f"- {note}" for note in card["notes"]),
    ]
    return "\n".join(lines) + "\n"
