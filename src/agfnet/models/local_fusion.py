"""ALL, attention-guided local learning: correlations within and between the views, over several scales.

The idea (intra- and inter-modality correlations, several scales, focus on local evidence) is the paper's; the
design is this project's. All positions of all maps of all views lie in ONE sequence, grouped into windows, so that
one matrix product serves every view and scale: many small operators cost more than their arithmetic.

A window is as large as the coarsest map of its view. The coarsest map is thus one window (attention over the whole
map), a finer one is tiled by windows of the same size, and windows of every scale form one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agfnet.models.blocks import attend, feed_forward
from agfnet.models.shapes import AttentionMap, Presence, Pyramid, Tokens

Shape = tuple[int, int]
KEY_GRID = 7
PATCH = 2
"""All maps but the coarsest enter at half their resolution: stride 8 at stride 16, stride 16 at stride 32."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each position of each map lies in the sequence; constants of the map sizes.

    Attributes:
        gather: (N,) position of each slot in the maps flattened one after the other (views, then scales).
        scatter: (positions,) slot of each flattened position.
        filled: (n_windows, w) false for slots that only pad a window.
        padded: whether there are any.
        view, scale: (N,) modality and scale of each slot.
        codes: (N, D) 2-D sine-cosine position code.
        segments: (M * S, N) one row per map: 1 / positions where the slot belongs to it, else 0.
        pool: (keys, N) averages every scale of a view onto a grid of at most 7 x 7: keys of the inter-modality term.
        spans, key_spans: the slots, and the keys, of each view.
        finest: per view (positions of its finest map,) their slots.
        coarsest: (positions of the coarsest maps,) their slots.
        coarsest_view: modality of each of them.
    """

    gather: Tensor
    scatter: Tensor
    filled: Tensor
    padded: bool
    view: Tensor
    scale: Tensor
    codes: Tensor
    segments: Tensor
    pool: Tensor
    spans: tuple[slice, ...]
    key_spans: tuple[slice, ...]
    finest: tuple[Tensor, ...]
    coarsest: Tensor
    coarsest_view: Tensor

    @property
    def windows(self) -> tuple[int, int]:
        """Number of windows and slots in each."""
        return int(self.filled.shape[0]), int(self.filled.shape[1])


def _spans(owner: NDArray[np.int64]) -> tuple[slice, ...]:
    """The stretch of each view in a sequence that is sorted by view."""
    ends = np.searchsorted(owner, np.arange(owner.max() + 2))
    return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # made once, used in training and in validation
def layout(shapes: tuple[tuple[Shape, ...], ...], width: int, device: torch.device) -> Layout:
    """The layout of maps of these (H, W), one inner tuple per view, finest scale first."""
    slots: list[NDArray[np.int64]] = []
    owners: list[tuple[int, int]] = []  # view and scale of each window
    table: list[tuple[int, int, float, float]] = []  # view, scale, y and x in units of the coarsest grid
    for v, view_shapes in enumerate(shapes):
        tile = view_shapes[-1]
        for s, (h, w) in enumerate(view_shapes):
            first = len(table)
            grid = np.full((math.ceil(h / tile[0]) * tile[0], math.ceil(w / tile[1]) * tile[1]), -1, dtype=np.int64)
            grid[:h, :w] = first + np.arange(h * w).reshape(h, w)
            tiles = grid.reshape(grid.shape[0] // tile[0], tile[0], -1, tile[1]).swapaxes(1, 2)
            slots.extend(tiles.reshape(-1, tile[0] * tile[1]))
            owners.extend([(v, s)] * (len(slots) - len(owners)))
            yx = [((i + 0.5) * tile[0] / h, (j + 0.5) * tile[1] / w) for i in range(h) for j in range(w)]
            table.extend((v, s, y, x) for y, x in yx)
    longest = max(len(window) for window in slots)
    windows = np.stack([np.pad(window, (0, longest - len(window)), constant_values=-1) for window in slots])
    order = windows.reshape(-1)
    filled = order >= 0
    places = np.array(table)
    scatter = np.empty(len(table), dtype=np.int64)
    scatter[order[filled]] = np.flatnonzero(filled)
    gather = np.where(filled, order, 0)
    view, scale = np.repeat(np.array(owners), longest, axis=0).T
    scales = len(shapes[0])
    rows = np.arange(len(shapes) * scales)[:, None]
    segments = ((view * scales + scale)[None] == rows) & filled[None]
    pool, key_view = _pooling(shapes, places[gather], filled)
    coarsest = scatter[(places[:, 1] == scales - 1)]
    finest = [scatter[(places[:, 1] == 0) & (places[:, 0] == v)] for v in range(len(shapes))]

    def tensor(array: NDArray[np.generic]) -> Tensor:
        kind = torch.float32 if array.dtype.kind == "f" else None
        return torch.as_tensor(np.ascontiguousarray(array), dtype=kind, device=device)

    return Layout(
        gather=tensor(gather),
        scatter=tensor(scatter),
        filled=tensor(filled.reshape(windows.shape)),
        padded=not filled.all(),
        view=tensor(view),
        scale=tensor(scale),
        codes=tensor(_code(places[gather, 2:], width)),
        segments=tensor(segments / segments.sum(1, keepdims=True)),
        pool=tensor(pool),
        spans=_spans(view),
        key_spans=_spans(key_view),
        finest=tuple(tensor(slots) for slots in finest),
        coarsest=tensor(coarsest),
        coarsest_view=tensor(view[coarsest]),
    )


def _pooling(
    shapes: tuple[tuple[Shape, ...], ...], places: NDArray[np.float64], filled: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The matrix that averages each view's maps onto its key grid, and the view of each key."""
    rows, views = [], []
    for v, view_shapes in enumerate(shapes):
        h, w = view_shapes[-1]
        grid = min(h, KEY_GRID), min(w, KEY_GRID)
        cell = np.floor(places[:, 2:] * np.array(grid) / np.array([h, w])).astype(np.int64)
        for i in range(grid[0]):
            for j in range(grid[1]):
                inside = (places[:, 0] == v) & (cell[:, 0] == i) & (cell[:, 1] == j) & filled
                here = [inside & (places[:, 1] == s) for s in range(len(view_shapes))]
                kept = [one / one.sum() for one in here if one.any()]
                rows.append(sum(kept) / len(kept))
                views.append(v)
    return np.stack(rows), np.array(views)


