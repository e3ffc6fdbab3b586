"""The signature that every fusion module has, and AGFnet's own: ALL, then AGL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from agfnet.models.global_fusion import GlobalFusion
from agfnet.models.local_fusion import LocalFusion, LocalPositions
from agfnet.models.shapes import AttentionMap, Pooled, Presence, Pyramid


class Fused(NamedTuple):
    """What a fusion module gives.

    Attributes:
        features: (B, out_features), read by the heads.
        attention: per view, per scale, (B, 1, H, W) in (0, 1); empty for a method without attention maps.
        local: per view the positions that a local head reads; empty for a method without them.
    """

    features: Tensor
    attention: list[list[AttentionMap]]
    local: list[LocalPositions]


class Fusion(nn.Module, ABC):
    """A fusion module: the pyramids and pooled encoder vectors of all views to one feature vector."""

    out_features: int
    local_features: int = 0
    """Width of the features in `Fused.local`; 0 for a method without them, which has no attention maps either."""

    @abstractmethod
    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """Maps (B, C_s, H_s, W_s) and vectors (B, C_m) per view, presence (B, M).

        Absent rows hold zeros in training, anything finite in evaluation: leave them out by `present`.
        """


class AttentionGuidedFusion(Fusion):
    """AL: attention-guided local (ALL), then global (AGL) learning.

    Args:
        channels: modality -> channels of its maps, finest first.
        width: fusion width D.
        heads: attention heads.
        local_depth, global_depth: blocks of ALL and of AGL.
        queries: learned queries of AGL.
    """

    def __init__(
        self,
        channels: Mapping[str, Sequence[int]],
        *,
        width: int = 128,
        heads: int = 4,
        local_depth: int = 1,
        global_depth: int = 2,
        queries: int = 4,
    ) -> None:
        super().__init__()
        self.local_fusion = LocalFusion(channels, width=width, heads=heads, depth=local_depth)
        self.global_fusion = GlobalFusion(channels, width=width, heads=heads, queries=queries, depth=global_depth)
        self.out_features = self.global_fusion.out_features
        self.local_features = width

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """See `Fusion`."""
        local = self.local_fusion(pyramids, present)
        return Fused(self.global_fusion(local, pooled, present), local.attention, local.local)


def shown(vectors: Sequence[Tensor], present: Presence) -> list[Tensor]:
    """One or more rounds of a vector (B, C) per view, zero where the view is absent."""
    views = present.shape[1]
    return [x * present[:, i % views, None].to(x.dtype) for i, x in enumerate(vectors)]
