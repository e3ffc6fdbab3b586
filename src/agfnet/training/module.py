"""The LightningModule: one training step, one validation step, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.aggregation import CatMetric, MeanMetric

from agfnet.config import ReconstructionConfig, TrainingConfig
from agfnet.data.dataset import UNKNOWN, Batch
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.ranking import macro_auc
from agfnet.models.network import AGFNet, Output
from agfnet.training.losses import DiagnosisLoss
from agfnet.training.mixing import Blend, draw_blend
from agfnet.training.reconstruction import (
    FeatureReconstruction,
    blank,
    choose_hidden,
    class_evidence,
    consistency_loss,
    focus_loss,
)


class LesionModule(pl.LightningModule):
    """Trains an AGFNet, with FRL where the configuration says so.

    Args:
        network: what is trained.
        training: the recipe.
        reconstruction: FRL's settings.
        counts: training cases of each class, (K,) positive; None: all classes alike often.
    """

    def __init__(
        self,
        network: AGFNet,
        training: TrainingConfig,
        reconstruction: ReconstructionConfig,
        counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = training
        self.frl = reconstruction
        self.loss = DiagnosisLoss(
            counts or [1] * network.num_classes,
            network.extra_classes,
            class_weights=training.class_weights,
            label_smoothing=training.label_smoothing,
            view_loss=training.view_loss,
            extra_loss=training.extra_loss,
        )
        rebuilds = reconstruction.enabled and reconstruction.fill == "reconstruct"
        self.decoder = FeatureReconstruction(network.channels) if rebuilds else None
        self.val_loss = MeanMetric("disable")
        self.val_labels, self.val_probabilities = CatMetric("disable"), CatMetric("disable")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """A step's random numbers (dropout, random hiding) depend on seed, epoch, step and rank alone.

        So a resumed run repeats what the run that was not stopped would have drawn, whatever else drew in between.
        """
        key = np.random.SeedSequence([self.recipe.seed, self.current_epoch, batch_idx, self.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch; its parts are logged."""
        profile = self.trainer.profiler.profile  # type: ignore[attr-defined]
        key = np.random.SeedSequence([self.recipe.seed, self.current_epoch, batch_idx])
        blend = draw_blend(batch.present, self.recipe.mixing, np.random.default_rng(key))
        with profile("encoders"):
            pyramids = self.network.encode(blend.images(batch), batch.present)
        begun = self.trainer.global_step >= self.frl.start * self.trainer.estimated_stepping_batches
        with profile("fusion"):
            first = self.network.fuse(pyramids, batch.present)
            parts = {"diagnosis": self._diagnosis(first, batch, blend)}
        # A blended case has no one class whose evidence could be hidden or looked at.
        if self.frl.enabled and blend.share == 1.0:
            with profile("reconstruction"):
                parts |= self._reconstructed(pyramids, first, batch, begun=begun)
        total = torch.stack(list(parts.values())).sum()
        size = len(batch.label)
        self.log("train_loss", total, on_epoch=True, on_step=False, batch_size=size, sync_dist=True)
        self.log_dict(
            {f"train_{k}": v for k, v in parts.items()},
            on_epoch=True,
            on_step=False,
            batch_size=size,
            sync_dist=True,
        )
        return total

    def _diagnosis(self, output: Output, batch: Batch, blend: Blend) -> Tensor:
        own = self.loss(output, batch.label, batch.extra, batch.present)
        if blend.share == 1.0:
            return own
        other = self.loss(output, batch.label[blend.partner], batch.extra[blend.partner], batch.present)
        return torch.lerp(other, own, blend.share)

    def _reconstructed(
        self, pyramids: list[list[Tensor]], first: Output, batch: Batch, *, begun: bool
    ) -> dict[str, Tensor]:
        """FRL: the encoders have run once; fusion and heads ran on their maps, and run on the completed maps.

        Before it has `begun`, the decoder alone learns: what it writes is to be of use from then on.
        """
        present, label, frl = batch.present, batch.label, self.frl
        grids = [(maps[-1].shape[2], maps[-1].shape[3]) for maps in pyramids]
        evidence = [class_evidence(e, label, grid) for e, grid in zip(first.evidence, grids, strict=True)]
        hidden = [choose_hidden(e, frl.hide, frl.policy) for e in evidence]
        parts = {}
        if self.decoder is None:
            completed = blank(pyramids, hidden)
        else:
            completed, loss, neighbours = self.decoder(pyramids, hidden, present)
            parts["reconstruction"] = frl.reconstruction * loss
            simpler = frl.reconstruction * neighbours  # a figure, no part of the loss
            self.log("train_neighbours", simpler, on_epoch=True, on_step=False, batch_size=len(label), sync_dist=True)
        if not begun:
            return parts
        second = self.network.fuse(completed, present)
        return parts | {
            "second": frl.second_view * self.loss(second, label, batch.extra, present),
            "consistency": frl.consistency * consistency_loss(first.logits.detach(), second.logits),
            "focus": frl.focus * focus_loss(first, second, label, present),
        }

    def configure_gradient_clipping(  # noqa: D102 - Lightning's
        self,
        optimizer: torch.optim.Optimizer,  # noqa: ARG002
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        # Each by itself: how large the decoder's gradient is has no say in the network's step.
        for part in (self.network, self.decoder):
            if part is not None:
                nn.utils.clip_grad_norm_(part.parameters(), self.recipe.clip)

    def on_after_backward(self) -> None:
        """Give all processes the mean of their running batch statistics, as they have the same weights.

        So validation and checkpoint do not depend on the process. Each one's variance is free of bias, and so is the
        mean. (SyncBatchNorm would wait for ever for a process whose batch lacks a view, and needs GPUs.)
        """
        if self.trainer.world_size == 1:
            return
        norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm)]
        statistics = [s for m in norms for s in (m.running_mean, m.running_var) if s is not None]
        if not statistics:
            return
        shared = self.trainer.strategy.reduce(torch.cat(statistics), reduce_op="mean")
        for own, mean in zip(statistics, shared.split([len(s) for s in statistics]), strict=True):
            own.copy_(mean)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Figures over the whole validation part, exact also over several processes."""
        output = self.network(batch.images, batch.present)
        known = batch.label != UNKNOWN
        if bool(known.any()):
            logits, label = output.logits[known].float(), batch.label[known]
            self.val_loss.update(nn.functional.cross_entropy(logits, label, reduction="none"))
            self.val_labels.update(label)
            self.val_probabilities.update(logits.softmax(-1))

    def on_validation_epoch_end(self) -> None:
        """Log the figures, by the definitions of every evaluation, and start anew."""
        y = self.val_labels.compute().cpu().numpy().astype(np.int64)
        p = self.val_probabilities.compute().cpu().numpy()
        figures = {"val_loss": float(self.val_loss.compute()), "val_cases": float(y.size)}
        if np.isfinite(p).all():  # otherwise the epoch's end says so, and stops
            figures["val_accuracy"] = float(accuracy(y, p))
            figures["val_balanced_accuracy"] = float(balanced_accuracy(y, p))
            figures["val_auc"] = float(macro_auc(y, p))
        self.log_dict(figures, sync_dist=False)  # already over all processes
        for metric in (self.val_loss, self.val_labels, self.val_probabilities):
            metric.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; no decay on norms and biases; a lower rate for pretrained encoders; warm-up, then cosine."""
        recipe = self.recipe
        groups = [
            {
                "params": [
                    p for n, p in self._named() if n.startswith("network.encoders") == inside and decays(p) == d
                ],
                "lr": recipe.learning_rate * (recipe.encoder_rate if inside else 1.0),
                "weight_decay": recipe.weight_decay if d else 0.0,
            }
            for inside in (True, False)
            for d in (True, False)
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]])
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, round(recipe.warmup * steps))

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay shrinks a parameter.

    Yes: matrices, kernels over channels, and learned codes of several rows. No: biases, norms, depth-wise kernels,
    learned queries and tokens (1, N, D), and whatever has one row or column, such as the layer that gives an attention
    map.
    """
    return parameter.ndim >= 2 and 1 not in parameter.shape[:2]
