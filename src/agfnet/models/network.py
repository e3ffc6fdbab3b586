"""AGFNet: encoders, fusion and heads put together, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm

from agfnet.models.encoders import Encoder
from agfnet.models.local_fusion import LocalPositions
from agfnet.models.peers import build_fusion
from agfnet.models.shapes import AttentionMap, Evidence, Images, Logits, Presence, Pyramid, ViewLogits
from agfnet.types import ConfigError


class Output(NamedTuple):
    """What the network says.

    Attributes:
        logits: (B, K) log-probabilities of the combined opinions: the diagnosis.
        fused_logits: (B, K) of the fused head, local evidence of all views included.
        view_logits: (B, M, K) of each view's own head; rows of absent views mean nothing.
        weights: (B, 1 + M) share of the fused and of each view's opinion in `logits`: the fused one half, the present
            views the other half alike; absent views have 0.
        extra_logits: (B, sum of extra classes) of the further label columns, one after the other.
        view_extra_logits: (B, M, sum of extra classes).
        attention: per view, per scale, (B, 1, H, W) in (0, 1).
        evidence: per view (B, K, H, W), class evidence position by position. With local features: the local head on
            them; its mean over positions plus the head's bias is the view's local logit, which counts in
            `fused_logits`. Otherwise the view head on the coarsest map, whose mean plus bias is the view's logit.
        local_logits: (B, M, K) of the local head; (B, 0, K) for a fusion method without local features.
    """

    logits: Logits
    fused_logits: Logits
    view_logits: ViewLogits
    weights: Tensor
    extra_logits: Tensor
    view_extra_logits: Tensor
    attention: list[list[AttentionMap]]
    evidence: list[Evidence]
    local_logits: ViewLogits


class AGFNet(nn.Module):
    """Diagnosis from any number of views of one lesion.

    Works alone in anyone's training loop:

        net = agfnet.AGFNet(num_classes=5, modalities=["clinical", "ultrasound"])
        out = net({"clinical": photos, "ultrasound": scans})   # normalised (B, 3, H, W); sizes may differ per view
        loss = torch.nn.functional.nll_loss(out.logits, labels)

    Args:
        num_classes: K.
        modalities: names of the views, in the order of every (B, M) tensor.
        encoder: timm backbone, one name for all views or one per modality.
        pretrained: False, True (weights package or hub), or a local weights file; or files by modality, and True for
            those without.
        fusion: name in `agfnet.models.peers.FUSIONS`; "agf" is AGFnet's ALL + AGL.
        fusion_options: arguments of that fusion.
        extra_classes: number of classes of each further label column.
        dropout: on the features that the heads read.
        drop_path: stochastic depth of the encoders.

    Raises:
        ConfigError: no view, a name that is given twice or that PyTorch does not allow, a view without an encoder, or
            what an encoder or the fusion does not take.
    """

    def __init__(
        self,
        num_classes: int,
        modalities: Sequence[str],
        encoder: str | Mapping[str, str] = "tf_efficientnet_lite0",
        *,
        pretrained: bool | Path | Mapping[str, Path] = False,
        fusion: str = "agf",
        fusion_options: Mapping[str, Any] | None = None,
        extra_classes: Sequence[int] = (),
        dropout: float = 0.3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        taken = [m for m in modalities if hasattr(nn.ModuleDict, m) or m == "training"]
        if taken:
            raise ConfigError(f"views cannot be called {taken}: PyTorch's modules use these names themselves.")
        if not modalities or len(set(modalities)) < len(modalities) or not all(m and "." not in m for m in modalities):
            raise ConfigError(f"views {list(modalities)}: give one or more, each a name of its own without a dot.")
        lacking = [] if isinstance(encoder, str) else [m for m in modalities if m not in encoder]
        if lacking:
            raise ConfigError(f"no encoder is given for {lacking}; name one for each view, or one for all.")
        self.modalities = tuple(modalities)
        self.num_classes = num_classes
        self.extra_classes = tuple(extra_classes)
        names = {m: encoder if isinstance(encoder, str) else encoder[m] for m in modalities}
        starts = {m: pretrained.get(m, True) if isinstance(pretrained, Mapping) else pretrained for m in modalities}
        encoders = {m: Encoder(name, pretrained=starts[m], drop_path=drop_path) for m, name in names.items()}
        self.encoders = nn.ModuleDict(encoders)
        self.channels = {m: e.channels for m, e in encoders.items()}
        self.fusion = build_fusion(fusion, self.channels, fusion_options or {})
        self.dropout = nn.Dropout(dropout)
        targets = num_classes + sum(extra_classes)
        self.head = nn.Linear(self.fusion.out_features, targets)
        view_heads = {m: nn.Linear(c[-1], targets) for m, c in self.channels.items()}
        self.view_heads = nn.ModuleDict(view_heads)
        width = self.fusion.local_features
        local_heads = {m: nn.Linear(width, num_classes) for m in modalities} if width else {}
        self.local_heads = nn.ModuleDict(local_heads)
        for layer in (self.head, *view_heads.values(), *local_heads.values()):
            nn.init.trunc_normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Mapping[str, Images], present: Presence | None = None) -> Output:
        """Diagnose.

        Args:
            images: modality -> normalised images (B, 3, H, W); rows of absent views may hold anything finite. A
                modality that is not given is absent for the whole batch.
            present: (B, M); by default every view that is given is there, and none is that is not.

        Raises:
            ValueError: no view, or one that the network does not know.
        """
        unknown = set(images) - set(self.modalities)
        if unknown or not images:
            raise ValueError(f"images of {sorted(unknown) or 'no view'}; this network knows {list(self.modalities)}")
        given = next(iter(images.values()))
        here = torch.tensor([m in images for m in self.modalities], device=given.device).expand(given.shape[0], -1)
        present = here if present is None else here & present
        missing = {m: torch.zeros_like(given) for m in self.modalities if m not in images}
        return self.fuse(self.encode({**images, **missing}, present), present)

    def encode(self, images: Mapping[str, Images], present: Presence) -> list[Pyramid]:
        """Per modality its maps, finest first.

        In training the rows of absent views are zero and give no gradient; in evaluation they hold what the encoder
        makes of the image given there, and nothing after this reads them.
        """
        return [self._encode_view(m, images[m], present[:, i]) for i, m in enumerate(self.modalities)]

    def _encode_view(self, modality: str, images: Tensor, present: Tensor) -> Pyramid:
        encoder = self.encoders[modality]
        if not self.training:
            return encoder(images)
        rows = present.nonzero()[:, 0]
        # Batch statistics come from the views that are there; one image alone makes none.
        with _frozen_statistics(encoder) if len(rows) < 2 else nullcontext():
            if len(rows) == len(images):
                return encoder(images)
            if len(rows):
                maps = encoder(images[rows])
                return [m.new_zeros(len(images), *m.shape[1:]).index_copy(0, rows, m) for m in maps]
            # Keeps every parameter in the graph, with zero gradient: distributed training waits for all of them.
            return [m * 0.0 for m in encoder(images)]

    def fuse(self, pyramids: Sequence[Pyramid], present: Presence) -> Output:
        """Everything after the encoders, from the maps that `encode` gives."""
        pooled = [maps[-1].mean((2, 3)) for maps in pyramids]
        fused = self.fusion(pyramids, pooled, present)
        K = self.num_classes
        by_head = self.head(self.dropout(fused.features))
        fused_logits = by_head[:, :K]
        if self.local_heads:
            evidence = self._local_evidence(fused.local)
            local_logits = self._local_logits(evidence)
            fused_logits = fused_logits + (local_logits * present[..., None].to(local_logits.dtype)).sum(1)
        else:
            evidence = self._view_evidence(pyramids)
            local_logits = by_head.new_zeros((by_head.shape[0], 0, K))
        by_view = torch.stack(
            [head(self.dropout(v)) for head, v in zip(self.view_heads.values(), pooled, strict=True)], dim=1
        )
        # Fixed: learnt from training cases, weights favour the opinion that knows them by heart (see "Opinions" in
        # docs/development-log.md).
        shares = present.float() / present.float().sum(1, keepdim=True).clamp(min=1) / 2
        weights = torch.cat([1 - shares.sum(1, keepdim=True), shares], dim=1)
        opinions = torch.cat([fused_logits[:, None], by_view[..., :K]], dim=1).float().log_softmax(-1)
        logits = (weights[..., None] * opinions).sum(1).log_softmax(-1)
        return Output(
            logits=logits,
            fused_logits=fused_logits,
            view_logits=by_view[..., :K],
            weights=weights,
            extra_logits=by_head[:, K:],
            view_extra_logits=by_view[..., K:],
            attention=fused.attention,
            evidence=evidence,
            local_logits=local_logits,
        )

    def _view_evidence(self, pyramids: Sequence[Pyramid]) -> list[Evidence]:
        """The view heads on each position of the coarsest maps, (B, K, H, W), in logits."""
        weights = (self.view_heads[m].get_parameter("weight")[: self.num_classes] for m in self.modalities)
        return [F.conv2d(maps[-1], w[..., None, None]) for maps, w in zip(pyramids, weights, strict=True)]

    def _local_evidence(self, local: Sequence[LocalPositions]) -> list[Evidence]:
        """The local heads on each position of the finest maps, (B, K, H, W), in logits."""
        weights = [self.local_heads[m].get_parameter("weight") for m in self.modalities]
        if self.training:  # whole features are dropped, as of a vector
            batch = local[0].attended.shape[0]
            weights = [self.dropout(w.new_ones(batch, 1, w.shape[1])) * w for w in weights]
        return [x.read(w) for w, x in zip(weights, local, strict=True)]

    def _local_logits(self, evidence: Sequence[Evidence]) -> ViewLogits:
        """(B, M, K): the mean of each view's evidence, with its head's bias."""
        biases = (self.local_heads[m].get_parameter("bias") for m in self.modalities)
        return torch.stack([e.mean((2, 3)) + bias for e, bias in zip(evidence, biases, strict=True)], dim=1)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisation by its running statistics, unchanged."""
    moving = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    try:
        for norm in moving:
            norm.eval()
        yield
    finally:
        for norm in moving:
            norm.train()
