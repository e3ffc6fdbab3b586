"""FRL, feature reconstruction learning: hide features, reconstruct them, and diagnose again from what was completed.

That features are reconstructed in training so that the network finds more evidence, looks in the right place and is
more certain is the paper's; the design is this project's. Nothing of this file is in the exported network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agfnet.models.blocks import attend, feed_forward
from agfnet.models.encoders import STRIDES
from agfnet.models.local_fusion import position_code
from agfnet.models.network import Output
from agfnet.models.shapes import Presence, Pyramid

RATIOS = tuple(STRIDES[-1] // stride for stride in STRIDES)
"""Sides of a position of the coarsest map, in positions of each map."""
Policy = Literal["part", "top", "random", "bottom"]


def class_evidence(evidence: Tensor, label: Tensor, grid: tuple[int, int]) -> Tensor:
    """Evidence (B, h, w) for each case's class over the mean of the classes, on a grid, without gradient.

    An unknown label takes the strongest class.

    Args:
        evidence: (B, K, H, W), see `Output.evidence`.
        label: (B,), negative where it is not known.
        grid: h and w, not finer than the evidence.
    """
    likely = torch.where(label >= 0, label, evidence.mean((2, 3)).argmax(1))
    own = evidence.detach().gather(1, likely[:, None, None, None].expand(-1, 1, *evidence.shape[2:]))
    return F.adaptive_avg_pool2d(own - evidence.detach().mean(1, keepdim=True), grid)[:, 0]


def choose_hidden(evidence: Tensor, fraction: float, policy: Policy) -> Tensor:
    """The positions to hide, (B, H, W) bool: the same number in each case, at least one, and never all of several.

    Args:
        evidence: (B, H, W).
        fraction: share of the positions.
        policy: "part" hides any half of the twice as many with the most evidence, so that the other half must carry the
            class; "top" those with the most evidence, "bottom" the least, "random" any.
    """
    flat = evidence.flatten(1)
    count = max(1, min(round(fraction * flat.shape[1]), flat.shape[1] - 1))
    chance = torch.rand_like(flat)
    if policy == "part":
        region = torch.zeros_like(flat).scatter_(1, flat.topk(min(2 * count, flat.shape[1]), dim=1).indices, 1.0)
        score = region + chance
    else:
        score = {"top": flat, "bottom": -flat, "random": chance}[policy]
    hidden = torch.zeros_like(flat, dtype=torch.bool)
    hidden.scatter_(1, score.topk(count, dim=1).indices, True)
    return hidden.view(evidence.shape)


def at_scales(hidden: Tensor, maps: Pyramid) -> list[Tensor]:
    """Positions of the coarsest map, (B, h, w), as positions (B, 1, H, W) of each of its maps."""
    finer = [hidden[:, None].repeat_interleave(ratio, 2).repeat_interleave(ratio, 3) for ratio in RATIOS]
    return [_fitted(f, m) for f, m in zip(finer, maps, strict=True)]


def _fitted(grid: Tensor, like: Tensor) -> Tensor:
    """A grid (..., h, w) cut to the sides of a map, or continued by its last row or column where it is smaller.

    Some encoders round the sides of a map up where its stride does not divide them, others down.
    """
    if grid.shape[-2:] == like.shape[-2:]:
        return grid
    rows, columns = (
        torch.arange(wanted, device=grid.device).clamp(max=side - 1)
        for wanted, side in zip(like.shape[-2:], grid.shape[-2:], strict=True)
    )
    return grid[..., rows[:, None], columns]


class Completed(NamedTuple):
    """What the reconstruction gives.

    Attributes:
        pyramids: the maps with the hidden positions replaced by what was reconstructed; no gradient goes back through
            these, so that the decoder learns from its own loss alone.
        loss: 1 - cosine similarity at the hidden positions of present views, mean over scales and views.
        neighbours: the same if the mean of the visible cells around each hidden one stood there: what it began with.
    """

    pyramids: list[Pyramid]
    loss: Tensor
    neighbours: Tensor


class FeatureReconstruction(nn.Module):
    """Light decoder: one attention block over the visible coarsest positions of all views.

    Each hidden cell of the coarsest map is written anew at every scale, as many finer positions as it covers, so that
    finer maps cannot give away what is hidden. What is written begins, untrained, as the mean of the visible cells
    around it, and is as long as visible features are: cosine similarity says nothing of length.

    Args:
        channels: modality -> channels of its maps, finest first.
        width: decoder width.
        heads: attention heads.
    """

    def __init__(self, channels: Mapping[str, Sequence[int]], *, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.channels = {m: tuple(cs) for m, cs in channels.items()}
        self.enter = nn.ModuleDict({m: nn.Conv2d(cs[-1], width, 1) for m, cs in channels.items()})
        self.hidden_token = nn.Parameter(torch.randn(width) * 0.02)
        self.view_code = nn.Parameter(torch.randn(len(channels), width) * 0.02)
        self.around = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feed = feed_forward(width, 2)
        self.change = nn.ModuleDict(
            {
                m: nn.Conv2d(width, sum(c * r * r for c, r in zip(cs, RATIOS, strict=True)), 1)
                for m, cs in channels.items()
            }
        )
        for parameter in self.change.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pyramids: Sequence[Pyramid], hidden: Sequence[Tensor], present: Presence) -> Completed:
        """Reconstruct.

        Args:
            pyramids: per view its maps, finest first.
            hidden: per view (B, h, w) bool over its coarsest map.
            present: (B, M).
        """
        tokens = []
        for i, (enter, maps, mask) in enumerate(zip(self.enter.values(), pyramids, hidden, strict=True)):
            # Without gradient: encoders that are to make each position predictable from the others lose their focus.
            x = torch.where(mask[:, None], self.hidden_token[:, None, None], enter(maps[-1].detach()))
            x = (x + self.around(x)).flatten(2).transpose(1, 2)
            tokens.append(x + position_code(*mask.shape[1:], x.shape[2]).to(x) + self.view_code[i])
        visible = torch.cat([~m.flatten(1) & present[:, i : i + 1] for i, m in enumerate(hidden)], dim=1)
        decoded = self._decode(torch.cat(tokens, dim=1), visible).split([t.shape[1] for t in tokens], dim=1)
        near = neighbours(pyramids, hidden)
        written, completed = [], []
        for cells, modality, maps, around, where in zip(decoded, self.change, pyramids, near, hidden, strict=True):
            masks = at_scales(where, maps)
            changes = self._changes(modality, cells.transpose(1, 2).unflatten(2, where.shape[1:]), maps)
            own = [
                _as_long(mean + change, m, ~mask)
                for mean, change, m, mask in zip(around, changes, maps, masks, strict=True)
            ]
            written.append(own)
            completed.append(
                [torch.where(mask, w.detach().to(m.dtype), m) for mask, w, m in zip(masks, own, maps, strict=True)]
            )
        losses = [hidden_losses(own, pyramids, hidden, present) for own in (written, near)]
        return Completed(completed, *losses)

    def _decode(self, tokens: Tensor, visible: Tensor) -> Tensor:
        query, key, value = self.project(self.norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.merge(attend(query, key, value, self.heads, visible[:, None, None]))
        return tokens + self.feed(tokens)

    def _changes(self, modality: str, grid: Tensor, maps: Pyramid) -> Pyramid:
        """Decoded cells (B, D, h, w) as what is added to the features around them, at every scale."""
        channels = self.channels[modality]
        pieces = self.change[modality](grid).split([c * r * r for c, r in zip(channels, RATIOS, strict=True)], dim=1)
        return [_fitted(F.pixel_shuffle(p, r), m).float() for p, r, m in zip(pieces, RATIOS, maps, strict=True)]


def _as_long(written: Tensor, features: Tensor, visible: Tensor) -> Tensor:
    """Features (B, C, H, W) in their own direction, each as long as its map's visible ones are in the mean."""
    length = features.detach().float().norm(dim=1, keepdim=True)
    mean = (length * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True).clamp(min=1)
    return F.normalize(written, dim=1, eps=1e-4) * mean


