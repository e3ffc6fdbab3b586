from __future__ import annotations

import pytest
import timm
import torch

import agfnet
from agfnet.models.encoders import Encoder, package_weights
from agfnet.models.network import AGFNet
from agfnet.types import ConfigError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return AGFNet(3, ["clinical", "ultrasound"], "test_efficientnet", fusion_options={"width": 32}).eval()


@pytest.mark.parametrize("fusion", ["agf", "concatenation"])
def test_the_evidence_map_adds_up_to_the_logit_that_it_explains(fusion):
    torch.manual_seed(0)
    network = AGFNet(3, ["clinical", "ultrasound"], "test_efficientnet", fusion=fusion).eval()
    out = network({m: torch.randn(2, 3, 64, 96) for m in network.modalities})
    heads, logits = network.view_heads, out.view_logits
    if fusion == "agf":
        heads, logits = network.local_heads, out.local_logits
    for i, modality in enumerate(network.modalities):
        assert torch.allclose(out.evidence[i].mean((2, 3)) + heads[modality].bias, logits[:, i], atol=1e-5)


def test_local_evidence_of_present_views_counts_in_the_fused_logits(network):
    images = {m: torch.randn(2, 3, 64, 96) for m in network.modalities}
    present = torch.tensor([[True, True], [True, False]])
    before = network(images, present)
    with torch.no_grad():
        network.local_heads["ultrasound"].bias += torch.tensor([1.0, 0.0, 0.0])
    after = network(images, present)
    moved = after.fused_logits - before.fused_logits
    assert torch.allclose(moved, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), atol=1e-5)


def test_logits_are_log_probabilities_pooled_by_the_weights(network):
    images = {m: torch.randn(2, 3, 64, 64) for m in network.modalities}
    out = network(images)
    opinions = torch.cat([out.fused_logits[:, None], out.view_logits], 1).log_softmax(-1)
    assert torch.allclose(out.logits, (out.weights[..., None] * opinions).sum(1).log_softmax(-1), atol=1e-5)
    assert torch.allclose(out.weights, torch.tensor([0.5, 0.25, 0.25]).expand(2, -1))


def test_a_view_that_is_not_given_is_absent(network):
    photo = torch.randn(2, 3, 64, 64)
    alone = network({"clinical": photo})
    masked = network({"clinical": photo, "ultrasound": torch.randn(2, 3, 64, 64)}, torch.tensor([[True, False]] * 2))
    assert torch.allclose(alone.logits, masked.logits, atol=1e-6)
    assert torch.equal(alone.weights, torch.tensor([[0.5, 0.5, 0.0]] * 2))


def test_different_encoders_per_view():
    names = {"clinical": "test_efficientnet", "ultrasound": "test_convnext"}
    out = AGFNet(3, list(names), names)({m: torch.randn(2, 3, 64, 64) for m in names})
    assert out.logits.shape == (2, 3)


def test_a_backbone_with_channels_last_maps():
    encoder = Encoder("swin_tiny_patch4_window7_224").eval()
    assert [tuple(m.shape) for m in encoder(torch.randn(1, 3, 224, 224))] == [
        (1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7),
    ]  # fmt: skip


def test_a_backbone_whose_first_map_timm_leaves_out():
    encoder = Encoder("dla46x_c").eval()
    assert [tuple(m.shape[1:]) for m in encoder(torch.randn(1, 3, 64, 96))] == [(64, 8, 12), (128, 4, 6), (256, 2, 3)]
    assert encoder.channels == (64, 128, 256)


def test_maps_at_other_strides_than_asked_for_are_refused(monkeypatch):
    """Whatever timm makes of the choice of maps."""
    create = timm.create_model

    def shifted(name, out_indices=None, **rest):
        chosen = {} if out_indices is None else {"out_indices": [i - 1 for i in out_indices]}
        return create(name, **chosen, **rest)

    monkeypatch.setattr(timm, "create_model", shifted)
    with pytest.raises(ConfigError, match=r"strides \[4, 8, 16\] where \(8, 16, 32\)"):
        Encoder("test_efficientnet")


def test_one_image_of_a_view_in_a_batch_makes_no_batch_statistics():
    """Its maps of one position would be one value a channel."""
    torch.manual_seed(0)
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion="concatenation")
    before = {k: v.clone() for k, v in network.encoders["b"].named_buffers()}
    network({m: torch.randn(3, 3, 32, 32) for m in "ab"}, torch.tensor([[1, 1], [1, 0], [1, 0]]).bool()).logits[
        :, 0
    ].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in network.encoders["b"].named_buffers())
    assert all(p.grad is not None for p in network.encoders["b"].parameters())
    assert network.encoders["b"].body.conv_stem.weight.grad.any()
    assert all(m.training for m in network.modules())


def test_batch_normalisation_that_was_frozen_stays_so():
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion="concatenation")
    norms = [m for m in network.encoders.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    network({m: torch.randn(3, 3, 32, 32) for m in "ab"}, torch.tensor([[1, 1], [1, 0], [1, 0]]).bool())
    assert norms
    assert not any(norm.training for norm in norms)


def test_nor_does_a_batch_of_one():
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion="concatenation")
    before = {k: v.clone() for k, v in network.encoders.named_buffers()}
    network({m: torch.randn(1, 3, 32, 32) for m in "ab"})
    assert all(torch.equal(v, before[k]) for k, v in network.encoders.named_buffers())


