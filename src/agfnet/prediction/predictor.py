"""The one inference path: command line, evaluation, service and bulk prediction all come through here."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from agfnet.data.preprocess import Framed, middle, normalise, read_frame
from agfnet.data.said import check_one_patient
from agfnet.kinds import KINDS
from agfnet.prediction.bundle import Bundle, read_bundle
from agfnet.prediction.calibration import reweighted
from agfnet.prediction.decision import read_decision
from agfnet.types import BundleError, Case, ConfigError, ImageError, Prediction, Warned

EVEN_LOOKS = 64
"""Looks up to which each image of a case counts exactly alike: 11 photos and 37 scans would take 1,628."""
FINEST = 8
"""Stride of the finest attention maps, in their outputs' names."""
Array = NDArray[np.float32]
Frames = Mapping[str, Sequence[Framed]]
"""Modality -> its images, fitted to the input's frame."""
Look = Mapping[str, Array]
"""Modality -> (3, height, width) normalised: one variant of a case, an image of each view, flipped or zoomed."""
Change = Callable[[Case, str, NDArray[np.uint8]], NDArray[np.uint8]]
"""What is done to an image's pixels (H, W, 3) before they are fitted to the input, given its case and modality."""


PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider"}


_START = "See that its driver and libraries are there, or take --provider cpu."


