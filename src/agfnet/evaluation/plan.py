"""The plan of a comparison: rows that differ in a few settings, their seeds, and the cases that they are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from agfnet.config import Config, Section, apply_overrides, parse_config, read_yaml, validated
from agfnet.types import ConfigError


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
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None


class ComparisonPlan(Section):
    """A comparison.

    Attributes:
        base: the configuration that every row starts from, a mapping as in its own file.
        rows: name -> row.
        reference: the row that the others are compared with.
        seeds: of every row that names none.
        test: a table of test cases; None: the validation part of the base's table.
    """

    base: dict[str, Any]
    rows: Annotated[dict[str, RowPlan], Field(min_length=2)]
    reference: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    test: Path | None = None

    @model_validator(mode="after")
    def _rows_are_known(self) -> ComparisonPlan:
        for name in (self.reference, *(n for row in self.rows.values() for n in row.mean_of)):
            if name not in self.rows:
                raise ValueError(f"{name!r} is not one of the rows {list(self.rows)}")
            if self.rows[name].mean_of:
                raise ValueError(f"row {name!r} is a mean of others; name a trained one")
        return self

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """The seeds of a row; of a mean, those that all its parts have."""
        own = self.rows[row]
        if own.mean_of:
            return tuple(s for s in self.seeds_of(own.mean_of[0]) if all(s in self.seeds_of(n) for n in own.mean_of))
        return own.seeds or self.seeds

    def config(self, row: str, seed: int, source: str) -> Config:
        """The configuration of one run.

        Raises:
            ConfigError: an override does not fit, or a view is not known.
        """
        own = self.rows[row]
        tree = apply_overrides(self.base, [*own.change, f"training.seed={seed}"])
        if own.views is not None:
            views: Mapping[str, Any] = tree.get("data", {}).get("views", {})
            missing = [v for v in own.views if v not in views]
            if missing:
                raise ConfigError(f"{source}: row {row!r} names the views {missing}; the base has {list(views)}.")
            tree["data"]["views"] = {v: views[v] for v in own.views}
        return parse_config(tree, f"{source}, row {row!r}")


def load_plan(path: Path) -> ComparisonPlan:
    """Read a plan, and check the configuration of every row.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, or a row that does not fit.
    """
    plan = validated(ComparisonPlan, read_yaml(path), str(path))
    for row, own in plan.rows.items():
        if not own.mean_of:
            plan.config(row, plan.seeds_of(row)[0], str(path))
    return plan
