"""The plan of a comparison: rows that differ in a few settings, their seeds, and the cases that they are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from agfnet.config import (
    Config,
    DataConfig,
    PlaceField,
    Positive,
    Section,
    apply_overrides,
    different_keys,
    parse_config,
    validated,
)
from agfnet.evaluation.focus import CONTROLS, MAPS
from agfnet.files import read_yaml
from agfnet.metrics import scores
from agfnet.types import ConfigError


def folder_name(row: str) -> str:
    """The folder of a row's runs."""
    return row.replace(" ", "-")


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed that is named twice is one training, counted as two that agree; name each once")
    return seeds


Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_each_once)]


class RowPlan(Section):
    """One row of a comparison.

    Attributes:
        change: overrides `section.key=value` of the base configuration.
        views: the views that its network has; None: all.
        mean_of: rows whose probabilities are averaged, seed by seed, instead of training a network.
        seeds: of its trainings; None: the plan's.
    """

    change: tuple[str, ...] = ()
    views: tuple[str, ...] | None = None
    mean_of: tuple[str, ...] = ()
    seeds: Seeds | None = None


FIGURES = ("balanced_accuracy", "accuracy", "macro_auc", "nll", "brier", "nll_tempered", "brier_tempered")
LOWER_IS_BETTER = tuple(name for name in FIGURES if name.removesuffix("_tempered") in scores.LOWER_IS_BETTER)
TEST, EXTERNAL, CORRUPTED, ONLY = "test", "external", "corrupted", "only "
"""Sets of answers: the test cases; those of another site; the test cases made worse; with one view alone."""


OF_ALL_ROWS = ("data.table", "data.data_root", "data.train", "data.validation", "data.classes")
"""Keys of the configuration that say which cases a network is trained on, and for what: no row may have its own."""


class Claim(Section):
    """One thing that a comparison is to confirm or refute: that a row does better than another.

    Attributes:
        says: the claim in words.
        row: that should do better.
        than: that it is compared with.
        figure: one of `FIGURES`, or `focus/VIEW/MAP`: the energy of a map inside the evidence.
        than_figure: of the other row, where it is another: a control of the focus.
        cases: the set of answers: test, external, corrupted, or `only VIEW`.
        than_cases: of the other row, where it is another.
        relative: measure the gain relative to the other row's figure.
        paired: compare trainings of one seed with each other, where the rows begin alike: with the same weights and
            the same order of cases.
        point: the gain must be at least this.
        bound: the lower end of the gain's interval must be above this.
    """

    says: str
    row: str
    than: str
    figure: str = "balanced_accuracy"
    than_figure: str | None = None
    cases: str = TEST
    than_cases: str | None = None
    relative: bool = False
    paired: bool = False
    point: float | None = None
    bound: float | None = 0.0

    @model_validator(mode="after")
    def _figures_are_known(self) -> Claim:
        if self.bound is None and self.point is not None and self.point < 0.0:
            raise ValueError(f"{self.says!r}: no worse by more than {-self.point:g} needs a `bound`, not a point alone")
        for figure in (self.figure, self.than_figure or self.figure):
            if figure not in FIGURES and not (figure.startswith("focus/") and figure.count("/") == 2):
                raise ValueError(f"{figure!r} is none of {list(FIGURES)} and not of the form focus/VIEW/MAP")
        for chosen in (self.cases, self.than_cases or self.cases):
            if chosen not in {TEST, EXTERNAL, CORRUPTED} and not chosen.startswith(ONLY):
                raise ValueError(f"{chosen!r} is not test, external, corrupted or only VIEW")
        return self

    def sides(self) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        """Row, figure and set of both sides."""
        return (
            (self.row, self.figure, self.cases),
            (self.than, self.than_figure or self.figure, self.than_cases or self.cases),
        )


