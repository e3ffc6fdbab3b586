from __future__ import annotations

import io
import json
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from dicom_files import dicom, region, save, smooth, with_regions
from PIL import Image

from agfnet.data.images import read_image
from agfnet.data.preprocess import fit, normalise
from agfnet.data.table import read_cases
from agfnet.export.onnx import example
from agfnet.prediction.asking import cases_of, show
from agfnet.prediction.bundle import read_bundle
from agfnet.prediction.output import outcome_table
from agfnet.prediction.predictor import Predictor, averaged
from agfnet.training.run import load_run
from agfnet.types import RESEARCH_USE, Case, ConfigError


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained, threads=1)


@pytest.fixture(scope="module")
def cases(drawn):
    return read_cases(drawn / "parts.csv")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_what_is_installed_and_does_not_start_is_no_processor_in_silence(trained, monkeypatch):
    """ONNX Runtime goes on without it, and only says so on the screen."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(ConfigError, match="'cuda' is installed but does not start"):
        Predictor(trained, threads=1, provider="cuda")


def test_a_gpu_computes_in_what_the_bundle_was_calibrated_in(trained, monkeypatch):
    asked = []

    def session(_graph, _options, **how):
        asked.append(how["providers"])
        raise RuntimeError

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ConfigError, match="does not start"):
        Predictor(trained, provider="cuda")
    assert asked == [[("CUDAExecutionProvider", {"use_tf32": "0"})]]


def only(predictor, case, **options):
    (outcome,) = predictor.predict([case], **options)
    return outcome


def test_the_graph_gives_pytorchs_figures_on_real_files(trained, predictor, cases):
    """Files to probabilities through the predictor, against the same inputs through the PyTorch network."""
    _, _, network, _ = load_run(trained)
    for case in cases[:6]:
        looks = []
        frames = {m: fit(read_image(case.views[m][0]), s) for m, s in predictor.specs.items() if case.views[m]}
        for i in range(4 if "clinical" in frames else 2):
            flipped = {m: np.flip(f, (s := predictor.specs[m]).flips[i % len(s.flips)]) for m, f in frames.items()}
            images = {m: torch.from_numpy(normalise(f, predictor.specs[m]))[None] for m, f in flipped.items()}
            with torch.no_grad():
                looks.append(network(images).logits[0].numpy())
        found = only(predictor, case).prediction
        assert found is not None
        assert np.abs(found.probabilities - averaged(np.stack(looks))).max() < 1e-4


@pytest.mark.parametrize(
    ("configured", "mix"), [("training", [16, 1, 8]), ("sqrt", [4, 1, 8**0.5]), ("equal", [1, 1, 1])]
)
@pytest.mark.parametrize("state", ["trained", "calibrated"])
def test_answers_are_for_the_mix_of_patients_that_was_configured(request, cases, state, configured, mix):
    bundle = read_bundle(request.getfixturevalue(state))
    learnt = {"run": {"cases": {"train": {"classes": {"naevus": 8, "cyst": 16, "lipoma": 1}}}}}
    config = yaml.safe_load(bundle.parts["config.yaml"])
    config["prediction"]["prevalence"] = configured
    parts = {**bundle.parts, "config.yaml": yaml.safe_dump(config).encode()}
    if state == "calibrated":
        shares = {"prevalence": (np.array(mix) / np.sum(mix)).tolist()}
        parts["decision.json"] = json.dumps(json.loads(parts["decision.json"]) | shares).encode()
    asked = Predictor(replace(bundle, facts={**bundle.facts, **learnt}, parts=parts), threads=1)
    assert asked.prior == pytest.approx(np.array(mix) / np.sum(mix))
    plain, found = (only(one, cases[0]).prediction for one in (Predictor(bundle, threads=1), asked))
    expected = plain.probabilities * mix / [16, 1, 8]
    assert found.probabilities == pytest.approx(expected / expected.sum())
    for view, own in plain.view_probabilities.items():
        expected = own * mix / [16, 1, 8]
        assert found.view_probabilities[view] == pytest.approx(expected / expected.sum())


def test_a_missing_view_is_flagged_and_given_no_opinion(predictor, cases):
    case = next(c for c in cases if not c.views["ultrasound"])
    p = only(predictor, case).prediction
    assert p.views_present == ("clinical",)
    assert set(p.view_probabilities) == {"clinical"}
    assert p.view_weights["fused"] + p.view_weights["clinical"] == pytest.approx(1.0, abs=1e-6)
    frame = outcome_table(predictor.predict([case]), predictor)
    assert frame["views_missing"].to_list() == ["ultrasound"]
    assert frame["ultrasound_prediction"].to_list() == [None]
    assert "Research use only" in frame["notice"][0]
    assert frame["bundle_sha256"].to_list() == [predictor.bundle.sha256]
    assert frame["prevalence"].to_list() == [None]


def test_several_images_of_a_view_are_averaged(predictor, cases):
    first, second = (c for c in cases[:3] if c.case_id in {cases[0].case_id, cases[1].case_id})
    several = replace(first, views={"clinical": first.views["clinical"] + second.views["clinical"], "ultrasound": ()})
    alone = [replace(c, views={"clinical": c.views["clinical"], "ultrasound": ()}) for c in (first, second)]
    logs = np.log([only(predictor, c).prediction.probabilities for c in alone]).mean(0)
    expected = np.exp(logs) / np.exp(logs).sum()
    assert only(predictor, several).prediction.probabilities == pytest.approx(expected, abs=1e-5)


def test_the_batch_does_not_change_a_prediction(predictor, cases):
    together = [o.prediction.probabilities for o in predictor.predict(cases[:7], batch_size=5)]
    alone = [only(predictor, c, batch_size=1).prediction.probabilities for c in cases[:7]]
    assert np.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_at_most_one_group_is_read_ahead(trained, cases, threads, monkeypatch):
    taken, found, read = [], [], threading.Semaphore(0)
    predictor = Predictor(trained, threads=threads)
    frames, ask = predictor.frames, predictor.ask

    def noted(case, **options):
        read.release()
        return frames(case, **options)

    def asked(looks, **options):
        if threads > 1 and not found:  # while the network is asked about the first group, the second one is read
            assert all(read.acquire(timeout=60) for _ in range(4))
            monkeypatch.setattr(predictor, "ask", ask)
        return ask(looks, **options)

    monkeypatch.setattr(predictor, "frames", noted)
    monkeypatch.setattr(predictor, "ask", asked)
    for outcome in predictor.predict((taken.append(c) or c for c in cases[:6]), batch_size=2):
        assert len(taken) <= len(found) // 2 * 2 + 4
        found.append(outcome.case.case_id)
    assert found == [c.case_id for c in cases[:6]]


def test_maps(predictor, cases):
    p = only(predictor, cases[0], maps=True).prediction
    assert p.attention["clinical"].shape == (4, 6)
    assert ((p.attention["clinical"] > 0) & (p.attention["clinical"] < 1)).all()
    assert p.evidence["ultrasound"].shape == (3, 4, 6)
    assert not only(predictor, cases[0]).prediction.attention


def test_bad_cases_have_an_error_and_do_not_stop_the_others(predictor, cases, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    wrong = [
        replace(cases[0], case_id="unreadable", row=5, views={"clinical": (broken,), "ultrasound": ()}),
        replace(cases[0], case_id="gone", row=6, views={"clinical": (tmp_path / "none.jpg",), "ultrasound": ()}),
        replace(cases[0], case_id="empty", row=7, views={"clinical": (), "ultrasound": ()}),
    ]
    outcomes = list(predictor.predict([cases[0], *wrong, cases[1]]))
    assert [o.prediction is None for o in outcomes] == [False, True, True, True, False]
    for outcome, said in zip(outcomes[1:4], ("row 5, case unreadable", "row 6, case gone", "no image of"), strict=True):
        assert said in outcome.error


def test_the_raw_graph_is_deterministic(trained, predictor):
    _, _, network, _ = load_run(trained)
    *images, present = example(network, {m: s.size for m, s in predictor.specs.items()}, 2)
    feeds = {m: x.numpy() for m, x in zip(predictor.specs, images, strict=True)}
    first, second = (predictor.run(feeds, present.numpy()) for _ in range(2))
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_every_image_of_every_view_counts_alike(predictor, cases):
    """Two photos and three scans: the ultrasound's opinion is the mean over the three scans."""
    scans = [c.views["ultrasound"][0] for c in cases if c.views["ultrasound"]][:3]
    photos = [c.views["clinical"][0] for c in cases if c.views["clinical"]][:2]
    both = only(predictor, replace(cases[0], views={"clinical": tuple(photos), "ultrasound": tuple(scans)})).prediction
    scan = only(predictor, replace(cases[0], views={"clinical": (), "ultrasound": tuple(scans)})).prediction
    expected = scan.view_probabilities["ultrasound"]
    assert both.view_probabilities["ultrasound"] == pytest.approx(expected, abs=1e-5)


