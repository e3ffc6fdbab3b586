from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from pytorch_lightning import LightningModule
from safetensors.torch import load_file

from agfnet.config import load_config, parse_config
from agfnet.data.table import cases_sha256, own_cases
from agfnet.evaluation.evaluate import CHOSEN, evaluate
from agfnet.evaluation.experiment import run
from agfnet.prediction.bundle import read_bundle
from agfnet.runfolder import CHECKPOINTS, WEIGHTS
from agfnet.training.build import CaseData, task_of
from agfnet.training.callbacks import RampedAverage
from agfnet.training.module import LesionModule
from agfnet.training.ranks import Machine
from agfnet.training.run import load_run, parts, train
from agfnet.types import BundleError, ConfigError, ImageError, TableError
from drawn import small_config


def config_of(drawn, table="parts.csv", **training):
    tree = small_config(drawn / table, **training)
    tree["reconstruction"] = {"enabled": False}
    return parse_config(tree, "test")


def test_without_frl_and_without_averaging(drawn, tmp_path):
    train(config_of(drawn, epochs=1, ema=0.0), tmp_path / "run")
    config, task, network, facts = load_run(tmp_path / "run")
    assert not config.reconstruction.enabled
    assert task.classes == ("cyst", "lipoma", "naevus")
    assert not network.training
    assert facts["epochs"] == 1
    assert facts["minutes"] > 0


@pytest.fixture
def with_a_broken_image(drawn, tmp_path):
    frame = pl.read_csv(drawn / "parts.csv").with_columns(
        pl.col("clinical", "ultrasound").map_elements(lambda p: str(drawn / p), pl.String)
    )
    row = frame.with_row_index().filter(pl.col("split") == "train")["index"][2]
    (tmp_path / "broken.jpg").write_text("no image")
    frame[row, "clinical"] = str(tmp_path / "broken.jpg")
    frame.write_csv(tmp_path / "broken.csv")
    return tmp_path / "broken.csv", frame["case_id"][row], row + 2


def test_an_unreadable_image_stops_the_training(drawn, with_a_broken_image, tmp_path):
    table, case, row = with_a_broken_image
    with pytest.raises(ImageError, match=rf"row {row}, case {case}: .*broken\.jpg.*data\.skip_bad"):
        train(config_of(drawn, table), tmp_path / "run")
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_or_is_left_out_counted_and_listed(drawn, with_a_broken_image, tmp_path):
    table, case, _ = with_a_broken_image
    config = config_of(drawn, table, epochs=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"skip_bad": True})})
    train(config, tmp_path / "run")
    assert pl.read_csv(tmp_path / "run" / "bad_cases.csv")["case_id"].to_list() == [case]
    counted = json.loads((tmp_path / "run" / "run.json").read_text())["cases"]["train"]["cases"]
    assert counted == len(parts(config, own_cases(config.data)).train) - 1


def skipping(drawn, folder, broken, **training):
    """A configuration that leaves out the cases for which `broken`, a Polars expression, is true."""
    (folder / "broken.jpg").write_text("no image")
    frame = pl.read_csv(drawn / "parts.csv").with_columns(
        pl.col("clinical", "ultrasound").map_elements(lambda p: str(drawn / p), pl.String)
    )
    bad = pl.lit(str(folder / "broken.jpg"))
    frame.with_columns(pl.when(broken).then(bad).otherwise("clinical").alias("clinical")).write_csv(folder / "t.csv")
    tree = small_config(folder / "t.csv", **training)
    tree["data"]["skip_bad"] = True
    tree["reconstruction"] = {"enabled": False}
    return parse_config(tree, "test")


PART = pl.col("split")


@pytest.mark.parametrize(
    ("broken", "devices", "said"),
    [
        (PART == "validation", 1, "no validation case with a label can be read"),
        ((PART == "train") & (pl.col("label") == "cyst"), 1, "no training case that is cyst can be read"),
        ((PART == "validation") & (pl.int_range(pl.len()).over("split") > 0), 2, "1 labelled validation cases for 2"),
    ],
)
def test_what_is_left_without_the_unreadable_is_checked_again(drawn, tmp_path, monkeypatch, broken, devices, said):
    monkeypatch.setattr("agfnet.training.run.together", lambda _: pytest.fail("the training begins"))
    with pytest.raises((ConfigError, TableError), match=said):
        train(skipping(drawn, tmp_path, broken), tmp_path / "run", machine=Machine(devices=devices))


