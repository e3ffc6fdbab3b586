from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from agfnet.config import load_config, parse_config, save_config
from agfnet.evaluation.plan import load_plan
from agfnet.files import read_yaml
from agfnet.types import ConfigError
from drawn import small_config, write_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def path(tmp_path):
    return write_config(tmp_path / "c.yaml", small_config(tmp_path / "t.csv"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_configurations_are_valid(path):
    if path.name.startswith("compare-"):
        assert load_plan(path).rows
    else:
        assert load_config(path).data.views


def test_overrides_and_round_trip(path, tmp_path):
    config = load_config(path, ["training.epochs=7", "model.encoder={clinical: a, ultrasound: b}"])
    assert config.training.epochs == 7
    assert config.model.encoder == {"clinical": "a", "ultrasound": "b"}
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_it_is_frozen(path):
    with pytest.raises(ValidationError):
        load_config(path).training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", r"training\.epoch: unknown key; did you mean 'epochs'"),
        ("data.views.clinical.sise=[64,64]", r"unknown key; did you mean 'size'"),
        ("trainings.epochs=3", "did you mean 'training'"),
        ("training.epochs=0", r"training\.epochs: .*greater than 0"),
        ("training.modality_dropout=1.0", "less than 1"),
        ("data.views.clinical.kind=xray", "photo"),
        ("model.encoder={clinical: a}", "model.encoder names"),
        ("model={weights: {scan: w.pth}}", "model.weights names"),
        ("model.weights=s3://bucket/w.pth", "model.weights"),
        ("model={pretrained: false, weights: w.pth}", r"model: .*weights are not read where pretrained is false"),
        ("training.seed=4294967296", r"training\.seed: .*less than 4294967296"),
        ("data.malignant=[1]", r"data\.malignant\.0: 1 is no text; put it in quotes"),
        ("data.train=[train, validation]", "both train and validation"),
        ("data.validation=[test]", "include-test"),
        ("data.views.present={kind: photo}", "views"),
        ("data.views={ph.1: {kind: photo}}", "views"),
        ("data.views={US image: {kind: ultrasound}}", "'US image' is no name of a view.*Rename the column"),
        ("training.epochs", "not of the form"),
        ("training.epochs.more=1", "not a section|a value"),
        ("training.epochs=[", "not YAML"),
    ],
)
def test_faults_are_named(path, override, said):
    with pytest.raises(ConfigError, match=said):
        load_config(path, [override])


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds no configuration"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("training:\n  epochs: 5\ntraining:\n  seed: 1\n")
    with pytest.raises(ConfigError, match=r"'training' is given twice(.|\n)*line 3"):
        load_config(tmp_path / "twice.yaml")
    (tmp_path / "list.yaml").write_text("? [a]\n: 1\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "merged.yaml").write_text("a: &a {epochs: 5, seed: 1}\nb:\n  <<: *a\n  seed: 2\n")
    assert read_yaml(tmp_path / "merged.yaml")["b"] == {"epochs": 5, "seed": 2}


def test_the_documented_keys_and_defaults_are_the_real_ones():
    """docs/config.md against the configuration itself."""
    text = (Path(__file__).parents[2] / "docs" / "config.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `((?:data|model|reconstruction|training|prediction)\.\w+)` \| ([^|]+) \|", text, re.MULTILINE
    )
    whole = parse_config({"data": {"table": "t.csv", "views": {"clinical": {"kind": "photo"}}}}, "test")
    every = {f"{section}.{name}" for section, own in whole for name in type(own).model_fields}
    assert sorted(key for key, _ in rows) == sorted(every - {"data.views"})  # of a view each key has its own row
    for key, told in rows:
        section, name = key.split(".")
        value = getattr(getattr(whole, section), name)
        shown = f"[{', '.join(value)}]" if isinstance(value, tuple) and value else str(value).lower()
        if told.strip("` ") not in {"needed", "labels of the training part, sorted"}:
            assert told.strip("` ") == ("none" if value is None or value == () else shown), key