def test_many_images_of_two_views_do_not_multiply(predictor, cases):
    """Of seven photos and five scans every one is looked at, at every flip, in 28 looks rather than 140."""
    frames = predictor.frames(next(c for c in cases if all(c.views.values())))
    many = {m: [own[0]._replace(pixels=np.roll(own[0].pixels, i, 0)) for i in range(n)]
            for (m, own), n in zip(frames.items(), (7, 5), strict=True)}  # fmt: skip
    looks = predictor.looks(many)
    assert len(looks) == 28
    for m, own in many.items():
        times = Counter(look[m].tobytes() for look in looks).values()
        assert len(times) == len(own) * len(predictor.specs[m].flips)
        assert max(times) - min(times) <= 1


def test_zoomed_looks_come_beside_the_whole_ones(predictor, cases):
    """Twice as many; what is kept of the images themselves (maps, statistics) is of the whole ones."""
    case = next(c for c in cases if all(c.views.values()))
    bundle = predictor.bundle
    zoomed = Predictor(replace(bundle, facts={**bundle.facts, "zoom": 0.8}), threads=1)
    plain, both = (p.looks(p.frames(case)) for p in (predictor, zoomed))
    assert (len(plain), len(both)) == (4, 8)
    flips = len(predictor.specs["clinical"].flips)
    wholes = {look["clinical"].tobytes() for look in plain}
    assert [look["clinical"].tobytes() in wholes for look in both] == [i % (2 * flips) < flips for i in range(8)]
    scans = {look["ultrasound"].tobytes() for look in plain}
    assert all(look["ultrasound"].tobytes() in scans for look in both)  # a scan is never cut
    own, other = (only(p, case, maps=True).prediction for p in (predictor, zoomed))
    assert np.abs(own.probabilities - other.probabilities).max() > 1e-5
    for m in own.views_present:
        assert np.allclose(own.statistics[m][0], other.statistics[m], atol=1e-5)  # a scan comes again meanwhile
        assert np.allclose(own.evidence[m], other.evidence[m], atol=1e-5)