def test_a_repaired_image_is_not_resumed(drawn, tmp_path):
    first = (PART == "validation") & (pl.int_range(pl.len()).over("split") == 0)
    config = skipping(drawn, tmp_path, first, epochs=1)
    train(config, tmp_path / "run")
    left_out = json.loads((tmp_path / "run" / "run.json").read_text())["left_out"]
    assert len(left_out) == 1
    (tmp_path / "run" / WEIGHTS).unlink()
    shutil.copy(next((drawn / "photos").iterdir()), tmp_path / "broken.jpg")
    with pytest.raises(ConfigError, match=rf"cannot be read now: \['{left_out[0]}'\]"):
        train(config, tmp_path / "run", resume=True)


def moved(drawn, folder):
    """A copy of the table and its images, and the first photos of the training and of the validation part."""
    for name in ("photos", "scans"):
        shutil.copytree(drawn / name, folder / name)
    shutil.copy(drawn / "parts.csv", folder / "parts.csv")
    frame = pl.read_csv(folder / "parts.csv").filter(pl.col("clinical").is_not_null())
    return [folder / frame.filter(pl.col("split") == part)["clinical"][0] for part in ("train", "validation")]


def test_what_a_run_was_trained_on_stays_as_it_was(drawn, tmp_path):
    """Other images are not gone on with; of a finished run nothing is told anew, also where its images are gone."""
    photo, _ = moved(drawn, tmp_path)
    config = config_of(tmp_path, epochs=1)
    train(config, tmp_path / "run")
    facts = (tmp_path / "run" / "run.json").read_text()
    photo.write_bytes(photo.read_bytes() + b"other")
    train(config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").read_text() == facts
    (tmp_path / "run" / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match="training images have changed since the run was started"):
        train(config, tmp_path / "run", resume=True)


def test_one_image_in_both_parts_is_refused(drawn, tmp_path):
    trained, held = moved(drawn, tmp_path)
    shutil.copy(trained, held)
    with pytest.raises(
        TableError, match=rf"case {held.stem}: an image of this validation case is also one of a training"
    ):
        train(config_of(tmp_path, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_that_read_other_cases_are_told(drawn, tmp_path):
    config = config_of(drawn)
    cases = parts(config, own_cases(config.data))
    data = CaseData(config, task_of(config, *cases), {}, *cases, tmp_path)
    for first, told in ((cases_sha256(*cases), False), (cases_sha256(cases[0][1:], cases[1]), True)):
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda _, first=first: first))
        with pytest.raises(ConfigError, match="cannot read the same images") if told else nullcontext():
            data.setup("fit")


def test_a_changed_table_is_not_resumed(drawn, tmp_path):
    table = tmp_path / "t.csv"
    frame = pl.read_csv(drawn / "parts.csv").with_columns(
        pl.col("clinical", "ultrasound").map_elements(lambda p: str(drawn / p), pl.String)
    )
    frame.write_csv(table)
    config = config_of(drawn, table, epochs=1)
    train(config, tmp_path / "run")
    frame.head(30).write_csv(table)
    with pytest.raises(ConfigError, match="has changed since"):
        train(config, tmp_path / "run", resume=True)


def test_a_folder_of_other_things_is_not_written_into(drawn, tmp_path):
    """But one that holds what a training leaves that was stopped before its first epoch is."""
    config = config_of(drawn, epochs=1)
    (tmp_path / "config.yaml").write_text("# my notes")
    with pytest.raises(ConfigError, match=r"holds other things than a run \(config.yaml\)"):
        train(config, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "# my notes"
    (tmp_path / "run" / "cache").mkdir(parents=True)
    (tmp_path / "run" / "train.log").write_text("of the first try")
    assert train(config, tmp_path / "run").exists()


def test_an_unfinished_run_cannot_be_used(tmp_path):
    with pytest.raises(BundleError, match="no finished training run"):
        load_run(tmp_path)
    with pytest.raises(BundleError):
        read_bundle(tmp_path)


def test_a_run_that_other_code_went_on_with_tells_both(drawn, tmp_path, monkeypatch, caplog):
    config = config_of(drawn, epochs=1)
    train(config, tmp_path / "run")
    (tmp_path / "run" / WEIGHTS).unlink()
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    train(config, tmp_path / "run", resume=True)
    assert "resumed_by" not in json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / WEIGHTS).unlink()
    monkeypatch.setattr("agfnet.training.folder._code", lambda: "another")
    train(config, tmp_path / "run", resume=True)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["code"] == first["code"]
    assert [by["code"] for by in told["resumed_by"]] == ["another"]
    assert "resumed with other code than before" in caplog.text


def test_a_checkpoint_with_another_decoder_is_told(drawn, tmp_path):
    config = config_of(drawn, epochs=1)
    train(config, tmp_path / "run").unlink()
    file = tmp_path / "run" / CHECKPOINTS / "last.ckpt"
    stored = torch.load(file, weights_only=True)
    stored["state_dict"]["decoder.former"] = torch.zeros(1)
    torch.save(stored, file)
    with pytest.raises(ConfigError, match="version of agfnet with another reconstruction"):
        train(config, tmp_path / "run", resume=True)


def test_a_run_goes_on_elsewhere_and_tells_what_it_was_computed_with(drawn, tmp_path, monkeypatch, caplog):
    """Another cache and other workers change nothing; another precision does, as `auto` may mean on other machines."""
    config = config_of(drawn, epochs=1, precision="auto")
    monkeypatch.setattr("agfnet.training.precision.bfloat16_pays", lambda: True)
    train(config, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["device"], facts["precision"]) == ("cuda" if torch.cuda.is_available() else "cpu", "bfloat16")
    (tmp_path / "run" / WEIGHTS).unlink()
    monkeypatch.setattr("agfnet.training.precision.bfloat16_pays", lambda: False)
    there = {"data": config.data.model_copy(update={"workers": 1, "cache": tmp_path / "cache"})}
    train(config.model_copy(update=there), tmp_path / "run", resume=True)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [by["precision"] for by in facts["resumed_by"]] == ["float32"]
    assert "resumed with other precision than before" in caplog.text


def test_a_run_resumed_with_worker_processes_is_as_if_it_had_not_stopped(drawn, tmp_path):
    """They draw the first batches before the trainer says which epoch it is."""
    config = config_of(drawn, epochs=3)
    whole = train(config, tmp_path / "whole").read_bytes()
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": 1})})

    def stop(history):
        if len(history) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, tmp_path / "run", on_epoch=stop)
    assert train(config, tmp_path / "run", resume=True).read_bytes() == whole


