"""From a configuration and cases to what is learnt."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from agfnet.config import parse_config
from agfnet.data.table import own_cases
from agfnet.training.build import MOST_VALUES, task_of
from agfnet.training.run import parts
from agfnet.types import ConfigError, TableError
from drawn import small_config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["cyst", "lipoma"]}, "label 'naevus' is not one of the classes"),
        ({"classes": ["cyst", "lipoma", "naevus", "wart"]}, "no training case is wart"),
        ({"malignant": ["wart"]}, "wart"),
        ({"malignant": ["cyst", "lipoma", "naevus"]}, "every class"),
        ({"malignant": ["cyst", "cyst"]}, r"malignant names \['cyst'\] twice"),
        ({"classes": ["cyst", "lipoma", "naevus", "lipoma"]}, r"classes names \['lipoma'\] twice"),
        ({"extra_labels": ["reference_standard"]}, "reference_standard"),
    ],
)
def test_classes_that_do_not_fit(drawn, changes, said):
    tree = small_config(drawn / "parts.csv")
    tree["data"] |= changes
    with pytest.raises((TableError, ConfigError), match=said):
        given(tree)


def test_a_view_without_a_training_image_cannot_be_learnt(drawn):
    tree = small_config(drawn / "unseen.csv")
    lacking = pl.when(split="train").then(None).otherwise("ultrasound").alias("ultrasound")
    pl.read_csv(drawn / "parts.csv").with_columns(lacking).write_csv(drawn / "unseen.csv")
    with pytest.raises(TableError, match="no training case has an image of ultrasound"):
        given(tree)


@pytest.mark.parametrize(("dropout", "told"), [(0.0, False), (0.9, True)])
def test_a_view_of_few_images_a_step_is_told(drawn, caplog, dropout, told):
    tree = small_config(drawn / "parts.csv")
    tree["training"] |= {"batch_size": 8, "modality_dropout": dropout}
    given(tree)
    assert ("images a step, too few" in caplog.text) == told


def test_training_cases_without_a_label_are_counted(drawn):
    config = parse_config(small_config(drawn / "parts.csv"), "test")
    train, validation = parts(config, own_cases(config.data))
    bare = [*(replace(case, label=None) for case in train[:3]), *train[3:]]
    with pytest.raises(
        TableError, match=rf"parts.csv: 3 of {len(train)} training cases have no label, the first in row"
    ):
        task_of(config, bare, validation)


def test_a_class_whose_name_a_table_cannot_hold(drawn):
    tree = small_config(drawn / "parts.csv")
    config = parse_config(tree, "test")
    cases = parts(config, own_cases(config.data))
    renamed = [[replace(c, label=c.label.replace("cyst", "cyst; other")) for c in own] for own in cases]
    with pytest.raises(TableError, match="'cyst; other': diagnosis sets are written with `;`"):
        task_of(config, *renamed)


def test_a_further_label_of_numbers(drawn):
    tree = small_config(drawn / "parts.csv")
    tree["data"]["extra_labels"] = ["border"]
    config = parse_config(tree, "test")
    train, validation = parts(config, own_cases(config.data))
    aged = [replace(train[i % len(train)], extra_labels={"border": str(i)}) for i in range(MOST_VALUES + 1)]
    with pytest.raises(TableError, match=rf"'border' has {MOST_VALUES + 3} values in the training part"):
        task_of(config, [*train, *aged], validation)


def given(tree):
    config = parse_config(tree, "test")
    return task_of(config, *parts(config, own_cases(config.data)))


def test_cases_without_any_of_the_views_are_left_out(drawn, caplog):
    tree = small_config(drawn / "parts.csv")
    del tree["data"]["views"]["clinical"]
    table = pl.read_csv(drawn / "parts.csv")
    cases = own_cases(parse_config(tree, "test").data)
    assert [c.case_id for c in cases] == table.filter(pl.col("ultrasound").is_not_null())["case_id"].to_list()
    assert f"{table['ultrasound'].null_count()} of {len(table)} cases have no image of ultrasound" in caplog.text
    assert "mm_per_pixel" not in caplog.text
    tree["data"]["views"]["ultrasound"]["mm_per_pixel"] = 0.1
    own_cases(parse_config(tree, "test").data)
    assert f"{len(cases)} of {len(cases)} cases have no ultrasound_mm_per_pixel" in caplog.text
