"""The fusion methods that AGFnet is compared with; same signature, same encoders, same heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from agfnet.models.fusion import AttentionGuidedFusion, Fused, Fusion
from agfnet.models.shapes import Pooled, Presence, Pyramid
from agfnet.types import ConfigError


class Concatenation(Fusion):
    """Pooled encoder vectors side by side; an absent view is zero."""

    def __init__(self, channels: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.out_features = sum(c[-1] for c in channels.values())

    def forward(self, pyramids: Sequence[Pyramid], pooled: Sequence[Pooled], present: Presence) -> Fused:  # noqa: ARG002
        """See `Fusion`; the pyramids are not used."""
        shown = [v * present[:, i : i + 1].to(v.dtype) for i, v in enumerate(pooled)]
        return Fused(torch.cat(shown, dim=1), [])


def build_fusion(name: str, channels: Mapping[str, Sequence[int]], options: Mapping[str, Any]) -> Fusion:
    """The fusion module of this name.

    Raises:
        ConfigError: an unknown name, or options that it does not take.
    """
    if name not in FUSIONS:
        raise ConfigError(f"fusion {name!r} is not known; there are {', '.join(FUSIONS)}.")
    try:
        return FUSIONS[name](channels, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fusion {name!r} does not take the options {dict(options)}: {error}.") from error


FUSIONS: Mapping[str, Callable[..., Fusion]] = {
    "agf": AttentionGuidedFusion,
    "concatenation": Concatenation,
}