def test_views_in_another_order_are_another_network(drawn, tmp_path):
    tree = small_config(drawn / "parts.csv", epochs=1)
    train(parse_config(tree, "test"), tmp_path / "run")
    (tmp_path / "run" / WEIGHTS).unlink()
    tree["data"]["views"] = dict(reversed(tree["data"]["views"].items()))
    with pytest.raises(ConfigError, match=r"another configuration \(config\.yaml\): data\.views\. Resume"):
        train(parse_config(tree, "test"), tmp_path / "run", resume=True)


def test_a_run_of_another_versions_network_is_told(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"network": 1}))
    with pytest.raises(BundleError, match="another network"):
        load_run(folder)
    config = load_config(folder / "config.yaml")
    with pytest.raises(BundleError, match="another network"):
        train(config, folder, resume=True)


def test_weights_are_the_averaged_ones_also_after_a_kill_at_the_very_end(drawn, tmp_path):
    """Killed between the last checkpoint and the weights, a resumed run has no epoch left to train.

    What was being written when it was killed goes; in the cache, which others may share, it stays.
    """
    config = config_of(drawn, epochs=2, ema=0.9)
    run_folder = tmp_path / "run"
    first = train(config, run_folder).read_bytes()
    kept = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, last = (kept[key]["network.head.weight"] for key in ("state_dict", "current_model_state"))
    assert torch.equal(load_file(run_folder / WEIGHTS)["head.weight"], averaged)
    assert not torch.equal(averaged, last)
    (run_folder / WEIGHTS).unlink()
    half = [run_folder / part / ".last.ckpt.0123abcd.tmp" for part in ("checkpoints", "validation", ".", "cache")]
    for file in half:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    assert train(config, run_folder, resume=True).read_bytes() == first
    assert [file.exists() for file in half] == [False, False, False, True]


def test_other_cases_are_not_resumed(drawn, tmp_path):
    config = config_of(drawn, epochs=1)
    chosen = parts(config, own_cases(config.data))
    train(config, tmp_path / "run", cases=chosen)
    with pytest.raises(ConfigError, match="on other cases"):
        train(config, tmp_path / "run", cases=chosen._replace(train=chosen.train[1:]), resume=True)


def test_a_loss_that_is_no_number_is_said(drawn, tmp_path):
    with pytest.raises(ConfigError, match=r"lower training\.learning_rate"):
        train(config_of(drawn, epochs=2, learning_rate=1e30), tmp_path / "run")