def test_the_weights_package_gives_timms_features():
    weights = package_weights("tf_efficientnet_lite0")
    assert weights is not None
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(weights, strict=False)
    x = torch.randn(1, 3, 64, 64)
    features = Encoder("tf_efficientnet_lite0", pretrained=True).eval()(x)[-1]
    stem = whole.blocks(whole.bn1(whole.conv_stem(x)))
    assert torch.allclose(features, stem, atol=1e-4)


def test_a_local_file_of_weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.manual_seed(1)
    torch.save(timm.create_model("test_efficientnet").state_dict(), path)
    first, second = (Encoder("test_efficientnet", pretrained=path).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_each_view_may_have_weights_of_its_own(tmp_path):
    """One pretrained on scans beside one pretrained on photos, of two backbones."""
    stems = {}
    for view, name in (("photo", "test_efficientnet"), ("scan", "test_convnext")):
        weights = timm.create_model(name).state_dict()
        torch.save(weights, tmp_path / f"{view}.pth")
        stems[view] = next(iter(weights.items()))
    network = AGFNet(
        3, list(stems), {"photo": "test_efficientnet", "scan": "test_convnext"},
        pretrained={view: tmp_path / f"{view}.pth" for view in stems},
    )  # fmt: skip
    for view, (_, wanted) in stems.items():
        own = network.encoders[view].state_dict().values()
        assert any(tensor.shape == wanted.shape and torch.equal(tensor, wanted) for tensor in own)


def test_a_local_file_with_other_names_is_no_random_start(tmp_path):
    weights = timm.create_model("test_efficientnet", num_classes=3).state_dict()
    torch.save(weights, tmp_path / "other-head.pth")
    loaded = Encoder("test_efficientnet", pretrained=tmp_path / "other-head.pth").body.state_dict()
    assert torch.equal(loaded["conv_stem.weight"], weights["conv_stem.weight"])
    torch.save({f"backbone.{key}": value for key, value in weights.items()}, tmp_path / "prefixed.pth")
    with pytest.raises(ConfigError, match=r"lacks .* such as 'conv_stem.weight'; it has 'backbone.conv_stem.weight'"):
        Encoder("test_efficientnet", pretrained=tmp_path / "prefixed.pth")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "densenet121", "drop_path": 0.1}, "does not take drop_path"),
        ({"name": "resnet5000"}, "not a timm backbone"),
        ({"name": "test_vit"}, "no features at stride"),
        ({"name": "test_efficientnet", "pretrained": "missing.pth"}, "no such file"),
        ({"name": "test_efficientnet", "pretrained": "none.safetensors"}, "cannot be read"),
        ({"name": "test_efficientnet", "pretrained": "none.pth"}, "cannot be read"),
    ],
)
def test_encoder_errors(arguments, said, tmp_path):
    for name in ("none.safetensors", "none.pth"):
        (tmp_path / name).write_bytes(b"these are no weights")
    if "pretrained" in arguments:
        arguments = arguments | {"pretrained": tmp_path / arguments["pretrained"]}
    with pytest.raises(ConfigError, match=said):
        Encoder(**arguments)


def test_no_weights_names_the_three_ways(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", _unreachable)
    with pytest.raises(ConfigError, match=r"(?s)local file.*package.*hub"):
        Encoder("resnet18", pretrained=True)


def _unreachable(*_args, **_kwargs):
    raise OSError("no network")


def test_public_names():
    assert agfnet.AGFNet is AGFNet
    assert "Predictor" in dir(agfnet)
    with pytest.raises(AttributeError, match="nothing"):
        _ = agfnet.nothing


def test_an_unknown_view_is_refused(network):
    with pytest.raises(ValueError, match="photo"):
        network({"photo": torch.randn(1, 3, 64, 64)})
    with pytest.raises(ValueError, match="no view"):
        network({})


def test_a_view_that_is_not_given_is_absent_whatever_is_said_of_it(network):
    images = {"clinical": torch.randn(2, 3, 64, 64)}
    said = network(images, torch.ones(2, len(network.modalities), dtype=torch.bool))
    assert torch.equal(said.logits, network(images).logits)


@pytest.mark.parametrize("name", ["type", "keys", "float", "training"])
def test_names_that_modules_use_themselves_are_no_views(name):
    with pytest.raises(ConfigError, match="cannot be called"):
        AGFNet(3, ["a", name], "test_efficientnet")


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a.b"], [""]])
def test_views_need_names_of_their_own(names):
    with pytest.raises(ConfigError, match="each a name of its own without a dot"):
        AGFNet(3, names, "test_efficientnet")


def test_every_view_needs_an_encoder():
    with pytest.raises(ConfigError, match=r"no encoder is given for \['b'\]"):
        AGFNet(3, ["a", "b"], {"a": "test_efficientnet"})


@pytest.mark.parametrize(
    ("fusion", "options"),
    [
        ("nonsense", {}), ("agf", {"foo": 1}), ("agf", {"width": 30}), ("agf", {"heads": 3, "width": 36}),
        ("agf", {"heads": 0}), ("agf_without_local", {"width": 30}), ("bottleneck", {"width": 32, "heads": 5}),
        ("cross_attention", {"width": "wide"}), ("mmtm", {"ratio": 0}),
        ("concatenation", {"width": 32}), ("agf", {"global_depth": 0}), ("agf", {"queries": 0}), ("agf", {"heads": -4}),
        ("agf", {"width": -4}), ("agf", {"heads": 4.0}), ("agf", {"local_depth": -1}),
        ("agf_without_local", {"depth": 0}), ("bottleneck", {"tokens": 0}),
    ],
)  # fmt: skip
def test_fusion_errors(fusion, options):
    with pytest.raises(ConfigError, match="fusion"):
        AGFNet(3, ["a"], "test_efficientnet", fusion=fusion, fusion_options=options)