def test_a_scale_that_is_not_given_is_said(predictor, drawn, caplog):
    def said(specs):
        caplog.clear()
        cases_of(drawn / "parts.csv", SimpleNamespace(specs=specs))
        return caplog.text

    scans = sum(bool(case.views["ultrasound"]) for case in read_cases(drawn / "parts.csv"))
    assert said(predictor.specs) == ""
    fixed = predictor.specs | {"ultrasound": replace(predictor.specs["ultrasound"], mm_per_pixel=0.1)}
    assert f"{scans} of {scans} cases have no ultrasound_mm_per_pixel" in said(fixed)


def test_one_strange_image_among_several_is_noticed(calibrated, drawn, tmp_path):
    """The distance is that of the strangest image of a view, wherever it stands; a flipped look counts for none."""
    predictor = Predictor(calibrated, threads=1)
    case = next(c for c in read_cases(drawn / "parts.csv") if c.views["clinical"])
    blank = tmp_path / "blank.png"
    white = Image.new("RGB", (96, 72), (255, 255, 255))
    white.putpixel((0, 0), (254, 254, 254))
    white.save(blank)

    def distance(*images):
        own = predictor.ask(predictor.looks(predictor.frames(replace(case, views={"clinical": images}))))
        return predictor.conclude(("clinical",), own).distances["clinical"]

    (photo,) = case.views["clinical"]
    ordinary, strange = distance(photo), distance(blank)
    assert strange > 2 * ordinary
    assert distance(photo, blank) == pytest.approx(strange, rel=1e-3)
    assert distance(blank, photo, photo) == pytest.approx(strange, rel=1e-3)