def blank(pyramids: Sequence[Pyramid], hidden: Sequence[Tensor]) -> list[Pyramid]:
    """The maps with each hidden position replaced by the mean of its map's visible ones: hiding, no reconstruction.

    Args:
        pyramids: per view its maps, finest first.
        hidden: per view (B, h, w) bool over its coarsest map.
    """
    blanked = []
    for maps, cells in zip(pyramids, hidden, strict=True):
        masks = at_scales(cells, maps)
        means = [
            (m * ~k).sum((2, 3), keepdim=True) / (~k).sum((2, 3), keepdim=True).clamp(min=1)
            for m, k in zip(maps, masks, strict=True)
        ]
        blanked.append([torch.where(k, mean, m) for m, k, mean in zip(maps, masks, means, strict=True)])
    return blanked


@torch.no_grad()
def neighbours(pyramids: Sequence[Pyramid], hidden: Sequence[Tensor]) -> list[Pyramid]:
    """At each hidden cell the mean of the visible ones around it, in float32.

    A cell with no visible one of the eight around it is the mean of its map's visible positions.

    Args:
        pyramids: per view its maps, finest first.
        hidden: per view (B, h, w) bool over its coarsest map.
    """
    means = []
    for maps, cells, rest in zip(pyramids, hidden, blank(pyramids, hidden), strict=True):
        seen = (~cells)[:, None].float()
        around = F.avg_pool2d(seen, 3, stride=1, padding=1)
        view = []
        for m, ratio, mean in zip(maps, RATIOS, rest, strict=True):
            # Cell by cell: windows that overlap would tell a visible cell what is hidden beside it.
            whole = F.avg_pool2d(
                _fitted(m.float(), seen.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)), ratio
            )
            near = F.avg_pool2d(whole * seen, 3, stride=1, padding=1) / around.clamp(min=1e-6)
            known, near = (
                _fitted(own.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3), m) for own in (around > 0, near)
            )
            view.append(torch.where(known, near, mean.float()))
        means.append(view)
    return means


