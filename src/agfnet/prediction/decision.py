"""What a calibrated bundle says beyond probabilities: the diagnosis set, and whether a case is answered or referred."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agfnet.prediction.bundle import DECISION, REFERENCE, Bundle
from agfnet.prediction.calibration import calibrated, reweighted
from agfnet.prediction.conformal import Conformal
from agfnet.prediction.drift import Usual
from agfnet.prediction.refer import Reference, ReferRule, disagreement
from agfnet.types import Reason


class Decided(NamedTuple):
    """What is decided of a case; see `Prediction`."""

    probabilities: NDArray[np.float64]
    distances: Mapping[str, float]
    calibrated: NDArray[np.float64]
    diagnosis_set: tuple[int, ...]
    referred: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What was fitted on calibration cases that were asked with the same views: fewer views make answers less sure.

    Attributes:
        temperature: one number, or one for each class.
        conformal: thresholds of the diagnosis sets.
        certainty: least probability of the likeliest class of an answered case.
    """

    temperature: tuple[float, ...]
    conformal: Conformal
    certainty: float


def named(views: Iterable[str]) -> str:
    """Views as a key of `Decision.limits`, in whatever order they are given."""
    return ";".join(sorted(views))


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything that was fitted on calibration cases.

    Attributes:
        prior: (K,) prevalence under which the network's probabilities are right, before and after a temperature.
        prevalence: (K,) that the diagnosis sets and the rule that refers were fitted for.
        coverage: chosen share of cases whose diagnosis set holds the diagnosis.
        risk: wanted share of errors among the answered cases.
        limits: `named` views -> what was fitted with these; cases of other views keep the network's own temperature,
            and are referred.
        refer: when a case is handed back, besides.
        usual: what calibration cases look like, the reference of drift.
        facts: table, part, numbers of cases, and what a reader must know; JSON.
    """

    prior: tuple[float, ...]
    prevalence: tuple[float, ...]
    coverage: float
    risk: float
    limits: Mapping[str, Limits]
    refer: ReferRule
    usual: Usual
    facts: Mapping[str, Any]

    def calibrated(self, probabilities: NDArray[np.float64], views: Iterable[str]) -> NDArray[np.float64]:
        """Calibrated probabilities (..., K) of cases with these views, for the patients that this was fitted for."""
        own = self.limits.get(named(views))
        temperature = 1.0 if own is None else own.temperature
        return calibrated(probabilities, temperature, np.array(self.prior), np.array(self.prevalence))

    def decide(
        self,
        probabilities: NDArray[np.float64],
        opinions: Mapping[str, NDArray[np.float64]],
        statistics: Mapping[str, NDArray[np.float32]],
        prevalence: NDArray[np.float64] | None = None,
    ) -> Decided:
        """What is said of one case.

        Args:
            probabilities: (K,), the network's own.
            opinions: modality -> (K,) that the view alone says.
            statistics: modality -> (I, D) of its images.
            prevalence: (K,) among the patients that are asked about, where it is not what this was fitted for.
        """
        said = answered = self.calibrated(probabilities, opinions)
        own = self.limits.get(named(opinions))
        certainty = float(said.max())
        inside = np.ones(len(said), np.bool_) if own is None else own.conformal.sets(said)
        if prevalence is not None:
            said = reweighted(said, np.array(self.prevalence), prevalence)
            # What is answered then has to be sure enough at both prevalences, and in the set.
            certainty = min(certainty, float(said.max())) if inside[said.argmax()] else 0.0
        distances = {view: self.refer.references[view].farthest(images) for view, images in statistics.items()}
        reasons = self.refer.reasons(
            sure=own is not None and certainty >= own.certainty,
            disagreement=disagreement(list(opinions.values())),
            distances=distances,
        )
        return Decided(said, distances, answered, tuple(np.flatnonzero(inside).tolist()), reasons)


def write_decision(decision: Decision) -> dict[str, bytes]:
    """The parts of a bundle that hold a decision; no pickle."""
    refer = decision.refer
    told = {
        "prevalence": list(decision.prevalence),
        "coverage": decision.coverage,
        "risk": decision.risk,
        "limits": {views: asdict(own) for views, own in decision.limits.items()},
        "refer": {
            "disagreement": refer.disagreement,
            "limits": {view: own.limit for view, own in refer.references.items()},
        },
        "usual": asdict(decision.usual),
        "facts": dict(decision.facts),
    }
    stream = io.BytesIO()
    arrays = {f"{view}.mean": own.mean for view, own in refer.references.items()}
    arrays |= {f"{view}.whiten": own.whiten for view, own in refer.references.items()}
    np.savez(stream, allow_pickle=False, **arrays)
    text = json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)
    return {DECISION: text.encode(), REFERENCE: stream.getvalue()}


def read_decision(bundle: Bundle) -> Decision | None:
    """The decision of a bundle, or None where it is not calibrated."""
    if not bundle.calibrated:
        return None
    told = json.loads(bundle.parts[DECISION])
    with np.load(io.BytesIO(bundle.parts[REFERENCE]), allow_pickle=False) as arrays:
        references = {
            view: Reference(arrays[f"{view}.mean"], arrays[f"{view}.whiten"], limit)
            for view, limit in told["refer"]["limits"].items()
        }
    return Decision(
        tuple(bundle.prior.tolist()),
        tuple(told["prevalence"]),
        told["coverage"],
        told["risk"],
        {
            views: Limits(tuple(own["temperature"]), _conformal(own["conformal"]), own["certainty"])
            for views, own in told["limits"].items()
        },
        ReferRule(told["refer"]["disagreement"], references),
        Usual(
            {view: tuple(edges) for view, edges in told["usual"]["distances"].items()},
            tuple(told["usual"]["certainty"]),
            tuple(told["usual"]["predicted"]),
        ),
        told["facts"],
    )


def _conformal(told: Mapping[str, Any]) -> Conformal:
    per_class = told["per_class"]
    return Conformal(told["marginal"], None if per_class is None else tuple(per_class), tuple(told["counts"]))