def test_which_frame_of_a_clip_was_looked_at(predictor, tmp_path):
    """Each image of the view by itself, counted from 1; what the third frame alone says is what the clip says."""
    frames = [smooth(k, 64, 64) for k in range(4)]
    clip = save(tmp_path / "clip.dcm", dicom(np.stack(frames), modality="US", NumberOfFrames=4))
    long = save(tmp_path / "long.dcm", dicom(np.stack(frames * 2), modality="US", NumberOfFrames=8))
    still = save(tmp_path / "still.dcm", dicom(frames[2], modality="US"))

    def told(*scans):
        return only(predictor, Case(case_id="a", patient_id="a", row=2, views={"ultrasound": scans})).prediction

    assert list(map(str, told(clip, long, still, clip).warnings)) == [
        "ultrasound: of a clip frame 3/4", "ultrasound: of a clip frame 5/8",
    ]  # fmt: skip
    assert told(still).warnings == ()
    assert np.array_equal(told(clip).probabilities, told(still).probabilities)


def test_a_scan_that_says_to_be_upside_down_is_told(predictor, tmp_path):
    scan = with_regions(dicom(smooth(1, 64, 64), modality="US"), region((0, 0, 63, 63), PhysicalDeltaY=-0.005))
    case = Case(case_id="a", patient_id="a", row=2, views={"ultrasound": (save(tmp_path / "scan.dcm", scan),)})
    assert list(map(str, only(predictor, case).prediction.warnings)) == ["ultrasound: may be upside down"]


def test_images_of_two_patients_are_not_one_case(trained, tmp_path):
    scan = {who: save(tmp_path / f"{who}.dcm", dicom(smooth(1, 64, 64), modality="US", PatientID=who)) for who in "ab"}
    photo = save(tmp_path / "photo.dcm", dicom(smooth(2, 64, 64), PatientID="a"))
    views = [
        {"clinical": (photo,), "ultrasound": (scan["a"],)},
        {"clinical": (photo,), "ultrasound": (scan["b"],)},
        {"clinical": (), "ultrasound": (scan["a"], scan["b"])},
        {"clinical": (scan["a"],), "ultrasound": ()},
    ]
    cases = [Case(case_id=str(i), patient_id="p", row=i, views=own) for i, own in enumerate(views)]
    named = dicom(smooth(1, 64, 64), modality="US", PatientID="a", IssuerOfPatientID="North")
    captured = dicom(smooth(1, 64, 64), modality="OT", PatientID="a")
    for extra in (named, captured):
        path = save(tmp_path / f"{len(cases)}.dcm", extra)
        cases.append(replace(cases[0], case_id=str(len(cases)), views=views[0] | {"ultrasound": (path,)}))
    errors = [outcome.error for outcome in Predictor(trained).predict(cases)]
    assert errors[4:] == [None, None]  # an issuer that one file alone names; a program's picture of anything
    assert errors[0] is None
    assert "of another patient" in errors[1]
    assert "of another patient" in errors[2]
    assert "says that it is ultrasound, in the place of a photo" in errors[3]


class Screen(io.StringIO):
    """A person's."""

    def isatty(self):
        return True


@pytest.mark.parametrize("state", ["trained", "calibrated"])
def test_one_case_is_told_in_words_to_a_person_and_as_a_table_to_a_program(request, cases, state):
    network = Predictor(request.getfixturevalue(state), threads=1)
    case = next(case for case in cases if all(case.views.values())).with_views("clinical")
    outcome = only(network, case)
    screen, pipe = Screen(), io.StringIO()
    assert show(network, [outcome], None, screen) == show(network, [outcome], None, pipe) == 0
    words = screen.getvalue()
    assert words.startswith(network.classes[int(outcome.prediction.probabilities.argmax())])
    assert "missing: ultrasound" in words
    assert RESEARCH_USE in words
    assert ("nothing is referred" in words) == (state == "trained")
    assert ("diagnosis set (holds it in 90%" in words) == (state == "calibrated")
    assert ("referred: unsure" in words) == (state == "calibrated")  # a handful of calibration cases shows no risk
    assert pipe.getvalue().startswith("case_id,prediction,")
    several = Screen()
    show(network, [outcome, outcome], None, several)
    assert several.getvalue().startswith("case_id,prediction,")
