from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from broken import picture
from dicom_files import content_of, dicom

from agfnet.data.dataset import UNKNOWN, CaseDataset, FrameCache, warm
from agfnet.data.preprocess import ViewSpec
from agfnet.data.table import read_cases
from agfnet.types import ImageError

SPECS = {"clinical": ViewSpec("photo", (64, 96)), "ultrasound": ViewSpec("ultrasound", (64, 64))}


def dataset(drawn, folder, **options):
    cases = read_cases(drawn / "parts.csv", extra_labels=["border"])
    classes = ("cyst", "lipoma", "naevus")
    return CaseDataset(
        cases=cases, specs=SPECS, classes=classes, extra_classes={"border": ("sharp", "soft")},
        cache=FrameCache(folder), **options,
    )  # fmt: skip


def same(first, second) -> bool:
    return all(torch.equal(first.images[m], second.images[m]) for m in SPECS) and torch.equal(
        first.present, second.present
    )


def test_draws_depend_on_seed_epoch_and_case_alone(drawn, tmp_path):
    data = dataset(drawn, tmp_path, training=True, modality_dropout=0.5, seed=1)
    batch = data.collate([data[3, 0], data[3, 1]])
    assert same(batch, data.collate([data[3, 0], data[3, 1]]))
    alone = data.collate([data[3, 1]])
    assert torch.allclose(batch.images["clinical"][1], alone.images["clinical"][0], atol=1e-5)
    assert not same(batch, data.collate([data[4, 0], data[4, 1]]))
    other = dataset(drawn, tmp_path, training=True, modality_dropout=0.5, seed=2)
    assert not same(batch, other.collate([other[3, 0], other[3, 1]]))


def test_modality_dropout_never_takes_every_view(drawn, tmp_path):
    data = dataset(drawn, tmp_path, training=True, modality_dropout=0.8)
    present = np.array([data[epoch, i].present for epoch in range(20) for i in range(10)])
    assert present.any(1).all()
    assert not present.all(0).any()


def test_absent_views_are_zero_and_evaluation_is_deterministic(drawn, tmp_path):
    data = dataset(drawn, tmp_path)
    missing = next(i for i, c in enumerate(data.cases) if not c.views["ultrasound"])
    batch = data.collate([data[0, missing], data[0, 0]])
    assert batch.present.tolist() == [[True, False], [True, True]]
    assert (batch.images["ultrasound"][0] == 0).all()
    assert same(batch, data.collate([data[9, missing], data[9, 0]]))


def test_labels(drawn, tmp_path):
    data = dataset(drawn, tmp_path)
    batch = data.collate([data[0, i] for i in range(6)])
    assert batch.label.tolist() == [data.classes.index(c.label) for c in data.cases[:6]]
    assert batch.extra.shape == (6, 1)
    unlabelled = dataset(drawn, tmp_path)
    object.__setattr__(unlabelled, "classes", ("cyst",))
    assert UNKNOWN in [unlabelled[0, i].label for i in range(6)]


def test_processes_that_decode_together_begin_apart(drawn, tmp_path):
    data = dataset(drawn, tmp_path / "cache")
    seen = []
    ensure = data.cache.ensure
    data.cache.ensure = lambda path, *rest: (seen.append(path), ensure(path, *rest))[1]
    warm(data, lambda *_: None, skip_bad=False, share=(1, 2))
    middle = data.cases[len(data.cases) // 2]
    assert seen[0] in [path for paths in middle.views.values() for path in paths]
    assert set(seen) == {path for case in data.cases for paths in case.views.values() for path in paths}


def test_an_unreadable_image_names_its_row_or_is_listed(drawn, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    data = dataset(drawn, tmp_path / "cache")
    cases = [*data.cases[:2]]
    cases[1] = type(cases[1])(case_id="x", patient_id="x", row=17, views={"clinical": (broken,), "ultrasound": ()})
    object.__setattr__(data, "cases", cases)
    with pytest.raises(ImageError, match=r"row 17, case x: .*broken\.jpg"):
        warm(data, lambda *_: None, skip_bad=False)
    gone = r"row 17, case x: .*gone\.jpg: there is no such file. Correct the path, .* Or leave such cases out"
    object.__setattr__(data, "cases", [replace(cases[1], views={"clinical": (tmp_path / "gone.jpg",)})])
    with pytest.raises(ImageError, match=gone):
        warm(data, lambda *_: None, skip_bad=False)
    object.__setattr__(data, "cases", cases)
    assert [c.case_id for c, _ in warm(data, lambda *_: None, skip_bad=True)] == ["x"]


@pytest.mark.parametrize("cached", [False, True])
def test_a_case_of_two_patients_is_told_before_training(drawn, tmp_path, cached):
    """As prediction would refuse it; also where another case, or an earlier table, has brought its frames already."""
    files = []
    for view, patient, pixels in (("clinical", "P1", picture(1)), ("ultrasound", "P2", picture(2))):
        files.append(tmp_path / f"{view}.dcm")
        modality = "US" if view == "ultrasound" else "XC"
        files[-1].write_bytes(content_of(dicom(np.asarray(pixels), modality=modality, PatientID=patient)))
    data = dataset(drawn, tmp_path / "cache")
    two = replace(data.cases[0], case_id="x", row=17, views={"clinical": files[:1], "ultrasound": files[1:]})
    if cached:
        each = [replace(two, views={view: own}) for view, own in two.views.items()]
        object.__setattr__(data, "cases", each)
        assert warm(data, lambda *_: None, skip_bad=False) == []
    object.__setattr__(data, "cases", [data.cases[0], two])
    with pytest.raises(ImageError, match=r"row 17, case x: ultrasound: this DICOM image is of another patient"):
        warm(data, lambda *_: None, skip_bad=False)


@pytest.mark.parametrize("training", [True, False])
def test_each_view_is_read_at_its_own_scale(drawn, tmp_path, training):
    data = dataset(drawn, tmp_path, training=training)
    object.__setattr__(data, "cases", [replace(data.cases[0], mm_per_pixel={"ultrasound": 0.08})])
    asked, get = [], data.cache.get
    data.cache.get = lambda path, spec, mm, enlarge: (asked.append((spec.kind, mm)), get(path, spec, mm, enlarge))[1]
    assert data[0, 0].present == [True, True]
    assert asked == [("photo", None), ("ultrasound", 0.08)]


def test_without_augmentation_training_sees_what_prediction_sees(drawn, tmp_path):
    """But for the larger frame that it is taken from: the same pixels, normalised alike."""
    seen = []
    for training in (True, False):
        data = dataset(drawn, tmp_path, training=training, strength=0.0)
        specs = {m: replace(spec, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)) for m, spec in SPECS.items()}
        object.__setattr__(data, "specs", specs)
        seen.append(data.collate([data[0, i] for i in range(4)]).images["clinical"])
    assert (seen[0] - seen[1]).abs().mean() < 0.15 < seen[1].std()


def test_no_two_cases_share_their_draws(drawn, tmp_path):
    data = dataset(drawn, tmp_path, training=True)
    first, second = (data[3, i].draws["clinical"].affine for i in (0, 1))
    assert not np.array_equal(first, second)
