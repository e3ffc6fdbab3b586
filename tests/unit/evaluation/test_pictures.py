"""The pictures: real PNG files of the promised width, no global state, nothing half-written."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from agfnet.evaluation.canvas import PALETTE
from agfnet.evaluation.pictures import (
    confusion_picture,
    reliability_picture,
    roc_picture,
    training_curves,
)
from agfnet.evaluation.report_page import smaller_png
from agfnet.evaluation.report_pictures import precision_recall_picture
from agfnet.evaluation.scorecard import scorecard

FIGURES = [confusion_picture, roc_picture, reliability_picture]
HISTORY = [
    {"epoch": e, "train_loss": 1 / (e + 1), "val_loss": 1.2 / (e + 1), "val_accuracy": 0.5 + 0.1 * e,
     "val_balanced_accuracy": 0.4 + 0.1 * e, "val_auc": 0.8, "lr": 1e-3 / (e + 1)}
    for e in range(4)
]  # fmt: skip


@pytest.fixture(scope="module")
def card():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 50)
    return scorecard(rng.integers(0, 3, 50), p, None, ["naevus", "melanoma", "BCC"], draws=20)


def pixels(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("draw", FIGURES)
def test_picture_is_a_readable_png_with_content(draw, card, tmp_path):
    draw(card, tmp_path / "picture.png")
    image = pixels(tmp_path / "picture.png")
    assert image.shape[1] == 1000
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    # The notice stands alone at the bottom: grey letters, none cut off by the edge.
    assert (image[-32:] < 200).any()
    assert (image[-3:] == 255).all()
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_lines_keep_their_colours_in_the_report(tmp_path):
    # Of the third and fourth class little is seen beside the legend: a perfect curve lies on the frame.
    steps = np.linspace(0.0, 1.0, 40)
    curves = {
        f"class {i}": {
            "recall": steps,
            "precision": steps**0 if i in {2, 3} else 1 - steps**i,
            "prevalence": 0.1,
            "cases": 5,
        }
        for i in range(8)
    }
    precision_recall_picture(curves, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        small = np.asarray(Image.open(io.BytesIO(smaller_png(image))).convert("RGB")).astype(int)
    for colour in PALETTE:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(small - wanted).max(-1) <= 4).sum() >= 40


@pytest.mark.parametrize("draw", FIGURES)
def test_same_card_same_bytes(draw, card, tmp_path):
    for name in ("a.png", "b.png"):
        draw(card, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_global_state_is_touched(card, tmp_path):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    threads = [threading.Thread(target=draw, args=(card, tmp_path / f"{i}.png")) for i, draw in enumerate(FIGURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before
    assert len([pixels(path) for path in tmp_path.iterdir()]) == 3


def test_many_classes_odd_names_and_undefined_curves(tmp_path):
    rng = np.random.default_rng(1)
    names = ["$x_1^{", "a very long name of a diagnosis that nobody could fit", *"cdefghijk"]
    p = rng.dirichlet(np.ones(11), 60)
    card = scorecard(rng.integers(0, 10, 60), p, None, names, draws=10)
    for draw in FIGURES:
        draw(card, tmp_path / "picture.png")
        assert pixels(tmp_path / "picture.png").shape[1] == 1000


def test_one_patient_has_bins_without_intervals(tmp_path):
    rng = np.random.default_rng(1)
    card = scorecard([0, 1, 1], rng.dirichlet(np.ones(2), 3), ["p"] * 3, ["a", "b"], draws=5)
    reliability_picture(card, tmp_path / "picture.png")
    pixels(tmp_path / "picture.png")


def test_a_failed_write_leaves_the_old_picture_and_no_rest(card, tmp_path, monkeypatch):
    target = tmp_path / "picture.png"
    roc_picture(card, target)
    before = target.read_bytes()

    def break_off(_, path, **__):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        confusion_picture(card, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_confusion_must_fit_its_classes(card, tmp_path):
    with pytest.raises(ValueError, match="to fit the classes"):
        confusion_picture({**card, "classes": ["a"]}, tmp_path / "picture.png")


def test_training_curves_show_what_there_is(tmp_path):
    heights = []
    for keys in ({"train_loss"}, {"train_loss", "val_auc"}, {"train_loss", "val_auc", "lr"}):
        history = [{k: v for k, v in epoch.items() if k in keys | {"epoch"}} for epoch in HISTORY]
        training_curves(history, tmp_path / "curves.png")
        heights.append(pixels(tmp_path / "curves.png").shape[0])
    assert heights == sorted(set(heights))  # each group of figures adds a row of its own
    training_curves(HISTORY, tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape[0] == heights[-1]


def test_training_curves_leave_out_what_is_not_finite_or_late(tmp_path):
    kept = {"epoch": 1, "train_loss": 1.0}
    drawn = []
    for history in ([kept], [{"epoch": 0, "train_loss": float("nan")}, kept, {"epoch": 2}]):
        training_curves(history, tmp_path / "curves.png")
        drawn.append(pixels(tmp_path / "curves.png"))
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("history", [[], [{"epoch": 0}], [{"epoch": 0, "train_loss": float("nan")}]])
def test_training_curves_without_anything_to_draw_are_refused(history, tmp_path):
    with pytest.raises(ValueError, match="history"):
        training_curves(history, tmp_path / "curves.png")


def test_names_without_a_font_are_one_message(tmp_path, caplog, recwarn):
    p = np.random.default_rng(0).dirichlet(np.ones(2), 50)
    card = scorecard(p.argmax(1), p, None, ["Nävus", "\U00013000"], draws=10)
    confusion_picture(card, tmp_path / "confusion.png")
    assert caplog.text.count("Install one") == 1
    assert not recwarn.list
