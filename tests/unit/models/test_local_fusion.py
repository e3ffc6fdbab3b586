from __future__ import annotations

import pytest
import torch

from agfnet.models.local_fusion import LocalFusion, layout

CPU = torch.device("cpu")
SHAPES = (((14, 14), (7, 7), (7, 7)), ((12, 18), (6, 9), (6, 9)))
ODD = (((5, 7), (3, 4), (3, 4)), ((3, 3), (2, 2), (2, 2)))


@pytest.mark.parametrize("shapes", [SHAPES, ODD])
def test_every_position_has_one_slot(shapes):
    place = layout(shapes, 32, CPU)
    positions = sum(h * w for view in shapes for h, w in view)
    assert torch.equal(place.gather[place.scatter], torch.arange(positions))
    assert place.filled.sum() == positions


@pytest.mark.parametrize("shapes", [SHAPES, ODD])
def test_segments_and_pooling_are_averages_of_filled_slots(shapes):
    place = layout(shapes, 32, CPU)
    filled = place.filled.flatten()
    for matrix in (place.segments, place.pool):
        assert torch.allclose(matrix.sum(1), torch.ones(len(matrix)), atol=1e-6)
        assert (matrix[:, ~filled] == 0).all()


def test_windows_of_one_size_need_no_padding():
    assert not layout(SHAPES[:1], 32, CPU).padded
    assert layout(ODD, 32, CPU).padded


def test_a_window_lies_in_one_map():
    place = layout(ODD, 32, CPU)
    windows = place.filled.shape[0]
    for view, scale, filled in zip(
        place.view.view(windows, -1), place.scale.view(windows, -1), place.filled, strict=True
    ):
        assert len(set(zip(view[filled].tolist(), scale[filled].tolist(), strict=True))) == 1


@pytest.fixture
def fused():
    torch.manual_seed(0)
    fusion = LocalFusion({"a": (4, 6, 8), "b": (5, 6, 7)}, width=32, heads=2, inner=16).eval()
    pyramids = [[torch.randn(2, c, 4 * s, 6 * s) for c, s in zip((4, 6, 8), (4, 2, 1), strict=True)],
                [torch.randn(2, c, 5 * s, 4 * s) for c, s in zip((5, 6, 7), (4, 2, 1), strict=True)]]  # fmt: skip
    return fusion, pyramids


def test_shapes(fused):
    fusion, pyramids = fused
    out = fusion(pyramids, torch.ones(2, 2, dtype=torch.bool))
    assert out.descriptors.shape == out.averages.shape == (2, 6, 32)
    assert out.coarsest.shape == (2, 4 * 6 + 5 * 4, 32)
    assert [[tuple(m.shape[1:]) for m in view] for view in out.attention] == [
        [(1, 8, 12), (1, 4, 6), (1, 4, 6)],
        [(1, 10, 8), (1, 5, 4), (1, 5, 4)],
    ]


def test_without_another_view_the_inter_modality_term_is_exactly_zero(fused):
    """With the other view absent, neither its content nor the null key changes anything."""
    fusion, pyramids = fused
    present = torch.tensor([[True, False], [True, False]])
    before = fusion(pyramids, present)
    with torch.no_grad():
        fusion.blocks[0].null.add_(3.0)
    after = fusion([pyramids[0], [torch.randn_like(m) for m in pyramids[1]]], present)
    assert torch.equal(before.descriptors[:, :3], after.descriptors[:, :3])


def test_views_correlate_where_both_are_there(fused):
    fusion, pyramids = fused
    present = torch.ones(2, 2, dtype=torch.bool)
    before = fusion(pyramids, present)
    after = fusion([pyramids[0], [torch.randn_like(m) for m in pyramids[1]]], present)
    assert not torch.allclose(before.descriptors[:, :3], after.descriptors[:, :3])


def test_descriptors_are_attention_weighted_means(fused):
    """A head that attends everywhere alike gives the plain mean."""
    fusion, pyramids = fused
    torch.nn.init.zeros_(fusion.attention.weight)
    out = fusion(pyramids, torch.ones(2, 2, dtype=torch.bool))
    assert torch.allclose(out.descriptors, out.averages, atol=1e-5)


def test_the_mean_of_a_local_head_is_the_head_on_the_finest_descriptor(fused):
    fusion, pyramids = fused
    out = fusion(pyramids, torch.ones(2, 2, dtype=torch.bool))
    weight = torch.randn(5, 32)
    for view, (local, maps) in enumerate(zip(out.local, out.attention, strict=True)):
        read = local.read(weight)
        assert read.shape == (2, 5, *maps[0].shape[2:])
        assert torch.allclose(read.mean((2, 3)), out.descriptors[:, 3 * view] @ weight.T, atol=1e-5)


def test_a_local_head_reads_the_positions_in_the_order_of_the_map(fused):
    """Features that are the attention itself are read as the attention map."""
    fusion, pyramids = fused
    out = fusion(pyramids, torch.ones(2, 2, dtype=torch.bool))
    for local, maps in zip(out.local, out.attention, strict=True):
        same = local._replace(attended=torch.ones_like(local.attended))
        same.attended[:, local.finest] = maps[0].detach().flatten(2).transpose(1, 2).expand(-1, -1, 32)
        read = same.read(torch.full((1, 32), 1 / 32))
        assert torch.allclose(read, maps[0] / maps[0].mean((2, 3), keepdim=True), atol=1e-5)


def test_coarsest_positions_come_in_the_order_of_the_map(fused):
    fusion, pyramids = fused
    out = fusion(pyramids, torch.ones(2, 2, dtype=torch.bool))
    first = out.coarsest[:, : 4 * 6].mean(1)
    assert torch.allclose(first, out.averages[:, 2], atol=1e-5)


def test_three_views_of_different_sizes_have_their_own_spans():
    """Windows are padded to the longest; the padding belongs to the view of its window."""
    place = layout((((14, 14), (7, 7), (7, 7)), ((10, 10), (5, 5), (5, 5)), ((12, 12), (6, 6), (6, 6))), 32, CPU)
    assert [(s.start, s.stop) for s in place.spans] == [(0, 294), (294, 588), (588, 882)]
    assert [(s.start, s.stop) for s in place.key_spans] == [(0, 49), (49, 74), (74, 110)]


def test_windows_are_squares_of_the_map():
    place = layout(SHAPES, 32, CPU)
    assert torch.equal(place.gather[:49], (torch.arange(7)[:, None] * 14 + torch.arange(7)).flatten())


def test_the_finest_map_stays_by_itself_and_the_middle_one_sees_the_coarsest(fused):
    fusion, pyramids = fused
    present = torch.tensor([[True, False]] * 2)
    other = [[*pyramids[0][:-1], torch.randn_like(pyramids[0][-1])], pyramids[1]]
    first, second = (fusion(own, present).descriptors for own in (pyramids, other))
    assert torch.allclose(first[:, 0], second[:, 0], atol=1e-6)
    assert not torch.allclose(first[:, 1], second[:, 1], atol=1e-4)


def test_positions_of_a_flat_map_differ_in_both_directions(fused):
    fusion, pyramids = fused
    flat = [[torch.ones_like(x) for x in view] for view in pyramids]
    attention = fusion(flat, torch.ones(2, 2, dtype=torch.bool)).attention[0][0]
    assert attention.std(2).min() > 1e-5
    assert attention.std(3).min() > 1e-5
