"""The configuration: frozen models, one YAML file, unknown keys are errors."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from agfnet.files import read_yaml, write_text
from agfnet.kinds import KINDS
from agfnet.places import Url, local, place
from agfnet.types import ConfigError, Place

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[int, Field(gt=0)]
ViewName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]
"""A view's name is also the name of a column, of a module and of an input of the graph."""
Side = Annotated[int, Field(ge=64, le=2048)]


def _place(value: object) -> Place:
    if not isinstance(value, str | Path | Url):
        raise ValueError("Input is not a path or URL")  # noqa: TRY004  pydantic lists no TypeError
    found = place(value)
    if isinstance(found, Url) and found.refusal is not None:
        raise ValueError(f"{found}: {found.refusal}")
    return found


def _local(value: object) -> object:
    return local(value) if isinstance(value, str) else value


PlaceField = Annotated[Place, PlainValidator(_place), PlainSerializer(str, return_type=str)]
"""A local path, or a URL that is read."""
LocalPath = Annotated[Path, BeforeValidator(_local)]
"""A path that is no URL."""


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


def _known_kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"is no known kind of image; there are {', '.join(KINDS)}")
    return name


class ViewConfig(Section):
    """One view.

    Attributes:
        kind: what its images are, of `agfnet.kinds.KINDS`; decides augmentation, padding and test-time flips.
        size: height and width of the network's input, in pixels; images are padded to it, never squashed.
        mm_per_pixel: a fixed scale that images of known scale are resampled to; None fits each image to the input.
    """

    kind: Annotated[str, AfterValidator(_known_kind)]
    size: tuple[Side, Side] = (224, 224)
    mm_per_pixel: Annotated[float, Field(gt=0.0)] | None = None


class DataConfig(Section):
    """The case table and how it is read.

    Attributes:
        table: the case table, local or by URL; relative paths start from the working directory.
        views: the modalities in the network's order; each is a column of the table.
        classes: the classes in the order of every output; None: the labels of the training part, sorted.
        malignant: the classes that count as malignant, for malignant-against-benign figures.
        extra_labels: further label columns, trained as extra heads.
        train, validation: the parts (column `split`) used for each; a table without `split` needs `--folds`.
        data_root: folder that every image must lie in, local or by URL.
        skip_bad: leave out cases with an unreadable image, count and list them, instead of stopping.
        cache: folder for decoded images; None: `cache` in the run folder.
        workers: processes that load images.
    """

    table: PlaceField
    views: Annotated[dict[ViewName, ViewConfig], Field(min_length=1)]
    classes: tuple[str, ...] | None = None
    malignant: tuple[str, ...] = ()
    extra_labels: tuple[str, ...] = ()
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("validation",)
    data_root: PlaceField | None = None
    skip_bad: bool = False
    cache: LocalPath | None = None
    workers: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _parts_are_apart(self) -> DataConfig:
        shared = set(self.train) & set(self.validation)
        if shared:
            raise ValueError(f"{sorted(shared)} is in both train and validation")
        if "test" in {*self.train, *self.validation}:
            raise ValueError("test cases are for `agfnet evaluate --include-test`, once, at the end")
        reserved = {"present", "fused", "logits", "weights", "view_logits", "extra_logits"} & set(self.views)
        if reserved:
            raise ValueError(f"views cannot be called {sorted(reserved)}: the graph uses these names itself")
        for key, names in (("classes", self.classes or ()), ("malignant", self.malignant)):
            if len(set(names)) < len(names):
                raise ValueError(f"{key} names {sorted({n for n in names if names.count(n) > 1})} twice")
        return self


