"""Every kind of image is known wherever kinds matter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agfnet.serving
from agfnet.config import parse_config
from agfnet.data.augment import RECIPES
from agfnet.evaluation.corruptions import CORRUPTIONS
from agfnet.kinds import KINDS
from agfnet.types import ConfigError


def test_each_has_a_recipe_corruptions_and_a_name_on_the_page():
    assert set(RECIPES) == set(CORRUPTIONS) == set(KINDS)
    page = Path(agfnet.serving.__path__[0]) / "page"
    (names,) = re.findall(
        r"^const KIND_NAMES = \{(.*)\};$", (page / "zone.js").read_text(encoding="utf-8"), re.MULTILINE
    )
    words = dict(re.findall(r"(\w+): '(\w+)'", names))
    assert set(words) == set(KINDS)
    icons = (page / "dom.js").read_text(encoding="utf-8")
    assert all(re.search(rf"^  {kind}: '", icons, re.MULTILINE) for kind in KINDS)
    texts = (page / "i18n.js").read_text(encoding="utf-8")
    assert all(len(re.findall(rf"^  {word}: '", texts, re.MULTILINE)) == 2 for word in words.values())


def test_what_shows_depth_is_never_augmented_upside_down():
    for name, kind in KINDS.items():
        assert not kind.depth or (RECIPES[name].flip_y == 0.0 and RECIPES[name].rotation < 45.0)


def test_no_two_have_a_column_or_a_modality_in_common():
    assert len({kind.view for kind in KINDS.values()}) == len(KINDS)
    modalities = [modality for kind in KINDS.values() for modality in kind.dicom]
    assert len(set(modalities)) == len(modalities)


def test_a_cameras_image_may_be_dermoscopic_and_a_scan_is_a_scan():
    photo, scan, dermoscopic = KINDS["photo"], KINDS["ultrasound"], KINDS["dermoscopy"]
    assert photo.may_be(dermoscopic)
    assert scan.may_be(scan)
    assert not scan.may_be(photo)
    assert not dermoscopic.may_be(scan)


def test_an_unknown_kind_is_refused_with_those_that_there_are():
    tree = {"data": {"table": "cases.csv", "views": {"oct": {"kind": "oct"}}}}
    with pytest.raises(ConfigError, match=r"data\.views\.oct\.kind.*photo, dermoscopy, ultrasound"):
        parse_config(tree, "test")