def _code(yx: NDArray[np.floating], width: int) -> NDArray[np.floating]:
    """2-D sine-cosine code (N, width) of positions in units of the coarsest grid (1706.03762, in both directions)."""
    bands = 2.0 * np.pi / 32.0 * 16.0 ** np.linspace(0.0, 1.0, width // 4)
    angles = yx[:, :, None] * bands
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(yx), -1)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def position_code(height: int, width: int, features: int) -> Tensor:
    """The same code for every position of one map, (height * width, features)."""
    yx = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2) + 0.5
    return torch.as_tensor(_code(yx, features), dtype=torch.float32)


class LocalBlock(nn.Module):
    """Intra- and inter-modality correlation, then a feed-forward part; residual with LayerScale.

    Args:
        width: D.
        heads: attention heads.
        inner: width of each of the two attentions over all heads.
        ratio: hidden width of the feed-forward part over D.
        scale: initial LayerScale (2103.17239).
    """

    def __init__(self, width: int, heads: int, inner: int, ratio: int, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.inner = inner
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * inner)  # query, key, value within the view, and query to the others
        self.keys = nn.Linear(width, 2 * inner)
        self.null = nn.Parameter(torch.zeros(1, 1, 2 * inner))
        self.merge = nn.Linear(2 * inner, width, bias=False)  # without bias: no other view gives exactly zero
        self.scale_attention = nn.Parameter(torch.full((width,), scale))
        self.feed = feed_forward(width, ratio)
        self.scale_feed = nn.Parameter(torch.full((width,), scale))

    def forward(self, tokens: Tokens, place: Layout, present: Presence) -> Tokens:
        """(B, N, D) -> (B, N, D); positions of absent views stay finite and are never looked at by present ones."""
        normed = self.norm(tokens)
        projected = self.project(normed)
        intra = self._within(projected[..., : 3 * self.inner], place)

        keys = self.keys(place.pool.to(normed.dtype) @ normed)
        inter = torch.cat(
            [
                self._between(v, projected[:, slots, 3 * self.inner :], keys, place, present)
                for v, slots in enumerate(place.spans)
            ],
            dim=1,
        )
        tokens = tokens + self.scale_attention * self.merge(torch.cat([intra, inter], dim=-1))
        return tokens + self.scale_feed * self.feed(tokens)

    def _between(self, view: int, query: Tensor, keys: Tensor, place: Layout, present: Presence) -> Tensor:
        """One view's positions look at the other present views: (B, N_v, inner); exactly zero where there is none."""
        others = [v for v in range(present.shape[1]) if v != view]
        if not others:
            return torch.zeros_like(query)
        null = self.null.expand(query.shape[0], -1, -1)
        key, value = torch.cat([*(keys[:, place.key_spans[v]] for v in others), null], dim=1).chunk(2, dim=-1)
        lengths = [place.key_spans[v].stop - place.key_spans[v].start for v in others]
        seen = torch.cat([present[:, v : v + 1] for v in others], dim=1).to(query.dtype)
        each = torch.cat([seen[:, i : i + 1].expand(-1, n) for i, n in enumerate(lengths)], dim=1)
        bias = _bias(F.pad(each, (0, 1), value=1.0))
        return attend(query, key, value, self.heads, bias[:, None, None]) * seen.amax(1)[:, None, None]

    def _within(self, projected: Tensor, place: Layout) -> Tensor:
        """Self-attention inside each window: (B, N, 3 * inner) -> (B, N, inner)."""
        B, N, _ = projected.shape
        windows, slots = place.windows
        query, key, value = projected.reshape(B * windows, slots, -1).chunk(3, dim=-1)
        bias = None
        if place.padded:
            bias = _bias(place.filled.to(query.dtype))[None, :, None, None].expand(B, -1, 1, 1, slots).flatten(0, 1)
        return attend(query, key, value, self.heads, bias).reshape(B, N, -1)