class ModelConfig(Section):
    """The network; see `agfnet.models.network.AGFNet`.

    Attributes:
        encoder: a timm backbone, for all views or per modality.
        pretrained: start from pretrained weights.
        weights: a local file of them, with timm's names, for all views or for some; otherwise an installed weights
            package, then the hub.
        fusion: "agf" (ALL + AGL) or a peer.
        fusion_options: arguments of the fusion module.
        dropout: on the features that the heads read.
        drop_path: stochastic depth of the encoders.
    """

    encoder: str | dict[str, str] = "tf_efficientnet_lite0"
    pretrained: bool = True
    weights: LocalPath | dict[str, LocalPath] | None = None
    fusion: str = "agf"
    fusion_options: dict[str, Any] = {}
    dropout: Fraction = 0.3
    drop_path: Fraction = 0.0

    @model_validator(mode="after")
    def _weights_are_used(self) -> ModelConfig:
        if self.weights is not None and not self.pretrained:
            raise ValueError("weights are not read where pretrained is false; leave one of the two out")
        return self


class ReconstructionConfig(Section):
    """FRL, feature reconstruction learning.

    Attributes:
        enabled: train with it.
        hide: share of the positions that are hidden.
        fill: what stands in hidden positions: "reconstruct" (FRL), or "mean", the mean of the visible ones, to see what
            hiding alone is worth.
        policy: which positions: "random"; "part", any half of those with the most evidence for the true class (so that
            the other half must carry it); "top", those with the most; "bottom", those with the least.
        reconstruction: weight of the cosine loss of the hidden features.
        second_view: weight of the diagnosis loss on the completed maps.
        consistency: weight of the symmetric KL divergence of the second diagnosis from the first, which stays as it is.
        focus: weight of the divergence of the attention maps from the evidence that stands (see `focus_loss`).
        start: share of the training after which FRL sets in: from the beginning NLL was worse
            (docs/development-log.md). Until then the decoder alone learns. Steps of mixup (`training.mixing`) have
            neither.
    """

    enabled: bool = True
    hide: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.3
    fill: Literal["reconstruct", "mean"] = "reconstruct"
    policy: Literal["part", "top", "random", "bottom"] = "random"
    reconstruction: Weight = 0.5
    second_view: Weight = 0.5
    consistency: Weight = 0.5
    focus: Weight = 2.0
    start: Fraction = 0.5


class TrainingConfig(Section):
    """The recipe.

    Attributes:
        epochs: length of the schedule.
        batch_size: cases a step, over all devices.
        learning_rate: peak rate of the fusion and heads.
        encoder_rate: factor on it for the encoders (a learning-rate multiplier).
        weight_decay: AdamW's, not on biases, norms and depth-wise kernels.
        warmup: share of the steps over which the rate rises, before the cosine fall.
        ema: decay of the averaged weights (exponential moving average), a step; 0 keeps the raw weights.
        class_weights: "none", "sqrt" (inverse square root of class frequency) or "balanced" (inverse frequency): what a
            case counts in learning. It does not shift the probabilities, see `PredictionConfig.prevalence`.
        label_smoothing: of the diagnosis, by the frequency of the classes, and of the extra labels, evenly.
        view_loss: weight of each view's own heads (deep supervision): of its maps, its pooled features and, times
            `extra_loss`, its further labels.
        extra_loss: weight of the further labels.
        modality_dropout: chance that a view of a training case is left out (never all of them).
        mixing: in half of the steps each case's images are blended with another's, and so are their losses (mixup,
            1710.09412); the share is drawn from Beta(mixing, mixing). FRL sits out these steps. 0: never.
        early_stopping: epochs without a better validation NLL after which training stops; None: the whole schedule.
            Epochs before FRL sets in do not count, neither for this nor for the best.
        validate_every: epochs between two looks at the validation part.
        precision: "auto" takes bfloat16 where the processor has it.
        compile: encoders through torch.compile; minutes at the start for faster steps.
        augmentation: strength; 0 turns it off, 1 is the recipe of each kind of image.
        clip: largest norm of the gradient.
        seed: of every random draw, below 2**32.
    """

    epochs: Positive = 30
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    encoder_rate: Annotated[float, Field(gt=0.0)] = 0.3
    weight_decay: Weight = 0.05
    warmup: Fraction = 0.1
    ema: Fraction = 0.99
    class_weights: Literal["none", "sqrt", "balanced"] = "none"
    label_smoothing: Fraction = 0.05
    view_loss: Weight = 0.5
    extra_loss: Weight = 0.5
    modality_dropout: Fraction = 0.15
    mixing: Weight = 0.0
    early_stopping: Positive | None = None
    validate_every: Positive = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    augmentation: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    clip: Annotated[float, Field(gt=0.0)] = 5.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class PredictionConfig(Section):
    """How the exported network is asked.

    Attributes:
        flips: average over left-right flips (photos also upside down).
        zoom: average also over the middle of each photo, of this share of its sides; 1: the whole image alone. Scans
            are never cut: the skin line would go, and the scale would change.
        prevalence: the patients that predictions are for where nobody states it (`--prevalence`): as "training", or by
            the square root of a diagnosis's share there ("sqrt"), or each alike often ("equal"). The flatter it is,
            the fewer cases of rare diagnoses are missed, and the more of common ones are called rare.
    """

    flips: bool = True
    zoom: Annotated[float, Field(ge=0.5, le=1.0)] = 1.0
    prevalence: Literal["training", "sqrt", "equal"] = "training"