def hidden_losses(
    written: Sequence[Pyramid], pyramids: Sequence[Pyramid], hidden: Sequence[Tensor], present: Presence
) -> Tensor:
    """`Completed.loss` of what is written into hidden positions.

    Args:
        written: per view its maps, finest first; only hidden positions count.
        pyramids: the maps as they are.
        hidden: per view (B, h, w) bool over its coarsest map.
        present: (B, M).
    """
    losses = [
        _hidden_loss(w, m.detach(), k & present[:, i, None, None, None])
        for i, (view, maps) in enumerate(zip(written, pyramids, strict=True))
        for w, m, k in zip(view, maps, at_scales(hidden[i], maps), strict=True)
    ]
    return torch.stack(losses).mean()


def _hidden_loss(written: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """1 - cosine similarity over the channels, mean over the positions (B, 1, H, W) that were hidden."""
    distance = 1.0 - F.cosine_similarity(written.float(), target.float(), dim=1, eps=1e-4)
    weight = where[:, 0].to(distance.dtype)
    return (distance * weight).sum() / weight.sum().clamp(min=1.0)


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric KL divergence of two (B, K) logits, mean over cases, in nats."""
    p, q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()


def focus_loss(before: Output, after: Output, label: Tensor, present: Presence) -> Tensor:
    """How far the attention maps are from the evidence that stands: KL divergence in nats, mean over maps and views.

    The evidence that stands is the product of the positive parts of a position's evidence for the case's class before
    and after the reconstruction; it gets no gradient. A map without any does not count.

    Args:
        before: the network's output on the original maps; its attention is what is corrected.
        after: its output on the completed maps.
        label: (B,), see `class_evidence`.
        present: (B, M).
    """
    terms = []
    for i, maps in enumerate(before.attention):
        for attention in maps:
            grid = attention.shape[2], attention.shape[3]
            stands = [class_evidence(o.evidence[i], label, grid).float().relu() for o in (before, after)]
            target = (stands[0] * stands[1]).flatten(1)
            total = target.sum(1)
            share = attention.float().flatten(1)
            share = share / share.sum(1, keepdim=True)
            far = F.kl_div(share.clamp(min=1e-12).log(), target / total.clamp(min=1e-9)[:, None], reduction="none").sum(
                1
            )
            weight = ((total > 1e-9) & present[:, i]).float()
            terms.append((far * weight).sum() / weight.sum().clamp(min=1.0))
    return torch.stack(terms).mean() if terms else before.logits.new_zeros(())
