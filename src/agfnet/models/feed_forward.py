"""The feed-forward part of every attention block of the project."""

from __future__ import annotations

from torch import nn


def feed_forward(width: int, ratio: int) -> nn.Sequential:
    """Norm and two layers, (..., width) to (..., width), the inner one `ratio` times as wide; no residual."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width)
    )
