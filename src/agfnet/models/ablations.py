"""AGFnet without one of its parts, to see what the part is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from agfnet.models.fusion import Fused, Fusion, shown
from agfnet.models.global_fusion import GlobalFusion
from agfnet.models.local_fusion import LocalFeatures, LocalFusion
from agfnet.models.shapes import Pooled, Presence, Pyramid


class WithoutLocal(Fusion):
    """AGL alone: it reads the encoders' maps, projected to one width, without correlations and attention maps.

    Args:
        channels: modality -> channels of its maps, finest first.
        width, heads, queries: see `GlobalFusion`.
        global_depth: its depth.
    """

    def __init__(
        self,
        channels: Mapping[str, Sequence[int]],
        *,
        width: int = 128,
        heads: int = 4,
        queries: int = 4,
        global_depth: int = 2,
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict(
            {m: nn.ModuleList(nn.Conv2d(c, width, 1) for c in cs) for m, cs in channels.items()}
        )
        self.norm = nn.LayerNorm(width)
        self.global_fusion = GlobalFusion(channels, width=width, heads=heads, queries=queries, depth=global_depth)
        self.out_features = self.global_fusion.out_features

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """See `Fusion`; a map's mean stands for its descriptor too."""
        means, coarsest, owner = [], [], []
        for v, (lateral, maps) in enumerate(zip(self.lateral.values(), pyramids, strict=True)):
            tokens = [
                self.norm(conv(x).flatten(2).transpose(1, 2))
                for conv, x in zip(lateral, maps, strict=True)  # type: ignore[call-overload]
            ]
            means += [x.mean(1) for x in tokens]
            coarsest.append(tokens[-1])
            owner.append(torch.full((tokens[-1].shape[1],), v, device=present.device))
        averages = torch.stack(means, dim=1)
        local = LocalFeatures(averages, averages, torch.cat(coarsest, dim=1), [], [], torch.cat(owner))
        return Fused(self.global_fusion(local, pooled, present), [], [])


class WithoutGlobal(Fusion):
    """ALL alone: its descriptors and the pooled encoder vectors side by side.

    Args:
        channels: modality -> channels of its maps, finest first.
        width, heads: see `LocalFusion`.
        local_depth: its depth.
    """

    def __init__(
        self, channels: Mapping[str, Sequence[int]], *, width: int = 128, heads: int = 4, local_depth: int = 1
    ) -> None:
        super().__init__()
        self.local_fusion = LocalFusion(channels, width=width, heads=heads, depth=local_depth)
        self.out_features = sum(len(cs) * width + cs[-1] for cs in channels.values())
        self.local_features = width

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """See `Fusion`."""
        local = self.local_fusion(pyramids, present)
        own = local.descriptors.unflatten(1, (present.shape[1], -1)).flatten(2).unbind(1)
        return Fused(torch.cat(shown([*own, *pooled], present), dim=1), local.attention, local.local)