def _bias(seen: Tensor) -> Tensor:
    """What is added to the scores of keys: 0 where one is seen (1), far below all others where it is not (0).

    A Boolean mask of all pairs costs more than the attention itself.
    """
    return (seen - 1.0) * 1e4


class LocalPositions(NamedTuple):
    """One view's positions in the order of the sequence, of which the finest map's are read.

    Attributes:
        attended: (B, N, D) features times attention, of all scales.
        mean_attention: (B, 1) of the finest map.
        finest: (h * w,) which of the N are the finest map's, row by row.
        shape: (h, w).
    """

    attended: Tensor
    mean_attention: Tensor
    finest: Tensor
    shape: Shape

    def read(self, weight: Tensor) -> Tensor:
        """A linear head on every position of the finest map, (B, K, h, w), from its weight (K, D) or (B, K, D).

        The mean over the positions is the head on the map's attention-weighted descriptor. The head comes first and the
        positions are picked from its few outputs: picking them from the features costs more than the head itself.
        """
        values = self.attended @ weight.transpose(-1, -2) / self.mean_attention[..., None]
        return values.index_select(1, self.finest).transpose(1, 2).unflatten(2, self.shape)


class LocalFeatures(NamedTuple):
    """What ALL gives.

    Attributes:
        descriptors: (B, M * S, D) attention-weighted mean of each map.
        averages: (B, M * S, D) plain mean of each map.
        coarsest: (B, positions, D) the positions of the coarsest maps of all views.
        attention: per view, per scale, (B, 1, H, W) in (0, 1).
        local: per view the positions of its finest map, for a head that reads them one by one.
        coarsest_view: (positions,) modality of each of these positions.
    """

    descriptors: Tensor
    averages: Tensor
    coarsest: Tensor
    attention: list[list[AttentionMap]]
    local: list[LocalPositions]
    coarsest_view: Tensor


