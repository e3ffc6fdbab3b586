"""AGL, attention-guided global learning: one vector for the case from all local evidence.

That global information is fused under guidance of attention is the paper's; the design is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from agfnet.models.blocks import attend, feed_forward
from agfnet.models.local_fusion import LocalFeatures
from agfnet.models.shapes import Pooled, Presence


class GlobalBlock(nn.Module):
    """Pre-norm decoder block: the queries read the context, then a feed-forward part."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.merge = nn.Linear(width, width)
        self.feed = feed_forward(width, ratio)

    def forward(self, queries: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """Queries (B, Q, D), key and value (B, T, D), seen (B, 1, 1, T) -> (B, Q, D)."""
        read = attend(self.query(self.norm(queries)), key, value, self.heads, seen)
        queries = queries + self.merge(read)
        return queries + self.feed(queries)


class GlobalFusion(nn.Module):
    """Attention-guided global learning (AGL).

    A few learned queries attend to every map's descriptor, every map's mean and the coarsest positions of all present
    views. The vector that they give, z, also recalibrates each view's pooled encoder vector, channel by channel.

    Args:
        channels: modality -> channels of its maps, finest first; a pooled encoder vector has as many as the coarsest.
        width: D.
        heads: attention heads.
        queries: number of learned queries Q.
        depth: number of decoder blocks.
        ratio: feed-forward ratio.

    Attributes:
        out_features: length of the vector that `forward` gives: Q * D + channels of all pooled vectors.
    """

    def __init__(
        self,
        channels: Mapping[str, Sequence[int]],
        *,
        width: int = 128,
        heads: int = 4,
        queries: int = 4,
        depth: int = 2,
        ratio: int = 2,
    ) -> None:
        super().__init__()
        maps = sum(map(len, channels.values()))
        self.kinds = nn.Parameter(torch.randn(2 * maps + len(channels), width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.5)
        self.null = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_context = nn.LayerNorm(width)
        self.keys = nn.Linear(width, 2 * depth * width)  # keys and values of all blocks in one product
        self.blocks = nn.ModuleList(GlobalBlock(width, heads, ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(queries * width)
        self.channels = tuple(own[-1] for own in channels.values())
        self.gate = nn.Linear(queries * width, sum(self.channels))
        self.out_features = queries * width + sum(self.channels)

    def forward(self, local: LocalFeatures, pooled: Sequence[Pooled], present: Presence) -> Tensor:
        """The case's feature vector (B, out_features) from ALL's output and each view's pooled vector (B, C_m)."""
        B = present.shape[0]
        views, maps = len(self.channels), local.descriptors.shape[1]
        where = torch.arange(maps, device=present.device) // (maps // views)
        owner = torch.cat([where, where, local.coarsest_view])
        kind = torch.cat([torch.arange(2 * maps, device=present.device), 2 * maps + local.coarsest_view])
        context = torch.cat([local.descriptors, local.averages, local.coarsest], dim=1) + self.kinds[kind]
        context = torch.cat([context, self.null.expand(B, -1, -1).to(context.dtype)], dim=1)
        seen = torch.cat([present.index_select(1, owner), torch.ones_like(present[:, :1])], dim=1)[:, None, None]

        keys = self.keys(self.norm_context(context)).chunk(2 * len(self.blocks), dim=-1)
        queries = self.queries.expand(B, -1, -1)
        for i, block in enumerate(self.blocks):
            queries = block(queries, keys[2 * i], keys[2 * i + 1], seen)
        z = self.norm_out(queries.flatten(1))
        shown = torch.cat([present[:, v : v + 1].expand(-1, c) for v, c in enumerate(self.channels)], dim=1)
        vectors = torch.cat(list(pooled), dim=1) * torch.sigmoid(self.gate(z)) * shown.to(z.dtype)
        return torch.cat([z, vectors], dim=1)
