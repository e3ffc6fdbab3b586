from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from dicom_files import dicom, region, save, smooth, with_regions
from onnx import numpy_helper
from PIL import Image

from agfnet.data.preprocess import ViewSpec
from agfnet.data.table import read_cases
from agfnet.evaluation.focus import (
    centre_prior,
    class_evidence,
    energy_inside,
    focus_figures,
    focus_of,
    mask_files,
    mask_on_grid,
    randomised,
)
from agfnet.prediction.predictor import Predictor
from agfnet.types import ImageError, Prediction, TableError


def test_energy():
    inside = np.array([[1.0, 0.0], [0.5, 0.0]])
    assert energy_inside(np.array([[2.0, 1.0], [1.0, 0.0]]), inside) == pytest.approx(2.5 / 4)
    assert energy_inside(np.zeros((2, 2)), inside) == pytest.approx(0.375)  # points nowhere: the area


def test_a_mask_goes_where_its_image_goes(tmp_path):
    """A photo of 2:1 in a square frame: padding above and below is no evidence; a grid cell holds the share of it."""
    mask = np.zeros((50, 100), np.uint8)
    mask[:, 50:] = 128
    files = tmp_path / "m.png", tmp_path / "photo.png"
    for file in files:
        Image.fromarray(mask).save(file)
    share = mask_on_grid(*files, ViewSpec("photo", (64, 64), mean=(0.9, 0.9, 0.9)), (4, 4))
    assert share == pytest.approx(np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]), abs=0.05)
    halved = mask_on_grid(*files, ViewSpec("photo", (64, 64)), (1, 1))
    assert halved[0, 0] == pytest.approx(0.25, abs=0.01)
    # Of a frame of 72 rows the fifth cell shows 8, all of which count: it reaches beyond the frame.
    tall = mask_on_grid(*files, ViewSpec("photo", (72, 64)), (5, 4))
    assert tall[:, 3] == pytest.approx([0.0, 0.75, 1.0, 0.25, 0.0], abs=0.05)
    Image.fromarray(np.full((72, 64), 255, np.uint8)).save(files[0])
    Image.fromarray(np.full((72, 64), 9, np.uint8)).save(files[1])
    assert mask_on_grid(*files, ViewSpec("photo", (72, 64)), (5, 4)).min() == 1.0
    Image.fromarray(mask).save(files[1])
    Image.new("L", (100, 50)).save(files[0])
    assert mask_on_grid(*files, ViewSpec("photo", (64, 64)), (1, 1)).max() == 0.0  # no evidence is no fault
    Image.new("L", (50, 25)).save(files[0])
    with pytest.raises(ImageError, match=r"the mask has 50 x 25 pixels, and what is shown of .* 100 x 50"):
        mask_on_grid(*files, ViewSpec("photo", (64, 64)), (1, 1))