class LocalFusion(nn.Module):
    """Attention-guided local learning (ALL) over any number of views.

    Args:
        channels: modality -> channels of its maps, finest first (see `Encoder.channels`).
        width: D, a multiple of 4 and of `heads`.
        heads: attention heads.
        inner: width of the attentions, a multiple of `heads`.
        depth: number of blocks.
        ratio: feed-forward ratio.
        layer_scale: initial LayerScale.
    """

    def __init__(
        self,
        channels: Mapping[str, Sequence[int]],
        *,
        width: int = 128,
        heads: int = 4,
        inner: int = 64,
        depth: int = 1,
        ratio: int = 1,
        layer_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if inner % heads:
            raise ValueError(f"the width of the attentions, {inner}, must be a multiple of heads, {heads}")
        self.width = width
        self.lateral = nn.ModuleDict(
            {
                m: nn.ModuleList(
                    [*(nn.Conv2d(c, width, PATCH, stride=PATCH) for c in cs[:-1]), nn.Conv2d(cs[-1], width, 1)]
                )
                for m, cs in channels.items()
            }
        )
        scales = len(next(iter(channels.values())))
        self.view_code = nn.Parameter(torch.randn(len(channels), width) * 0.02)
        self.scale_code = nn.Parameter(torch.randn(scales, width) * 0.02)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(LocalBlock(width, heads, inner, ratio, layer_scale) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1)

    def forward(self, pyramids: Sequence[Pyramid], present: Presence) -> LocalFeatures:
        """Fuse.

        Args:
            pyramids: per modality its maps (B, C_s, H_s, W_s), finest first; absent rows hold anything finite.
            present: (B, M).
        """
        maps = [self._top_down(lateral, p) for lateral, p in zip(self.lateral.values(), pyramids, strict=True)]
        shapes = tuple(tuple((int(x.shape[2]), int(x.shape[3])) for x in view) for view in maps)
        place = layout(shapes, self.width, present.device)
        flat = torch.cat([x.flatten(2) for view in maps for x in view], dim=2).transpose(1, 2)
        codes = place.codes + self.view_code[place.view] + self.scale_code[place.scale]
        tokens = self.norm_in(flat.index_select(1, place.gather)) + codes
        for block in self.blocks:
            tokens = block(tokens, place, present)
        tokens = self.norm_out(tokens)
        attention = torch.sigmoid(self.attention(tokens))
        segments = place.segments.to(tokens.dtype)
        attended = tokens * attention
        weighted = segments @ torch.cat([attended, attention], dim=-1)
        mean_attention = weighted[..., -1:]
        scales = len(shapes[0])
        return LocalFeatures(
            descriptors=weighted[..., :-1] / mean_attention,
            averages=segments @ tokens,
            coarsest=tokens.index_select(1, place.coarsest),
            attention=_as_maps(attention.flatten(1).index_select(1, place.scatter), shapes),
            local=[
                LocalPositions(attended[:, span], mean_attention[:, v * scales], slots - span.start, shapes[v][0])
                for v, (span, slots) in enumerate(zip(place.spans, place.finest, strict=True))
            ],
            coarsest_view=place.coarsest_view,
        )

    @staticmethod
    def _top_down(lateral: nn.Module, pyramid: Pyramid) -> Pyramid:
        """Lateral convolutions, each plus the (upsampled) coarsest one: multi-scale fusion.

        Finer maps enter through 2 x 2 patches: their detail goes into channels, at a quarter of the positions. The
        finest stays by itself: with what the coarsest has seen of the whole image its positions would not need to be
        local, and attention and evidence settled beside the lesion (docs/development-log.md).
        """
        padded = [F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH)) for x in pyramid[:-1]]
        maps = [conv(x) for conv, x in zip(lateral, [*padded, pyramid[-1]], strict=True)]  # type: ignore[call-overload]
        coarsest = maps[-1]
        for s, x in enumerate(maps[1:-1], start=1):
            same = x.shape[2:] == coarsest.shape[2:]
            maps[s] = x + (coarsest if same else F.interpolate(coarsest, size=x.shape[2:]))
        return maps


def _as_maps(values: Tensor, shapes: tuple[tuple[Shape, ...], ...]) -> list[list[Tensor]]:
    """(B, positions) -> per view, per scale, (B, 1, H, W)."""
    maps: list[list[Tensor]] = []
    first = 0
    for view in shapes:
        maps.append([])
        for h, w in view:
            maps[-1].append(values[:, first : first + h * w].unflatten(1, (1, h, w)))
            first += h * w
    return maps
