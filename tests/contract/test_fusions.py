from __future__ import annotations

from typing import ClassVar

from fusion_contract import FusionContract

from agfnet.models.peers import FUSIONS


class TestAttentionGuidedFusion(FusionContract):
    fusion = "agf"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestConcatenation(FusionContract):
    fusion = "concatenation"


class TestGating(FusionContract):
    fusion = "gating"


class TestMultimodalTransfer(FusionContract):
    fusion = "mmtm"


class TestBottleneck(FusionContract):
    fusion = "bottleneck"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestCrossAttention(FusionContract):
    fusion = "cross_attention"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestWithoutLocal(FusionContract):
    fusion = "agf_without_local"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestWithoutGlobal(FusionContract):
    fusion = "agf_without_global"
    options: ClassVar[dict[str, object]] = {"width": 32}


def test_every_fusion_has_its_contract():
    tested = {c.fusion for c in FusionContract.__subclasses__()}
    assert tested == set(FUSIONS)
