"""The fusion methods that AGFnet is compared with; same signature, same encoders, same heads.

Those that fuse pooled vectors are here, those that attend between positions in `peer_attention`, AGFnet without one of
its parts in `ablations`. The mean of the probabilities of networks of single views needs no module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn

from agfnet.models.ablations import WithoutGlobal, WithoutLocal
from agfnet.models.fusion import AttentionGuidedFusion, Fused, Fusion, shown
from agfnet.models.peer_attention import Bottleneck, CrossAttention
from agfnet.models.shapes import Pooled, Presence, Pyramid
from agfnet.types import ConfigError

SMALLEST = {
    "width": 1, "heads": 1, "queries": 1, "tokens": 1, "ratio": 1, "depth": 1, "global_depth": 1, "local_depth": 0,
}  # fmt: skip
"""Options that count something -> the least that the methods work with."""


class Concatenation(Fusion):
    """Pooled encoder vectors side by side; an absent view is zero."""

    def __init__(self, channels: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.out_features = sum(c[-1] for c in channels.values())

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:  # noqa: ARG002
        """See `Fusion`; the pyramids are not used."""
        return Fused(torch.cat(shown(pooled, present), dim=1), [], [])


class Gating(Fusion):
    """Feature-wise gating: every channel of every pooled vector by a sigmoid of all of them."""

    def __init__(self, channels: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.out_features = sum(c[-1] for c in channels.values())
        self.gate = nn.Linear(self.out_features, self.out_features)

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:  # noqa: ARG002
        """See `Fusion`; the pyramids are not used."""
        joint = torch.cat(shown(pooled, present), dim=1)
        return Fused(joint * torch.sigmoid(self.gate(joint)), [], [])


class MultimodalTransfer(Fusion):
    """MMTM (1911.08670): at each scale all views' squeezed maps make one vector, which excites each view's channels.

    The paper puts it between the stages of its encoders; here the encoders are given, so it acts on their maps. Its
    gates are per channel, and the maps are pooled after it: acting on pooled maps is the same.

    Args:
        channels: modality -> channels of its maps, finest first.
        ratio: the joint vector is this many times shorter than what it is made of.
    """

    def __init__(self, channels: Mapping[str, Sequence[int]], *, ratio: int = 4) -> None:
        super().__init__()
        scales = [sum(own) for own in zip(*channels.values(), strict=True)]
        self.squeeze = nn.ModuleList(nn.Linear(c, max(8, c // ratio)) for c in scales)
        self.excite = nn.ModuleList(nn.Linear(max(8, c // ratio), c) for c in scales)
        self.out_features = sum(scales)

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:  # noqa: ARG002
        """See `Fusion`; the coarsest maps' means are computed once more, as every scale is treated alike."""
        out = []
        for maps, squeeze, excite in zip(zip(*pyramids, strict=True), self.squeeze, self.excite, strict=True):
            joint = torch.cat(shown([m.mean((2, 3)) for m in maps], present), dim=1)
            out.append(joint * 2.0 * torch.sigmoid(excite(torch.relu(squeeze(joint)))))
        return Fused(torch.cat(out, dim=1), [], [])


def build_fusion(name: str, channels: Mapping[str, Sequence[int]], options: Mapping[str, Any]) -> Fusion:
    """The fusion module of this name.

    Raises:
        ConfigError: an unknown name, or options that it does not take.
    """
    if name not in FUSIONS:
        raise ConfigError(f"fusion {name!r} is not known; there are {', '.join(FUSIONS)}.")
    try:
        _check_options(FUSIONS[name], options)
        return FUSIONS[name](channels, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fusion {name!r} does not take the options {dict(options)}: {error}.") from error


def _check_options(method: Callable[..., Fusion], options: Mapping[str, Any]) -> None:
    taken = signature(method).parameters
    chosen = {key: options.get(key, taken[key].default) for key in SMALLEST if key in taken}
    for key, value in chosen.items():
        if not isinstance(value, int) or value < SMALLEST[key]:
            raise ValueError(f"{key} must be a whole number of at least {SMALLEST[key]}")
    if "width" in chosen and (chosen["width"] % 4 or chosen["width"] % chosen["heads"]):
        raise ValueError("width must be a multiple of 4, for the position codes, and of heads")


FUSIONS: Mapping[str, Callable[..., Fusion]] = {
    "agf": AttentionGuidedFusion,
    "agf_without_local": WithoutLocal,
    "agf_without_global": WithoutGlobal,
    "concatenation": Concatenation,
    "gating": Gating,
    "mmtm": MultimodalTransfer,
    "bottleneck": Bottleneck,
    "cross_attention": CrossAttention,
}
