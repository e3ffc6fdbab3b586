"""Tensor shapes, named once.

B cases; M modalities; K classes; C channels of an encoder map; D fusion width; H, W positions of a map; N positions of
all maps of all views in one sequence.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

Images = Float[Tensor, "B 3 H W"]
Presence = Bool[Tensor, "B M"]
Map = Float[Tensor, "B C H W"]
Pyramid = list[Map]
Tokens = Float[Tensor, "B N D"]
Pooled = Float[Tensor, "B C"]
Logits = Float[Tensor, "B K"]
ViewLogits = Float[Tensor, "B M K"]
Evidence = Float[Tensor, "B K H W"]
AttentionMap = Float[Tensor, "B 1 H W"]
