"""The front door, at a size that runs in a minute: the same steps as `agfnet demo`, with a small network."""

from __future__ import annotations

import json

import polars as pl
import pytest
from PIL import Image

from agfnet.evaluation import demo as front_door
from agfnet.evaluation.demo import demo, demo_markdown, demo_paths
from agfnet.prediction.predictor import Predictor
from agfnet.types import ConfigError

SMALL = {"cases": 330, "epochs": 2, "seed": 1}


def smaller(config):
    """The same configuration with an encoder and images that train in seconds."""
    views = {m: v.model_copy(update={"size": (64, 64)}) for m, v in config.data.views.items()}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"views": views}),
            "model": config.model.model_copy(
                update={"encoder": "test_efficientnet", "pretrained": False, "fusion_options": {"width": 32}}
            ),
            "training": config.training.model_copy(update={"precision": "float32"}),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo that was stopped before its second network, and called again."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    trained = []

    def stop_at_the_second(config):
        if trained:
            raise KeyboardInterrupt
        trained.append(config)
        return smaller(config)

    with pytest.raises(KeyboardInterrupt):
        demo(folder, **SMALL, configure=stop_at_the_second)
    return folder


def test_it_goes_on_and_shows_what_came_out(folder):
    trained = folder / "both-views" / "weights.safetensors"
    first = trained.stat().st_mtime_ns
    result = demo(folder, **SMALL, configure=smaller)
    assert trained.stat().st_mtime_ns == first
    assert Predictor(folder / "both-views").decision is not None
    page = (folder / "report" / "report.html").read_text()
    assert "<h1>Report: test part of parts.csv</h1>" in page
    assert f"on {result.cases} cases of" in page
    assert "no figure on these images is a clinical result" in page
    parts = pl.read_csv(folder / "phantom" / "parts.csv")
    assert result.cases == (parts["split"] == "test").sum()
    assert set(result.balanced_accuracy) == set(front_door.NETWORKS)
    best = max(float(result.balanced_accuracy[n].value) for n in front_door.NETWORKS if n != "both views")
    assert float(result.gain.value) == pytest.approx(float(result.balanced_accuracy["both views"].value) - best)
    for path, _ in demo_paths(result):
        assert path.exists(), path
    written = json.loads((folder / "demo.json").read_text())
    assert written["balanced_accuracy"]["both views"]["value"] == float(result.balanced_accuracy["both views"].value)
    text = demo_markdown(result)
    assert text == (folder / "demo.md").read_text()
    assert "no figure on these images is a clinical result" in text
    assert Image.open(folder / "showcase.png").width == 1000
    card = json.loads((folder / "both-views" / "test" / "scorecard.json").read_text())
    assert card["n_cases"] == result.cases
    assert set(card["subgroups"]) == {"skin_type", "device"}
    for part in ("validation", "test"):
        assert (
            "no figure on these images is a clinical result"
            in (folder / "both-views" / part / "summary.md").read_text()
        )


def test_other_settings_need_another_folder(folder):
    with pytest.raises(ConfigError, match="other settings"):
        demo(folder, cases=331, epochs=2, seed=1, configure=smaller)
    with pytest.raises(ConfigError, match="choose another folder"):
        demo(folder, cases=330, epochs=3, seed=1, configure=smaller)