@pytest.mark.parametrize("ruined", [math.nan, math.inf])
def test_a_network_that_the_last_step_ruins_is_said(drawn, tmp_path, monkeypatch, ruined):
    """Its training loss was taken before; no checkpoint is left of it."""

    def ruin(module):
        module.network.head.bias.data.fill_(ruined)

    monkeypatch.setattr(LesionModule, "on_validation_epoch_start", ruin)
    with pytest.raises(ConfigError, match=r"no finite number in epoch 1; lower training\.learning_rate"):
        train(config_of(drawn, epochs=1, ema=0.0), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_the_average_forgets_the_start_of_a_short_training():
    average = RampedAverage(0.99).average
    value = torch.tensor(0.0)
    for count in range(1, 30):
        average([value], [torch.tensor(1.0)], torch.tensor(count))
    assert value > 0.95
    late, steps = torch.tensor(0.0), torch.tensor(3)
    average([late], [torch.tensor(1.0)], 10**6)
    assert late.item() == pytest.approx(0.01)
    average([steps], [torch.tensor(7)], 10**6)
    assert steps.item() == 7


def test_the_average_lies_where_the_training_is():
    """Lightning moves the module to its device only after the callbacks' setup."""
    average, module = RampedAverage(0.99), LightningModule()
    module.layer = torch.nn.Linear(2, 2)
    average.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"))), module, "fit")
    assert average._average_model.module.layer.weight.device.type == "meta"
    assert module.layer.weight.device.type == "cpu"


def test_what_is_averaged_moves_by_the_ramped_decay():
    """Not as a plain mean, which is what PyTorch takes where it is told nothing."""
    average, module = RampedAverage(0.99), LightningModule()
    module.layer = torch.nn.Linear(1, 1)
    average.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))), module, "fit")
    for value in (0.0, 1.0):
        torch.nn.init.constant_(module.layer.weight, value)
        average._average_model.update_parameters(module)
    assert average._average_model.module.layer.weight.item() == pytest.approx(1.0 - 2.0 / 11.0)


def test_sizes_that_an_encoder_does_not_take_are_said_first(drawn, tmp_path):
    tree = small_config(drawn / "parts.csv")
    tree["model"] = {"encoder": "swin_tiny_patch4_window7_224", "pretrained": False}
    with pytest.raises(ConfigError, match="does not take images of"):
        train(parse_config(tree, "test"), tmp_path / "run")


def test_figures_of_a_chosen_epoch_say_so(drawn, tmp_path):
    config = config_of(drawn, epochs=1, early_stopping=3)
    assert f"All of these cases {CHOSEN}." in run(config, tmp_path / "run")["notes"]
    # Known again by their images, whatever part they are called.
    table = pl.read_csv(drawn / "parts.csv")
    renamed = {"validation": "test", "test": "validation", "train": "train", "calibration": "calibration"}
    table.with_columns(split=pl.col("split").replace(renamed)).write_csv(drawn / "renamed.csv")
    for part, chosen in (("test", True), ("validation", False)):
        told = evaluate(
            tmp_path / "run", drawn / "renamed.csv", tmp_path / part, part=part, draws=100, threads=1,
            include_test=part == "test",
        )  # fmt: skip
        assert any(CHOSEN in note for note in told["notes"]) == chosen


def test_a_finished_run_without_its_checkpoints_is_still_that_run(drawn, tmp_path):
    config = config_of(drawn, epochs=1)
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config_of(drawn, epochs=2), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"another configuration \(config\.yaml\): training\.epochs\. Resume"):
        train(config_of(drawn, epochs=2), tmp_path / "run", resume=True)


@pytest.mark.parametrize("stopping", [None, 1])
def test_a_run_of_a_version_that_noted_no_choice_is_exported_anew(drawn, tmp_path, stopping):
    config = parse_config(small_config(drawn / "parts.csv", epochs=1, early_stopping=stopping), "test")
    run(config, tmp_path / "run")
    facts, bundle = tmp_path / "run" / "run.json", tmp_path / "run" / "model.agf"
    noted = read_bundle(bundle).facts["chosen_on"]
    assert bool(noted) == (stopping is not None)
    facts.write_text(
        json.dumps({key: value for key, value in json.loads(facts.read_text()).items() if key != "chosen_on"})
    )
    bundle.unlink()
    run(config, tmp_path / "run", resume=True)
    assert read_bundle(bundle).facts["chosen_on"] == noted