class ComparisonPlan(Section):
    """A comparison.

    Attributes:
        base: the configuration that every row starts from, a mapping as in its own file.
        rows: name -> row.
        reference: the row that the others are compared with.
        seeds: of every row that names none.
        folds: cross-validate by patient over the training and validation parts, the same folds for every row and
            seed; all held-out cases are tested together, so there is no `test`.
        test: a table of test cases, of which those of the part test count if it has parts; None: the validation part of
            the base's table.
        external: a table of cases of another site, for claims on `external`.
        masks: a table of the test cases' evidence masks (see `agfnet.evaluation.focus`), for claims on focus.
        sample: corrupted images and focus, which take longest, are measured on so many of the test cases (with folds:
            of each fold's), the same for every row; None: on all.
        claims: what is to be confirmed or refuted; a row is tested on those sets that its claims name.
    """

    base: dict[str, Any]
    rows: Annotated[dict[str, RowPlan], Field(min_length=2)]
    reference: str
    seeds: Seeds = (0, 1, 2)
    folds: Annotated[int, Field(ge=2)] | None = None
    test: PlaceField | None = None
    external: PlaceField | None = None
    masks: PlaceField | None = None
    sample: Positive | None = None
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _rows_are_known(self) -> ComparisonPlan:
        folders = [folder_name(row) for row in self.rows]
        if len(set(folders)) < len(folders):
            raise ValueError(f"rows need folders of their own; of {sorted(folders)} two are the same")
        for name, own in self.rows.items():
            if own.mean_of and (own.change or own.views is not None or own.seeds is not None):
                raise ValueError(f"row {name!r} is a mean of others; it has no `change`, `views` or `seeds` of its own")
        for name in (self.reference, *(n for row in self.rows.values() for n in row.mean_of)):
            if name not in self.rows:
                raise ValueError(f"{name!r} is not one of the rows {list(self.rows)}")
            if self.rows[name].mean_of:
                raise ValueError(f"row {name!r} is a mean of others; name a trained one")
        for name in self.rows:
            if not self.seeds_of(name):
                raise ValueError(f"row {name!r} is a mean of rows that have no seed in common")
        if self.folds is not None and (self.test, self.external) != (None, None):
            raise ValueError("with `folds` the held-out cases are the test cases; leave `test` and `external` out")
        return self

    @model_validator(mode="after")
    def _claims_fit(self) -> ComparisonPlan:
        for claim in self.claims:
            for row, figure, on in claim.sides():
                if row not in self.rows:
                    raise ValueError(f"claim {claim.says!r}: {row!r} is not one of the rows {list(self.rows)}")
                if claim.paired and not set(self.seeds_of(claim.row)) & set(self.seeds_of(claim.than)):
                    raise ValueError(f"claim {claim.says!r} is paired, but its rows have no seed in common")
                if on == EXTERNAL and self.external is None:
                    raise ValueError(f"claim {claim.says!r} needs a table under `external`")
                if figure.startswith("focus/") and self.masks is None:
                    raise ValueError(f"claim {claim.says!r} needs a table under `masks`")
                if self.rows[row].mean_of and (on != TEST or figure.startswith("focus/")):
                    raise ValueError(
                        f"claim {claim.says!r}: row {row!r} is a mean of others, known on test cases alone"
                    )
        return self

    @property
    def data(self) -> DataConfig:
        """The data of the base, with every view."""
        return self.base_config.data

    @property
    def base_config(self) -> Config:
        """The configuration that every row starts from."""
        return parse_config(self.base, "the plan")

    def needed(self, row: str) -> tuple[list[str], bool]:
        """The sets that a row is tested on, and whether its focus is measured."""
        sides = [side for claim in self.claims for side in claim.sides() if side[0] == row]
        sets = sorted({TEST, *(on for _, _, on in sides)}, key=lambda on: (on != TEST, on))
        return sets, any(figure.startswith("focus/") for _, figure, _ in sides)

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """The seeds of a row; of a mean, those that all its parts have."""
        own = self.rows[row]
        if own.mean_of:
            return tuple(s for s in self.seeds_of(own.mean_of[0]) if all(s in self.seeds_of(n) for n in own.mean_of))
        return own.seeds or self.seeds

    def config(self, row: str, seed: int, source: str) -> Config:
        """The configuration of one run.

        Raises:
            ConfigError: an override does not fit or chooses other cases, a view is not known, unreadable cases are to
                be left out, the epoch is to be chosen on the cases that are tested, or answers are for another
                prevalence than the training cases' own: a temperature would be fitted to the shift.
        """
        own = self.rows[row]
        tree = apply_overrides(self.base, [*own.change, f"training.seed={seed}"])
        if own.views is not None:
            views: Mapping[str, Any] = tree.get("data", {}).get("views", {})
            missing = [v for v in own.views if v not in views]
            if missing:
                raise ConfigError(f"{source}: row {row!r} names the views {missing}; the base has {list(views)}.")
            tree["data"]["views"] = {v: views[v] for v in own.views}
            for key, value in tree.get("model", {}).items():
                if key in ("encoder", "weights") and isinstance(value, dict):
                    tree["model"][key] = {v: value[v] for v in own.views if v in value}
        config = parse_config(tree, f"{source}, row {row!r}")
        others = [key for key in different_keys(self.base_config, config) if key in OF_ALL_ROWS]
        if others:
            raise ConfigError(
                f"{source}: row {row!r} changes {', '.join(others)}, but all rows are trained and tested on the same "
                "cases. State it in the base."
            )
        if config.data.skip_bad:
            raise ConfigError(
                f"{source}: row {row!r} has data.skip_bad, but all rows are tested on the same cases. Leave it out, "
                "and take unreadable images from the table (`agfnet check TABLE --deep` lists them)."
            )
        if config.training.early_stopping is not None and self.test is None:
            raise ConfigError(
                f"{source}: row {row!r} has training.early_stopping, which would choose the epoch on the very cases "
                "that are tested. Leave it out, or name other cases under `test`."
            )
        if config.prediction.prevalence != "training":
            raise ConfigError(
                f"{source}: row {row!r} has prediction.prevalence={config.prediction.prevalence}; methods are compared "
                "by their answers for the training cases' prevalence. Leave it out."
            )
        return config


def load_plan(path: Path, overrides: Sequence[str] = ()) -> ComparisonPlan:
    """Read a plan, apply `key=value` overrides (values are YAML), and check the configuration of every row.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, or a row or a claim that does not fit.
    """
    tree = read_yaml(path)
    if isinstance(tree, dict):
        tree = apply_overrides(tree, overrides)
    plan = validated(ComparisonPlan, tree, str(path))
    views = {
        row: list(plan.config(row, plan.seeds_of(row)[0], str(path)).data.views)
        for row, own in plan.rows.items()
        if not own.mean_of
    }
    _check_views(plan, views, path)
    return plan


def _check_views(plan: ComparisonPlan, views: Mapping[str, Sequence[str]], path: Path) -> None:
    """Views and maps that claims name are there, before anything is trained."""
    for claim in plan.claims:
        for row, figure, on in claim.sides():
            if on.startswith(ONLY) and (view := on.removeprefix(ONLY)) not in views[row]:
                raise ConfigError(
                    f"{path}: claim {claim.says!r}: row {row!r} has no view {view!r}; it has {views[row]}."
                )
            _, *focus = figure.split("/")
            if focus and (focus[0] not in views[row] or focus[1] not in (*MAPS, *CONTROLS)):
                raise ConfigError(
                    f"{path}: claim {claim.says!r}: {figure!r} is not focus/VIEW/MAP with a VIEW of {views[row]} and a "
                    f"MAP of {[*MAPS, *CONTROLS]}."
                )
