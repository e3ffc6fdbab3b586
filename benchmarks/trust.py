"""What a calibrated run's probabilities, diagnosis sets, referrals and shares are worth, on many held-out phantoms.

    agfnet phantom fresh --cases 5000 --balanced --seed 7
    python benchmarks/trust.py RUN fresh/cases.csv --masks fresh/truth.csv --ultrasound FOLDER -o trust.json

The run must be calibrated. `--ultrasound` is a folder of ultrasound images of another organ (such as BUSI: breast);
without it that kind of wrong image is left out. Everyday pictures are crops of those in the folder `--pictures`, or
else of the two that scikit-learn brings along.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.images import read_image
from agfnet.data.table import read_cases
from agfnet.evaluation.answers import Answers, answers_of, whole
from agfnet.evaluation.fitting import fit_conformal
from agfnet.evaluation.focus import focus_figures, focus_of, mask_files
from agfnet.files import write_json
from agfnet.metrics.calibration import ece, simulate_calibrated
from agfnet.metrics.patients import patient_index
from agfnet.prediction.explanation import questions, shapley
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.types import RESEARCH_USE, SYNTHETIC, Case

PAIRS = {
    ("epidermal cyst", "lipoma"): "ultrasound",  # one surface
    ("naevus", "melanoma"): "clinical",  # early melanomas look alike in depth
    ("naevus", "dermatofibroma"): None,  # alike in depth in part
}
"""Classes that one view alone separates by the phantom's design, and that view; None: neither view alone."""
Pixels = NDArray[np.uint8]


def calibration(answers: Answers, seed: int) -> dict[str, float]:
    """ECE, and what a perfectly calibrated model scores on as many cases with the same probabilities."""
    value = float(ece(answers.labels, answers.probabilities))
    ideal = float(simulate_calibrated(answers.probabilities, draws=200, seed=seed)["ece"].mean())
    return {"ece": value, "ece_if_calibrated": ideal, "above": value - ideal}


def coverage(answers: Answers, resplits: int, seed: int) -> dict[str, Any]:
    """Mean coverage of diagnosis sets over fresh halvings of the patients: fitted on one half, counted on the other.

    It checks the rule; the bundle's own sets are counted by `promises`.
    """
    owners = patient_index(answers.patients)
    marginal, by_class, fewest = [], [], []
    for number in range(resplits):
        rng = np.random.default_rng([seed, number])
        fitted = (rng.permutation(owners.max() + 1) % 2 == 0)[owners]
        patients = [p for p, use in zip(answers.patients, fitted, strict=True) if use]
        rule = fit_conformal(answers.labels[fitted], answers.probabilities[fitted], patients, seed=number)
        fewest.append(min(rule.counts))
        labels, p = answers.labels[~fitted], answers.probabilities[~fitted]
        rows = np.arange(len(labels))
        marginal.append(rule.sets(p, class_conditional=False)[rows, labels].mean())
        inside = rule.sets(p)[rows, labels]
        by_class.append([inside[labels == k].mean() for k in range(p.shape[1])])
    classes = np.mean(by_class, axis=0)
    return {
        "nominal": 0.9,
        "resplits": resplits,
        "marginal": float(np.mean(marginal)),
        "class_conditional": float(classes.mean()),
        "lowest_class": float(classes.min()),
        "highest_class": float(
            classes.max()
        ),  # the likeliest class is always in the set: easy classes are over-covered
        "fewest_calibration_patients_of_a_class": int(min(fewest)),
    }


def promises(outcomes: Sequence[Outcome], classes: Sequence[str]) -> dict[str, float | None]:
    """What the bundle's own thresholds keep on these cases: coverage and size of its sets, error of what it answers."""
    said = [(classes.index(str(o.case.label)), o.prediction) for o in outcomes if o.prediction is not None]
    sets = [(y, p.diagnosis_set or ()) for y, p in said]
    answered = [int(p.probabilities.argmax()) != y for y, p in said if not p.referred]
    return {"set_coverage": float(np.mean([y in own for y, own in sets])),
            "set_size": float(np.mean([len(own) for _, own in sets])),
            "answered": len(answered) / len(said),
            "error_answered": float(np.mean(answered)) if answered else None}  # fmt: skip


def most_certain(answers: Answers, share: float = 0.8) -> dict[str, float]:
    """Error of all cases and of the most certain ones."""
    wrong = answers.probabilities.argmax(1) != answers.labels
    order = np.argsort(-answers.probabilities.max(1), kind="stable")[: round(share * len(wrong))]
    return {"error_all": float(wrong.mean()), "error_answered": float(wrong[order].mean()),
            "relative_fall": 1.0 - float(wrong[order].mean() / wrong.mean())}  # fmt: skip


def blank(_: Pixels, rng: np.random.Generator) -> Pixels:
    """One grey level with a little noise."""
    level = rng.integers(0, 256)
    return np.clip(level + rng.normal(0, 2, (224, 224, 3)), 0, 255).astype(np.uint8)