def open_session(graph: bytes, *, threads: int = 0, provider: str = "cpu") -> onnxruntime.InferenceSession:
    """An ONNX Runtime session as this package uses it.

    Args:
        graph: the ONNX model.
        threads: processor threads; 0 lets ONNX Runtime choose.
        provider: one of `PROVIDERS`.

    Raises:
        ConfigError: the provider is unknown, not installed, or does not start.
        BundleError: the graph cannot be loaded.
    """
    installed = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
    if provider not in installed:
        raise ConfigError(
            f"provider {provider!r} is not to be had here; there are {', '.join(installed)}. "
            "Install onnxruntime-gpu or onnxruntime-openvino in the place of onnxruntime."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    of_provider: dict[str, str] = {}
    if provider == "cuda":
        # In float32, as the bundle was exported and calibrated; libraries that pip installed are found only so.
        of_provider["use_tf32"] = "0"
        with contextlib.redirect_stdout(sys.stderr):
            getattr(onnxruntime, "preload_dlls", lambda: None)()
    try:
        session = onnxruntime.InferenceSession(
            graph, options, providers=[(PROVIDERS[provider], of_provider)], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        if provider != "cpu":
            raise ConfigError(f"provider {provider!r} is installed but does not start ({error}). {_START}") from error
        raise BundleError(f"the graph cannot be loaded ({error}). Export it again, or update onnxruntime.") from error
    if PROVIDERS[provider] not in session.get_providers():  # ONNX Runtime goes on with the processor by itself
        raise ConfigError(f"provider {provider!r} is installed but does not start. {_START}")
    return session


class Outcome(NamedTuple):
    """What became of a case: a prediction, or the reason why there is none."""

    case: Case
    prediction: Prediction | None
    error: str | None


class _Read(NamedTuple):
    """What a case that could be read is asked about, and what is known of its images."""

    looks: list[Look]
    warnings: tuple[Warned, ...]


Reading = tuple[Case, Callable[[], _Read | str]]
"""A case, and what waits for what was read of it or its error."""


class Predictor:
    """Predicts from a bundle with ONNX Runtime.

    Args:
        source: a run folder, a bundle file, or a bundle that was read.
        threads: processor threads; 0 lets ONNX Runtime choose. With 1 there is one at a time, also to read images.
        provider: what computes; one of `PROVIDERS`.
        calibrated: use what was fitted on calibration cases, where the bundle has it; else the bare network.
        prevalence: class -> share among the patients that are asked about, in the place of the configured one;
            probabilities are re-weighted to it. Diagnosis sets stay as they were fitted, and what they or the rule
            that refers would not let pass at either prevalence is referred as unsure.

    Raises:
        BundleError: the source cannot be used.
        ConfigError: a prevalence that does not fit the classes.
    """

    def __init__(
        self,
        source: str | Path | Bundle,
        *,
        threads: int = 0,
        provider: str = "cpu",
        calibrated: bool = True,
        prevalence: Mapping[str, float] | None = None,
    ) -> None:
        self.bundle = source if isinstance(source, Bundle) else read_bundle(source)
        self.specs = self.bundle.specs
        self.classes = self.bundle.classes
        self.decision = read_decision(self.bundle) if calibrated else None
        self.prevalence = self.bundle.prevalence if prevalence is None else self._stated(prevalence)
        self.prior = self.bundle.prior if self.prevalence is None else self.prevalence
        self.threads = threads
        self.session = open_session(self.bundle.graph, threads=threads, provider=provider)
        shapes = {output.name: output.shape for output in self.session.get_outputs()}
        self.outputs = list(shapes)
        if shapes["logits"][-1] != len(self.classes):
            raise BundleError(
                f"the graph tells {shapes['logits'][-1]} classes apart, and its manifest names {len(self.classes)}. "
                "Export the run again."
            )

    def _stated(self, prevalence: Mapping[str, float]) -> NDArray[np.float64]:
        stated = np.array([prevalence.get(name, -1.0) for name in self.classes])
        if set(prevalence) != set(self.classes) or not (stated >= 0.0).all() or abs(stated.sum() - 1.0) > 0.02:
            raise ConfigError(f"a prevalence needs a share for each of {', '.join(self.classes)}, 1 in all.")
        return np.asarray(stated / stated.sum())  # 9 of 0.11 are 0.99

    def run(self, images: Mapping[str, Array], present: NDArray[np.bool_]) -> dict[str, Array]:
        """The graph itself.

        Args:
            images: modality -> (B, 3, H, W) float32, normalised; zero where the view is absent.
            present: (B, M).

        Returns:
            Name -> array of every output: logits (B, K) as log-probabilities, view_logits (B, M, K),
            weights (B, 1 + M), extra_logits, attention_<modality>_<stride> (B, 1, h, w), evidence_<modality>
            (B, K, h, w), statistics_<modality> (B, 2 C).

        Raises:
            BundleError: the answer is not finite.
        """
        made = dict(zip(self.outputs, self.session.run(None, {**images, "present": present}), strict=True))
        if not np.isfinite(made["logits"]).all():
            raise BundleError("the network's answer is no number. Try --provider cpu; else export the run again.")
        return made

    def predict(
        self, cases: Iterable[Case], *, batch_size: int = 16, maps: bool = False, change: Change | None = None
    ) -> Iterator[Outcome]:
        """One outcome per case, in order; a case that cannot be read gives its error.

        While the network is asked about one group of cases, the next is read, unless `threads` is 1.

        Args:
            cases: the cases.
            batch_size: cases of a group, and looks that go through the network at once; see `looks`.
            maps: also give attention and class-evidence maps.
            change: what is done to each image first; for tests of robustness.
        """
        source, read = iter(cases), partial(self._read, change=change)
        with ThreadPoolExecutor(2) as pool:

            def begin() -> list[Reading]:
                group = islice(source, batch_size)
                if self.threads == 1:
                    return [(case, partial(read, case)) for case in group]
                return [(case, pool.submit(read, case).result) for case in group]

            group = begin()
            while group:
                ahead = begin()
                yield from self._outcomes([(case, read_one()) for case, read_one in group], batch_size, maps)
                group = ahead

    def _outcomes(self, group: Sequence[tuple[Case, _Read | str]], batch_size: int, maps: bool) -> Iterator[Outcome]:
        """The outcomes of cases whose looks, or errors, are there."""
        looks = [look for _, made in group if not isinstance(made, str) for look in made.looks]
        joined = self.ask(looks, batch_size=batch_size) if looks else {}
        first = 0
        for case, made in group:
            if isinstance(made, str):
                yield Outcome(case, None, made)
                continue
            count = len(made.looks)
            own = {n: values[first : first + count] for n, values in joined.items()}
            first += count
            views = tuple(made.looks[0])
            told = self.conclude(views, own, case_id=case.case_id, maps=maps, warnings=made.warnings)
            yield Outcome(case, told, None)

    def _read(self, case: Case, change: Change | None) -> _Read | str:
        """What one case is asked about, or its error."""
        try:
            frames = self.frames(case, change=change)
            return _Read(self.looks(frames), self.warned(frames))
        except ImageError as error:
            return f"row {case.row}, case {case.case_id}: {error}"

    def frames(self, case: Case, *, change: Change | None = None) -> Frames:
        """The case's images, fitted to the inputs' frames.

        Raises:
            ImageError: an image cannot be read, or there is none, or they say to be of several patients.
        """
        frames: dict[str, list[Framed]] = {}
        for modality, spec in self.specs.items():
            for path in case.views.get(modality, ()):
                changed = partial(change, case, modality) if change else None
                frame = read_frame(path, spec, mm_per_pixel=case.mm_per_pixel.get(modality), change=changed)
                frames.setdefault(modality, []).append(frame)
        if not frames:
            raise ImageError(f"no image of {' or '.join(self.specs)}. Give at least one view.")
        check_one_patient({view: [frame.patient for frame in own] for view, own in frames.items()})
        return frames

    def warned(self, frames: Frames) -> tuple[Warned, ...]:
        """What a reader must know of a case's images."""
        unscaled = [
            m
            for m, own in frames.items()
            if self.specs[m].mm_per_pixel and any(one.mm_per_pixel is None for one in own)
        ]
        burned = [m for m, own in frames.items() if any(one.burned_in for one in own)]
        clips = sorted({(m, *one.clip) for m, own in frames.items() for one in own if one.clip})
        return (
            *(Warned("burned-in", m) for m in burned),
            *(Warned("no-scale", m) for m in unscaled),
            *(Warned("clip", m, f"{frame}/{frames}") for m, frame, frames in clips),
            *(Warned("upside-down", m) for m, own in frames.items() if any(one.upwards for one in own)),
        )

    def looks(self, frames: Frames) -> list[Look]:
        """What the network is asked about one case.

        A case with several images of a view is looked at once per image and, where the bundle says so, per flip and
        zoom; `conclude` averages the log-probabilities. Views with fewer are gone through again meanwhile, until each
        has come equally often; where that takes over `EVEN_LOOKS`, some of a view come once more than others.
        """
        shown = {
            m: [
                normalise(np.flip(middle(frame.pixels, share), flip), self.specs[m])
                for frame in own
                for share, flip in self._variants(m)
            ]
            for m, own in frames.items()
        }
        even, most = math.lcm(*map(len, shown.values())), max(map(len, shown.values()))
        count = even if even <= EVEN_LOOKS else most
        return [{m: own[i % len(own)] for m, own in shown.items()} for i in range(count)]

    def _variants(self, modality: str) -> list[tuple[float, tuple[int, ...]]]:
        """How each image of a view is shown: share of its sides and axes of the flip, the whole unflipped one first."""
        spec, zoom = self.specs[modality], self.bundle.facts["zoom"]
        flips = spec.flips
        shares = [1.0] if zoom == 1.0 or KINDS[spec.kind].depth else [1.0, zoom]  # the skin line would be cut off
        return [(share, flip) for share in shares for flip in (flips if self.bundle.facts["flips"] else flips[:1])]

    def ask(self, looks: Sequence[Look], *, batch_size: int = 16) -> dict[str, Array]:
        """Every output of the graph, one row a look; see `run`.

        Args:
            looks: one or more.
            batch_size: of them that go through the network at once.
        """
        passes = [self._pass(looks[i : i + batch_size]) for i in range(0, len(looks), batch_size)]
        return {name: np.concatenate([one[name] for one in passes]) for name in self.outputs}

    def _pass(self, looks: Sequence[Look]) -> dict[str, Array]:
        present = np.array([[m in look for m in self.specs] for look in looks])
        images = {
            m: np.stack([look.get(m, np.zeros((3, *spec.size), np.float32)) for look in looks])
            for m, spec in self.specs.items()
        }
        return self.run(images, present)

    def conclude(
        self,
        views: Sequence[str],
        own: Mapping[str, Array],
        *,
        case_id: str = "",
        maps: bool = False,
        warnings: Sequence[Warned] = (),
    ) -> Prediction:
        """What the answers to one case's looks say together.

        Args:
            views: the views that were there.
            own: the outputs, one row a look, in the order of `looks`: maps are those of the first images unflipped.
            case_id: the case.
            maps: also give attention and class-evidence maps.
            warnings: of the images; see `warned`.
        """
        views = [m for m in self.specs if m in views]
        place = {m: i for i, m in enumerate(self.specs)}
        weights = own["weights"].mean(0, dtype=np.float64)
        extra, start = {}, 0
        for column, values in self.bundle.extra_classes.items():
            extra[column] = averaged(own["extra_logits"][:, start : start + len(values)])
            start += len(values)
        probabilities = averaged(own["logits"])
        opinions = {m: averaged(own["view_logits"][:, place[m]]) for m in views}
        # Of a view's looks every so many is at a whole image, unflipped.
        statistics = {m: own[f"statistics_{m}"][:: len(self._variants(m))] for m in views}
        said: dict[str, Any] = {"probabilities": reweighted(probabilities, self.bundle.prior, self.prior)}
        if self.decision is not None:
            said = self.decision.decide(probabilities, opinions, statistics, self.prevalence)._asdict()
        return Prediction(
            case_id=case_id,
            view_probabilities={m: reweighted(own, self.bundle.prior, self.prior) for m, own in opinions.items()},
            view_weights={"fused": float(weights[0]), **{m: float(weights[1 + place[m]]) for m in views}},
            views_present=tuple(views),
            # Of the scales the finest: a position of a coarser one sees most of the image, and so points nowhere.
            attention={m: own[name][0, 0] for m in views if (name := f"attention_{m}_{FINEST}") in own} if maps else {},
            evidence={m: own[f"evidence_{m}"][0] for m in views} if maps else {},
            extra_probabilities=extra,
            statistics=statistics,
            warnings=tuple(warnings),
            **said,
        )


def averaged(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (K,) from the mean log-probabilities of several looks (L, K)."""
    values = logits.astype(np.float64)
    shifted = values - values.max(-1, keepdims=True)
    log_p = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).mean(0)
    p = np.exp(log_p - log_p.max())
    return np.asarray(p / p.sum())