class Config(Section):
    """Everything that makes a run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()

    @model_validator(mode="after")
    def _encoders_fit_views(self) -> Config:
        encoder, weights = self.model.encoder, self.model.weights
        if isinstance(encoder, dict) and set(encoder) != set(self.data.views):
            raise ValueError(f"model.encoder names {sorted(encoder)}, data.views {sorted(self.data.views)}")
        if isinstance(weights, dict) and not set(weights) <= set(self.data.views):
            raise ValueError(f"model.weights names {sorted(weights)}, data.views {sorted(self.data.views)}")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides (values are YAML).

    Raises:
        ConfigError: no such file, no YAML, an unknown key (with the nearest known one) or a value out of range.
    """
    path = Path(path)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no configuration; it needs at least data.table and data.views.")
    return parse_config(apply_overrides(tree, overrides), str(path))


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a configuration's mapping with `section.key=value` overrides; values are YAML.

    Raises:
        ConfigError: an override is not of that form.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(tree))
    for override in overrides:
        _override(changed, override)
    return changed


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """A configuration from a nested mapping; errors name `source`, the key and what is wrong."""
    return validated(Config, tree, source)


def validated(kind: type[S], tree: Any, source: str) -> S:  # noqa: ANN401 - whatever a YAML file holds
    """A section of a kind from a nested mapping; errors name `source`, the key and what is wrong."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {_explain(kind, e)}" for e in error.errors()]
        raise ConfigError(f"{source}: {len(lines)} fault(s) in the configuration\n" + "\n".join(lines)) from error


def save_config(config: Config, path: Path) -> None:
    """Write as YAML."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def different_keys(one: Config, other: Config) -> list[str]:
    """The keys, such as `training.epochs`, whose values differ."""

    def flat(tree: Any, path: str) -> dict[str, Any]:  # noqa: ANN401 - any part of a configuration
        if not isinstance(tree, dict):
            return {path: tree}
        return {
            key: own for name, part in tree.items() for key, own in flat(part, f"{path}.{name}".lstrip(".")).items()
        }

    views = [] if list(one.data.views) == list(other.data.views) else ["data.views"]  # in their order
    ours, theirs = (flat(config.model_dump(mode="json"), "") for config in (one, other))
    missing = object()
    return views + [key for key in {**ours, **theirs} if ours.get(key, missing) != theirs.get(key, missing)]


def _override(tree: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign:
        raise ConfigError(f"override {override!r} is not of the form section.key=value.")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML.") from error


def _explain(root: type[BaseModel], error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    if error["type"] == "tuple_type":
        return "is a list, such as [a, b]; of a size [height, width]"
    if error["type"] == "string_type":
        return f"{error['input']!r} is no text; put it in quotes"
    if error["type"] == "string_pattern_mismatch":
        return f"{error['input']!r} is no name of a view: a letter, then letters, digits or _. Rename the column"
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    known = _keys_at(root, error["loc"][:-1])
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    return "unknown key" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")


def _keys_at(root: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    section = root
    for name in path:
        field = section.model_fields.get(str(name))
        if field is None:
            break
        kind = ViewConfig if name == "views" else field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        section = kind
    return list(section.model_fields)
