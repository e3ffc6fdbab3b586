"""The two parts of every attention block of the project."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention between what is projected already.

    Args:
        query: (B, N, D).
        key: (B, T, D).
        value: (B, T, D).
        heads: equal parts of D, each with an attention of its own.
        mask: what broadcasts to (B, heads, N, T): false where there is nothing to read, or a bias.

    Returns:
        What each query reads, (B, N, D), the heads side by side.
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def feed_forward(width: int, ratio: int) -> nn.Sequential:
    """Norm and two layers, (..., width) to (..., width), the inner one `ratio` times as wide; no residual."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width)
    )
