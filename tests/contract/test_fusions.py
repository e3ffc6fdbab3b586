from __future__ import annotations

from typing import ClassVar

from fusion_contract import FusionContract


class TestAttentionGuidedFusion(FusionContract):
    fusion = "agf"
    options: ClassVar[dict[str, object]] = {"width": 32}


class TestConcatenation(FusionContract):
    fusion = "concatenation"
