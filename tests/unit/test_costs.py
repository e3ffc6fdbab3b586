from __future__ import annotations

import click
import pytest
import torch

from agfnet.export.costs import PARAMETER_BUDGET, part_costs, timings
from agfnet.models.network import AGFNet


@pytest.fixture(scope="module")
def network():
    return AGFNet(5, ["clinical", "ultrasound"], "test_efficientnet", fusion_options={"width": 32})


def test_parts_add_up(network):
    rows = part_costs(network, {"clinical": (64, 64), "ultrasound": (96, 64)})
    assert sum(r.parameters for r in rows) == sum(p.numel() for p in network.parameters())
    flops = {r.name: r.gflops for r in rows}
    assert flops["encoder ultrasound"] == pytest.approx(1.5 * flops["encoder clinical"], rel=1e-3)
    assert all(f > 0 for f in flops.values())


def test_fusion_keeps_to_its_parameter_budget():
    network = AGFNet(5, ["clinical", "ultrasound"])
    own = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.encoders.parameters())
    assert own <= PARAMETER_BUDGET


def test_timings(network):
    before = torch.get_num_threads()
    (timing,) = timings(network, {"clinical": (64, 64), "ultrasound": (64, 64)}, threads=1, batches=[1])
    assert 0 < timing.encoders < timing.graph
    assert timing.speedup > 0
    assert torch.get_num_threads() == before


def test_the_command(agfnet_command):
    result = agfnet_command("summary", "--encoder", "test_efficientnet", "--no-timing")
    assert result.exit_code == 0
    assert "fusion local_fusion" in click.unstyle(result.stdout)


def test_the_command_takes_what_a_configuration_says(agfnet_command, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "data: {table: none.csv, views: {clinical: {kind: photo, size: [64, 96]}}, classes: [a, b]}\n"
        "model: {encoder: tf_efficientnet_lite0, fusion: concatenation}\n"
    )
    told = agfnet_command("summary", "--config", config, "--encoder", "test_efficientnet", "--no-timing").stdout
    assert "clinical 64x96" in told
    assert "local_fusion" not in told
    small = AGFNet(2, ["clinical"], "test_efficientnet", fusion="concatenation")
    heads = small.head, small.view_heads
    assert f"{sum(p.numel() for part in heads for p in part.parameters()):,} parameters" in click.unstyle(told)
