from __future__ import annotations

import pytest
import timm
import torch

from agfnet.training.precision import computes_in, depthwise_in_float32


def test_depthwise_convolutions_leave_autocast_and_nothing_else_changes():
    """Names, parameters and outputs stay; of the convolutions under autocast these alone answer in float32."""
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet").eval()
    images = torch.randn(2, 3, 64, 64)
    before, weights = network(images), dict(network.state_dict())
    depthwise_in_float32(network)
    assert torch.equal(network(images), before)
    assert list(network.state_dict()) == list(weights)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    kinds = {}
    for conv in convolutions:
        conv.register_forward_hook(lambda conv, _, out: kinds.setdefault(conv.groups > 1, set()).add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(images)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}


@pytest.mark.parametrize("pays", [True, False])
def test_what_auto_comes_to_depends_on_the_machine(monkeypatch, pays):
    monkeypatch.setattr("agfnet.training.precision.bfloat16_pays", lambda: pays)
    assert computes_in("auto") == ("bfloat16" if pays else "float32")
    assert [computes_in(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