def test_a_mask_that_is_evidence_everywhere_is_told(tmp_path, caplog):
    """As one that was drawn on a transparent layer is."""
    layer = np.zeros((40, 40, 4), np.uint8)
    layer[10:20, 10:20] = (255, 255, 255, 255)
    Image.fromarray(layer).save(tmp_path / "m.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    mask_on_grid(tmp_path / "m.png", tmp_path / "photo.png", ViewSpec("photo", (64, 64)), (4, 4))
    assert "m.png: is evidence everywhere" in caplog.text


@pytest.mark.parametrize(("rows", "said"), [(["a,1.png", "a,2.png"], "names case a twice"), (["a,1.png,x"], "row 2")])
def test_a_table_of_masks_with_faults_is_refused(tmp_path, rows, said):
    (tmp_path / "masks.csv").write_text("\n".join(["case_id,clinical_mask", *rows]) + "\n")
    with pytest.raises(TableError, match=said):
        mask_files(tmp_path / "masks.csv", ["clinical"])


def test_a_mask_of_a_calibrated_dicom_scan_has_its_scale(tmp_path):
    """The file's own scale enlarges the scan twice; of the middle that the frame shows, the right half is evidence."""
    scan = save(
        tmp_path / "scan.dcm", with_regions(dicom(smooth(1, 64, 64), modality="US"), region((0, 0, 63, 63), delta=0.02))
    )
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    share = mask_on_grid(tmp_path / "m.png", scan, ViewSpec("ultrasound", (64, 64), mm_per_pixel=0.1), (2, 4))
    assert share == pytest.approx(np.array([[0, 0, 1, 1]] * 2), abs=0.05)


def test_class_evidence_is_relative_to_the_other_classes():
    evidence = np.array([[[3.0, 0.0]], [[1.0, 2.0]]], np.float32)
    made = Prediction(
        case_id="1",
        probabilities=np.array([0.7, 0.3]),
        view_probabilities={},
        view_weights={},
        views_present=("clinical",),
        evidence={"clinical": evidence},
    )
    assert class_evidence(made, "clinical").tolist() == [[1.0, 0.0]]


def test_the_centre_prior_is_brightest_in_the_middle():
    prior = centre_prior((5, 9))
    assert prior.argmax() == 2 * 9 + 4
    assert prior == pytest.approx(prior[::-1, ::-1])


def test_randomised_weights_keep_their_values_but_not_what_they_say(trained, drawn):
    bundle = Predictor(trained, threads=1).bundle
    mixed = randomised(bundle, seed=0)
    assert randomised(bundle, seed=0).graph == mixed.graph
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(b.graph).graph.initializer}
        for b in (bundle, mixed)
    )
    assert before.keys() == after.keys()
    assert all(np.array_equal(np.sort(before[name], None), np.sort(after[name], None)) for name in before)
    same = [values for name, values in before.items() if values.ndim == 2 and np.array_equal(values, after[name])]
    assert any(np.allclose(values.sum(1), 1.0) for values in same)  # the mean over a map's positions is still one
    case = read_cases(drawn / "parts.csv")[:1]
    told = [next(Predictor(b, threads=1).predict(case, maps=True)).prediction for b in (bundle, mixed)]
    assert np.isfinite(told[1].probabilities).all()
    assert not np.allclose(told[0].evidence["clinical"], told[1].evidence["clinical"])


def test_figures_leave_out_cases_without_a_mask():
    found = {
        "clinical": {
            "attention": [0.6, None, 0.4, 0.5],
            "class_evidence": [0.3, None, 0.3, 0.3],
            "centre": [0.25, None, 0.25, 0.25],
            "usual_place": [0.5, None, 0.5, 0.5],
            "random_attention": [0.1, None, 0.1, 0.1],
            "random_class_evidence": [0.2, None, 0.2, 0.2],
        },
        "ultrasound": {"centre": [None] * 4},
    }
    made = focus_figures(found, list("abcd"), draws=100)
    assert set(made) == {"clinical"}
    assert made["clinical"]["cases"] == 3
    assert made["clinical"]["energy"]["attention"]["value"] == pytest.approx(0.5)
    assert made["clinical"]["times"]["attention / centre"]["value"] == pytest.approx(2.0)
    assert made["clinical"]["times"]["class_evidence / random_class_evidence"]["value"] == pytest.approx(1.5)


def test_the_focus_of_a_network(trained, drawn, masks):
    predictor = Predictor(trained, threads=1)
    cases = read_cases(drawn / "parts.csv")[:12]
    found = focus_of(predictor, cases, mask_files(masks, list(predictor.specs)))
    assert all(len(v) == 12 for maps in found.values() for v in maps.values())
    assert all(v is None for v in found["ultrasound"]["centre"])
    for case, energy in zip(cases, found["clinical"]["attention"], strict=True):
        assert (energy is None) == (not case.views["clinical"])
    first, second = (
        focus_of(predictor, some, mask_files(masks, ["clinical"]))["clinical"] for some in (cases[:1], cases)
    )
    assert first["attention"][0] == second["attention"][0]
    assert first["usual_place"][0] != second["usual_place"][0]  # where the others' lesions lie; of none, anywhere
    blind = replace(cases[0], views={**cases[0].views, "clinical": ()})
    assert focus_of(predictor, [blind], mask_files(masks, ["clinical"]))["clinical"]["centre"] == [None]


def test_the_command(trained, masks, tmp_path, agfnet_command):
    done = agfnet_command(
        "focus", trained, "--masks", masks, "-o", tmp_path / "focus", "--part", "train", "--draws", 100
    )
    assert done.exit_code == 0, done.stderr
    made = json.loads((tmp_path / "focus" / "focus.json").read_text())
    assert set(made["views"]) == {"clinical"}
    assert "usual place" in done.stdout
    no_masks = agfnet_command("focus", trained, "--masks", masks.parent / "no.csv", "-o", tmp_path / "x")
    assert no_masks.exit_code == 1


def test_a_table_without_masks(drawn):
    with pytest.raises(TableError, match="clinical_mask"):
        mask_files(drawn / "parts.csv", ["clinical"])