def lost_contact(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A scan with air below the probe: reverberation lines that fade, then darkness and noise."""
    height, width = pixels.shape[:2]
    y = np.arange(height)[:, None]
    spacing, decay = rng.uniform(0.03, 0.08) * height, rng.uniform(0.08, 0.2) * height
    lines = 230 * np.exp(-y / decay) * (0.5 + 0.5 * np.cos(2 * np.pi * y / spacing)) ** 3
    noise = rng.rayleigh(rng.uniform(3, 10), (height, width))
    return np.repeat(np.clip(lines + noise, 0, 255)[..., None], 3, axis=-1).astype(np.uint8)


def everyday(folder: Path | None) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """Crops of a folder's pictures, or of scikit-learn's two (a temple, a flower)."""
    if folder is None:
        from sklearn.datasets import load_sample_images  # noqa: PLC0415 - only for this kind

        pictures = load_sample_images().images
    else:
        pictures = [read_image(path) for path in sorted(folder.iterdir())]

    def crop(_: Pixels, rng: np.random.Generator) -> Pixels:
        picture = pictures[rng.integers(len(pictures))]
        side = min(int(rng.integers(120, 400)), *picture.shape[:2])
        top, left = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
        return picture[top : top + side, left : left + side]

    return crop


def wrong_images(
    cases: Sequence[Case], folder: Path, ultrasound: Path | None, pictures: Path | None, count: int, seed: int
) -> Iterator[tuple[str, list[Case]]]:
    """Each kind of wrong image, by name, in cases whose other view is right."""
    makers: list[tuple[str, str, Callable[[Pixels, np.random.Generator], Pixels]]] = [
        ("blank", "clinical", blank),
        ("blank", "ultrasound", blank),
        ("lost contact", "ultrasound", lost_contact),
        ("everyday picture", "clinical", everyday(pictures)),
        ("everyday picture", "ultrasound", everyday(pictures)),
    ]
    chosen = [case for case in cases if all(case.views.values())][:count]
    for kind, view, make in makers:
        made = []
        for number, case in enumerate(chosen):
            pixels = make(read_image(case.views[view][0]), np.random.default_rng([seed, number]))
            path = folder / f"{kind}-{view}-{number}.png".replace(" ", "-")
            Image.fromarray(pixels).save(path)
            made.append(_with(case, view, path))
        yield f"{kind} as {view}", made
    for view, other in (("clinical", "ultrasound"), ("ultrasound", "clinical")):
        yield f"{other} image as {view}", [_with(case, view, case.views[other][0]) for case in chosen]
    if ultrasound is not None:
        files = sorted(path for path in ultrasound.rglob("*.png") if "mask" not in path.name)
        files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[:count]]
        yield (
            "ultrasound of another organ as ultrasound",
            [_with(case, "ultrasound", path) for case, path in zip(chosen, files, strict=False)],
        )


def _with(case: Case, view: str, path: Path) -> Case:
    scales = {v: mm for v, mm in case.mm_per_pixel.items() if v != view}
    return replace(case, views={**case.views, view: (path,)}, mm_per_pixel=scales)


def referrals(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Share of cases that are handed back, for any reason and as unlike the training images."""
    reasons = [o.prediction.referred or () for o in outcomes if o.prediction is not None]
    strange = [any(why.code == "strange" for why in own) for own in reasons]
    return {"cases": len(reasons), "referred": float(np.mean([bool(own) for own in reasons])),
            "as_strange": float(np.mean(strange))}  # fmt: skip


def shares(predictor: Predictor, cases: Sequence[Case], count: int) -> dict[str, Any]:
    """Mean Shapley value of each view on the log-odds of a case's class against its partner, for every pair."""
    out = {}
    for pair, leads in PAIRS.items():
        own: list[dict[str, float]] = []
        for case in [c for c in cases if c.label in pair and all(c.views.values())][:count]:
            right = predictor.classes.index(str(case.label))
            other = predictor.classes.index(pair[1 - pair.index(str(case.label))])
            values = {frozenset[str](): float(np.log(predictor.prior[right] / predictor.prior[other]))}
            for views, looks in questions(predictor, predictor.frames(case)).items():
                p = predictor.conclude(tuple(views), predictor.ask(looks)).probabilities
                values[views] = float(np.log(max(p[right], 1e-12) / max(p[other], 1e-12)))
            own.append(shapley(values))
        means = {view: float(np.mean([share[view] for share in own])) for view in predictor.specs}
        out[" / ".join(pair)] = {"cases": len(own), "mean_share": means, "should_lead": leads,
                                 "leads": max(means, key=lambda view: means[view])}  # fmt: skip
    return out


def main() -> None:
    """Read the arguments, measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--ultrasound", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--wrong", type=int, default=200, help="wrong images of each kind")
    parser.add_argument("--resplits", type=int, default=200)
    parser.add_argument("--focus", type=int, default=500, help="cases whose maps are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", "-o", type=Path, required=True)
    given = parser.parse_args()
    predictor = Predictor(given.run)
    cases = [c for c in read_cases(given.table, views=list(predictor.specs)) if c.label is not None]
    outcomes = list(predictor.predict(cases))
    answers = answers_of(whole(outcomes), predictor.classes)
    ordinary = referrals(outcomes)
    focus = focus_of(predictor, cases[: given.focus], mask_files(given.masks, list(predictor.specs)))
    made: dict[str, Any] = {
        "notice": f"{SYNTHETIC} {RESEARCH_USE}",
        "cases": len(answers),
        "calibration": calibration(answers, given.seed),
        "coverage": coverage(answers, given.resplits, given.seed),
        "promises": promises(outcomes, predictor.classes),
        "promises_with_one_view": {
            view: promises(
                list(predictor.predict(replace(c, views={view: c.views[view]}) for c in cases if c.views.get(view))),
                predictor.classes,
            )
            for view in predictor.specs
        },
        "most_certain_80_percent": most_certain(answers),
        "ordinary_cases": ordinary,
        "wrong_images": {},
        "focus": focus_figures(focus, [c.patient_id for c in cases[: given.focus]]),
        "shares": shares(predictor, cases, 200),
    }
    with tempfile.TemporaryDirectory() as folder:
        for kind, wrong in wrong_images(cases, Path(folder), given.ultrasound, given.pictures, given.wrong, given.seed):
            made["wrong_images"][kind] = referrals(list(predictor.predict(wrong)))
    write_json(given.out, made)
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
