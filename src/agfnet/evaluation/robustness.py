"""How well an exported network holds when its images get worse: each view in turn, and all together."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import agfnet
from agfnet.data.tablefile import table_sha256
from agfnet.evaluation.answers import Answers, labels_of, whole
from agfnet.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from agfnet.evaluation.evaluate import (
    chosen_cases,
    drawn_cases,
    prevalence_note,
    readable_cases,
    table_facts,
)
from agfnet.files import read_json, write_json
from agfnet.metrics.calibration import brier, ece, nll, simulate_calibrated
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.statistics import MetricSet, bootstrap, known, paired_difference
from agfnet.metrics.weighting import FloatArray
from agfnet.prediction.asking import parse_prevalence
from agfnet.prediction.output import stated_prevalence
from agfnet.prediction.predictor import Change, Predictor
from agfnet.types import RESEARCH_USE, Case, ConfigError, Place

log = logging.getLogger("agfnet")
SIMULATED = 100
"""Draws of a calibrated model for each setting."""
MIXED = "any"
"""In place of a corruption's name: one drawn for each view of a case."""
SCORES: Mapping[str, Callable[..., FloatArray]] = {
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "nll": nll,
    "brier": brier,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to make the images worse.

    Attributes:
        views: the views that it acts on; none for the images as they are.
        corruption: its name, or `MIXED`.
        severity: 1 to 5; or 0: for each case some of the views (at least one) and for each of them a severity are
            drawn, so that one pass over many cases gives the mean over all of them.
    """

    views: tuple[str, ...] = ()
    corruption: str = MIXED
    severity: int = 0

    @property
    def name(self) -> str:
        """For files and logs."""
        if not self.views:
            return "clean"
        return f"{'+'.join(self.views)} {self.corruption} {self.severity}"


def settings_of(kinds: Mapping[str, str]) -> list[Setting]:
    """Clean; each corruption of each view at each severity; and, of several views, a mixture in all of them.

    Args:
        kinds: modality -> kind of its images.
    """
    single = [
        Setting((view,), name, severity)
        for view, kind in kinds.items()
        for name in CORRUPTIONS[kind]
        for severity in SEVERITIES
    ]
    every = [Setting(tuple(kinds), MIXED, severity) for severity in SEVERITIES] if len(kinds) > 1 else []
    return [Setting(), *single, *every]


def changer(setting: Setting, kinds: Mapping[str, str], seed: int) -> Change:
    """What a setting does to an image; every draw is keyed by seed, case and view, so severities share their draws."""

    def change(case: Case, view: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        case_key = [seed, zlib.crc32(case.case_id.encode())]
        if not setting.views or view not in (setting.views if setting.severity else _some(setting.views, case_key)):
            return pixels
        known = CORRUPTIONS[kinds[view]]
        key = [*case_key, zlib.crc32(view.encode())]
        choice = np.random.default_rng([*key, 0])
        name = str(choice.choice(list(known))) if setting.corruption == MIXED else setting.corruption
        severity = setting.severity or int(choice.choice(SEVERITIES))
        rng = np.random.default_rng([*key, 1, zlib.crc32(name.encode())])
        return corrupt(pixels, known[name], severity, rng)

    return change


def _some(views: Sequence[str], key: Sequence[int]) -> list[str]:
    """At least one of the views, each choice alike often."""
    chosen = int(np.random.default_rng([*key, 2]).integers(1, 2 ** len(views)))
    return [view for i, view in enumerate(views) if chosen >> i & 1]


def robustness(
    source: Path,
    table: Place,
    folder: Path,
    *,
    part: str | None = None,
    include_test: bool = False,
    limit: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
    threads: int = 0,
    data_root: Place | None = None,
    prevalence: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask a network again and again about the same cases while their images get worse.

    Each setting's answers are kept in `folder/settings/`; called again, it goes on where it was.

    Args:
        source: run folder or bundle.
        table: the cases.
        folder: for answers and figures.
        part: only cases of this part, see `chosen_part`.
        include_test: allow test cases.
        limit: at most so many cases, drawn with `seed`.
        skip_bad: leave out cases whose images cannot be read, instead of stopping.
        seed: of the draw of cases and of every corruption.
        draws: of the bootstrap.
        threads: of ONNX Runtime.
        data_root: the folder that every image must lie in.
        prevalence: re-weights the probabilities, see `parse_prevalence` and `Predictor`.
        progress: called with settings done and all.

    Returns:
        See `robustness_table`.

    Raises:
        ConfigError: the folder holds the answers of another network, table, seed or prevalence.
        ImageError: a case cannot be read.
        TableError: no case has a label, or one is none of the network's classes.
    """
    predictor = Predictor(source, threads=threads, prevalence=parse_prevalence(prevalence))
    kinds = {view: spec.kind for view, spec in predictor.specs.items()}
    cases, notes = chosen_cases(source, predictor, table, part, include_test=include_test, data_root=data_root)
    cases = drawn_cases([case for case in cases if case.label is not None], limit, notes, seed=seed)
    labels_of(cases, predictor.classes)
    cases = readable_cases(predictor, cases, notes, skip_bad=skip_bad)
    labels = np.array(labels_of(cases, predictor.classes))
    stated = stated_prevalence(predictor)
    asked = {
        "version": agfnet.__version__,
        "bundle_sha256": predictor.bundle.sha256,
        "table_sha256": table_sha256(table),
        "cases": [case.case_id for case in cases],
        "seed": seed,
        "prevalence": stated,
    }
    begun = folder / "asked.json"
    if begun.exists() and read_json(begun) != asked:
        raise ConfigError(
            f"{folder}: holds answers of another network, version, cases, seed or prevalence; choose another folder."
        )
    write_json(begun, asked)
    having = {view: np.array([bool(case.views.get(view)) for case in cases]) for view in kinds}
    # Without an image of a view there is nothing to make worse: such cases would dilute what it costs.
    changed = {s: np.any([having[view] for view in s.views or kinds], axis=0) for s in settings_of(kinds)}
    settings = [setting for setting, own in changed.items() if own.any()]
    answers: dict[Setting, Answers] = {}
    for i, setting in enumerate(settings):
        affected = [case for case, is_changed in zip(cases, changed[setting], strict=True) if is_changed]
        file = folder / "settings" / f"{setting.name.replace(' ', '-')}.json"
        if not file.exists():
            asked_again = predictor.predict(affected, change=changer(setting, kinds, seed))
            write_json(file, {"probabilities": [p.probabilities.tolist() for _, p in whole(asked_again)]})
        answers[setting] = Answers(
            [case.case_id for case in affected],
            [case.patient_id for case in affected],
            labels[changed[setting]],
            np.array(read_json(file)["probabilities"]),
        )
        if progress is not None:
            progress(i + 1, len(settings))
    made = robustness_table(answers, draws=draws)
    made["notes"] = [*notes, *prevalence_note(stated), *made["notes"], RESEARCH_USE]
    said = {key: asked[key] for key in ("bundle_sha256", "prevalence", "seed")}
    return made | said | table_facts(table, cases, include_test=include_test)


def robustness_table(answers: Mapping[Setting, Answers], *, draws: int = DRAWS) -> dict[str, Any]:
    """Figures of every setting, and of each group of settings on average.

    Args:
        answers: of the cases that each setting changes; the clean one, which is among them, of all.
        draws: of the bootstrap over patients.

    Returns:
        `cases`, `patients`; `clean`: figures; `settings`: a list of views, corruption, severity, how many `cases` it
        changes, `clean`: their balanced accuracy and overconfidence as they are, their figures and the `fall`, clean
        minus corrupted balanced accuracy of them; `groups`: views -> the same averaged over all their corruptions and
        severities; `notes`. A figure is {value, low, high}; `ece`, `ece_if_calibrated` (what a calibrated model with
        these probabilities would score) and `overconfidence` (mean confidence minus accuracy) are plain numbers.
    """
    clean = answers[Setting()]
    entries = [
        {"views": list(s.views), "corruption": s.corruption, "severity": s.severity} | _scored([own], clean, draws)
        for s, own in answers.items()
        if s.views
    ]
    groups: dict[str, list[Answers]] = {}
    for setting, own in answers.items():
        if setting.views:
            groups.setdefault(" + ".join(setting.views), []).append(own)
    return {
        "cases": len(clean),
        "patients": len(set(clean.patients)),
        "clean": _scored([clean], clean, draws),
        "settings": entries,
        "groups": {name: _scored(own, clean, draws) for name, own in groups.items()},
        "notes": [
            "Severities are this project's own (agfnet.evaluation.corruptions); compare networks, not studies, by them."
        ],
    }


def _figures(settings: Sequence[Answers]) -> MetricSet:
    def figures(weights: FloatArray) -> dict[str, FloatArray]:
        return {
            name: np.mean([score(a.labels, a.probabilities, weights) for a in settings], axis=0)
            for name, score in SCORES.items()
        }

    return figures


def _scored(settings: Sequence[Answers], clean: Answers, draws: int) -> dict[str, Any]:
    """Figures of settings that change the same cases, and their fall from the clean answers to these cases."""
    figures, patients, asked = _figures(settings), settings[0].patients, set(settings[0].cases)
    same = clean.of([case in asked for case in clean.cases])
    own = bootstrap(figures, patients, draws=draws)
    fall = paired_difference(_figures([same]), figures, patients, draws=draws)["balanced_accuracy"]
    return {
        "cases": len(asked),
        "clean": {
            "balanced_accuracy": known(balanced_accuracy(same.labels, same.probabilities)),
            "overconfidence": _overconfidence([same]),
        },
        **{name: own[name].as_json() for name in SCORES},
        "fall": fall.as_json(),
        "ece": float(np.mean([ece(a.labels, a.probabilities) for a in settings])),
        "ece_if_calibrated": float(
            np.mean([simulate_calibrated(a.probabilities, draws=SIMULATED)["ece"].mean() for a in settings])
        ),
        "overconfidence": _overconfidence(settings),
    }


def _overconfidence(settings: Sequence[Answers]) -> float:
    return float(np.mean([a.probabilities.max(1).mean() - accuracy(a.labels, a.probabilities) for a in settings]))
