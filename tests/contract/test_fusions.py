from __future__ import annotations

from fusion_contract import FusionContract


class TestAttentionGuidedFusion(FusionContract):
    fusion = "agf"
    options = {"width": 32}


class TestConcatenation(FusionContract):
    fusion = "concatenation"
