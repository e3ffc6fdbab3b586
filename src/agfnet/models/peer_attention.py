"""Peers that fuse by attention between the views' positions: bottleneck tokens, and cross-attention.

Both are written from their papers' ideas for two encoders that are given; the papers fuse inside transformers. The
encoders, heads and recipe are those of every other row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from agfnet.models.blocks import attend, feed_forward
from agfnet.models.fusion import Fused, Fusion, shown
from agfnet.models.local_fusion import position_code
from agfnet.models.shapes import Pooled, Presence, Pyramid


class Attention(nn.Module):
    """Pre-norm multi-head attention with a residual, then a feed-forward part with one."""

    def __init__(self, width: int, heads: int, ratio: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.keys = nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.feed = feed_forward(width, ratio)

    def forward(self, tokens: Tensor, context: Tensor, seen: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) read context (B, T, D); `seen` (B, T) is false where there is nothing to read."""
        key, value = self.keys(self.norm(context)).chunk(2, dim=-1)
        mask = None if seen is None else seen[:, None, None]
        tokens = tokens + self.merge(attend(self.query(self.norm(tokens)), key, value, self.heads, mask))
        return tokens + self.feed(tokens)


class _Tokens(nn.Module):
    """The coarsest maps of all views as tokens with position and view codes, and one class token a view."""

    def __init__(self, channels: Mapping[str, Sequence[int]], width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.ModuleDict({m: nn.Conv2d(cs[-1], width, 1) for m, cs in channels.items()})
        self.view_code = nn.Parameter(torch.randn(len(channels), width) * 0.02)
        self.summary = nn.Parameter(torch.randn(len(channels), width) * 0.02)

    def forward(self, pyramids: Sequence[Pyramid]) -> list[Tensor]:
        """Per view (B, 1 + positions, D), its class token first."""
        out = []
        for v, (project, maps) in enumerate(zip(self.project.values(), pyramids, strict=True)):
            x = project(maps[-1])
            code = position_code(x.shape[2], x.shape[3], self.width).to(x)
            tokens = x.flatten(2).transpose(1, 2) + code + self.view_code[v]
            out.append(torch.cat([self.summary[v].expand(x.shape[0], 1, -1), tokens], dim=1))
        return out


class Bottleneck(Fusion):
    """Attention bottlenecks (MBT, 2107.00135): views exchange through a few shared tokens only.

    In each layer a view's tokens attend to themselves and to the bottleneck tokens; the bottleneck tokens are updated
    by every present view and averaged.

    Args:
        channels: modality -> channels of its maps, finest first.
        width: D.
        heads: attention heads.
        depth: layers.
        tokens: bottleneck tokens.
    """

    def __init__(
        self,
        channels: Mapping[str, Sequence[int]],
        *,
        width: int = 128,
        heads: int = 4,
        depth: int = 2,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        self.tokens = _Tokens(channels, width)
        self.bottleneck = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.layers = nn.ModuleList(nn.ModuleDict({m: Attention(width, heads) for m in channels}) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out_features = (len(channels) + 1) * width + sum(cs[-1] for cs in channels.values())

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """See `Fusion`."""
        views = self.tokens(pyramids)
        shared = self.bottleneck.expand(present.shape[0], -1, -1)
        share = present.to(shared.dtype)
        share = share / share.sum(1, keepdim=True).clamp(min=1.0)
        count = shared.shape[1]
        for layer in self.layers:
            read = []
            for v, attention in enumerate(layer.values()):  # type: ignore[operator]
                joint = torch.cat([shared, views[v]], dim=1)
                joint = attention(joint, joint)
                read.append(joint[:, :count] * share[:, v, None, None])
                views[v] = joint[:, count:]
            shared = torch.stack(read).sum(0)
        summaries = [self.norm(x[:, 0]) for x in views]
        return Fused(torch.cat([self.norm(shared.mean(1)), *shown([*summaries, *pooled], present)], dim=1), [], [])


class CrossAttention(Fusion):
    """Plain cross-attention (after CrossViT, 2103.14899): each view's class token reads the other views' positions.

    Args:
        channels: modality -> channels of its maps, finest first.
        width: D.
        heads: attention heads.
        depth: layers of self-attention followed by cross-attention.
    """

    def __init__(
        self, channels: Mapping[str, Sequence[int]], *, width: int = 128, heads: int = 4, depth: int = 2
    ) -> None:
        super().__init__()
        self.tokens = _Tokens(channels, width)
        self.null = nn.Parameter(torch.zeros(1, 1, width))
        self.within = nn.ModuleList(nn.ModuleDict({m: Attention(width, heads) for m in channels}) for _ in range(depth))
        self.between = nn.ModuleList(
            nn.ModuleDict({m: Attention(width, heads) for m in channels}) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out_features = len(channels) * width + sum(cs[-1] for cs in channels.values())

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:
        """See `Fusion`."""
        views = self.tokens(pyramids)
        null = self.null.expand(present.shape[0], -1, -1)
        for within, between in zip(self.within, self.between, strict=True):
            views = [attention(x, x) for attention, x in zip(within.values(), views, strict=True)]  # type: ignore[operator]
            summaries = []
            for v, attention in enumerate(between.values()):  # type: ignore[operator]
                others = [w for w in range(len(views)) if w != v]
                context = torch.cat([null, *(views[w][:, 1:] for w in others)], dim=1)
                seen = [torch.ones_like(present[:, :1])]
                seen += [present[:, w : w + 1].expand(-1, views[w].shape[1] - 1) for w in others]
                summaries.append(attention(views[v][:, :1], context, torch.cat(seen, dim=1)))
            views = [torch.cat([s, x[:, 1:]], dim=1) for s, x in zip(summaries, views, strict=True)]
        own = [self.norm(x[:, 0]) for x in views]
        return Fused(torch.cat(shown([*own, *pooled], present), dim=1), [], [])
