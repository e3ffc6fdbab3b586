from __future__ import annotations

import pytest
import torch

from agfnet.models.network import AGFNet, Output
from agfnet.training.reconstruction import (
    FeatureReconstruction,
    at_scales,
    blank,
    choose_hidden,
    class_evidence,
    consistency_loss,
    focus_loss,
    hidden_losses,
    neighbours,
)

CHANNELS = {"a": (4, 6, 8), "b": (4, 6, 8)}


def pyramid(h: int, w: int, batch: int = 2):
    return [torch.randn(batch, c, h * r, w * r) for c, r in zip(CHANNELS["a"], (4, 2, 1), strict=True)]


def trained(channels=CHANNELS) -> FeatureReconstruction:
    """A decoder whose last layer is no longer 0."""
    torch.manual_seed(0)
    decoder = FeatureReconstruction(channels, width=16, heads=2)
    for parameter in decoder.change.parameters():
        torch.nn.init.normal_(parameter)
    return decoder


@pytest.mark.parametrize(("policy", "kept"), [("top", torch.Tensor.le), ("bottom", torch.Tensor.ge)])
def test_top_and_bottom_positions(policy, kept):
    evidence = torch.randn(3, 5, 6)
    hidden = choose_hidden(evidence, 0.3, policy)
    assert (hidden.flatten(1).sum(1) == 9).all()
    for e, h in zip(evidence, hidden, strict=True):
        edge = e[h].min() if policy == "top" else e[h].max()
        assert kept(e[~h], edge).all()


def test_random_positions_differ_and_number_the_same():
    evidence = torch.zeros(2, 10, 10)
    first, second = (choose_hidden(evidence, 0.25, "random") for _ in range(2))
    assert (first.flatten(1).sum(1) == 25).all()
    assert not torch.equal(first, second)


def test_part_hides_any_half_of_the_most_evident_positions():
    evidence = torch.randn(4, 8, 8)
    hidden = [choose_hidden(evidence, 0.25, "part").flatten(1) for _ in range(3)]
    region = choose_hidden(evidence, 0.5, "top").flatten(1)
    for chosen in hidden:
        assert (chosen.sum(1) == 16).all()
        assert (region | ~chosen).all()
    assert not torch.equal(hidden[0], hidden[1])
    assert (choose_hidden(evidence, 0.8, "part").flatten(1).sum(1) == 51).all()


@pytest.mark.parametrize(("side", "hidden"), [(2, 3), (1, 1)])
def test_something_stays_to_reconstruct_from(side, hidden):
    assert choose_hidden(torch.randn(2, side, side), 0.89, "random").flatten(1).sum(1).tolist() == [hidden, hidden]


def test_the_reconstruction_does_not_teach_the_encoders():
    decoder = trained()
    maps = [[m.requires_grad_() for m in pyramid(3, 4)], [m.requires_grad_() for m in pyramid(2, 2)]]
    hidden = [torch.rand(2, 3, 4) < 0.4, torch.rand(2, 2, 2) < 0.4]
    decoder(maps, hidden, torch.ones(2, 2, dtype=torch.bool)).loss.backward()
    assert all(m.grad is None for view in maps for m in view)
    assert decoder.hidden_token.grad.any()


def test_what_reads_the_completed_maps_does_not_teach_the_decoder():
    decoder = trained()
    maps, mask = [m.requires_grad_() for m in pyramid(3, 4)], choose_hidden(torch.rand(2, 3, 4), 0.3, "random")
    other, none = pyramid(2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    done = decoder([maps, other], [mask, none], torch.ones(2, 2, dtype=torch.bool))
    torch.stack([m.square().sum() for m in done.pyramids[0]]).sum().backward()
    assert all(parameter.grad is None for parameter in decoder.parameters())
    for m, cells in zip(maps, at_scales(mask, maps), strict=True):
        assert torch.equal(m.grad.abs().sum(1, keepdim=True) > 0, ~cells)


def test_an_untrained_decoder_writes_the_mean_of_the_neighbours_as_long_as_what_is_visible():
    decoder = FeatureReconstruction(CHANNELS, width=16, heads=2)
    maps, hidden = [pyramid(3, 4), pyramid(2, 5)], [torch.rand(2, 3, 4) < 0.4, torch.rand(2, 2, 5) < 0.4]
    done = decoder(maps, hidden, torch.ones(2, 2, dtype=torch.bool))
    assert done.loss.item() == pytest.approx(done.neighbours.item(), abs=1e-5)
    for view, new, mask, near in zip(maps, done.pyramids, hidden, neighbours(maps, hidden), strict=True):
        for m, own, cells, mean in zip(view, new, at_scales(mask, view), near, strict=True):
            for case in range(2):
                here = cells[case, 0]
                length = m[case].norm(dim=0)[~here].mean()
                for written, wanted in zip(own[case][:, here].T, mean[case][:, here].T, strict=True):
                    assert written.norm().item() == pytest.approx(length.item(), rel=1e-4)
                    assert torch.cosine_similarity(written, wanted, dim=0).item() == pytest.approx(1.0, abs=1e-4)


def test_class_evidence_is_of_the_true_class_and_has_no_gradient():
    evidence = torch.randn(2, 3, 4, 4, requires_grad=True)
    chosen = class_evidence(evidence, torch.tensor([2, -1]), (4, 4))
    relative = evidence - evidence.mean(1, keepdim=True)
    assert torch.equal(chosen[0], relative[0, 2])
    assert torch.equal(chosen[1], relative[1, evidence[1].mean((1, 2)).argmax()])
    assert not chosen.requires_grad
    coarse = class_evidence(evidence, torch.tensor([2, -1]), (2, 2))
    assert torch.allclose(coarse[0, 0, 0], relative[0, 2, :2, :2].mean())


def test_a_hidden_cell_covers_its_finer_positions():
    hidden = torch.tensor([[[True, False], [False, False]]])
    finer = at_scales(hidden, [torch.zeros(1, 1, 5, 8), torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 2, 2)])
    for ratio, own, shape in zip((4, 2, 1), finer, ((5, 8), (3, 4), (2, 2)), strict=True):
        assert own.shape == (1, 1, *shape)
        assert own[0, 0, :ratio, :ratio].all()
        assert own.sum() == ratio**2


def test_only_hidden_positions_are_rewritten_at_every_scale():
    decoder = trained()
    maps = [pyramid(3, 4), pyramid(2, 5)]
    hidden = [torch.rand(2, 3, 4) < 0.4, torch.rand(2, 2, 5) < 0.4]
    done = decoder(maps, hidden, torch.ones(2, 2, dtype=torch.bool))
    for old, new, mask in zip(maps, done.pyramids, hidden, strict=True):
        for a, b, cells in zip(old, new, at_scales(mask, old), strict=True):
            assert torch.equal((a != b).any(1, keepdim=True), cells)


@pytest.mark.parametrize("rows", [(12, 6, 3), (14, 7, 4), (15, 8, 4), (17, 9, 4)])
def test_what_is_hidden_cannot_leak_into_its_reconstruction(rows):
    """Also where a map's rows are no whole number of times those of the coarsest."""
    decoder = trained()
    maps = [torch.randn(2, c, h, 4 * r) for c, h, r in zip(CHANNELS["a"], rows, (4, 2, 1), strict=True)]
    mask = torch.zeros(2, rows[-1], 4, dtype=torch.bool)
    mask[:, 1, 1] = True
    other, none = pyramid(2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    present = torch.ones(2, 2, dtype=torch.bool)
    first = decoder([maps, other], [mask, none], present).pyramids[0]
    changed = [torch.where(k, torch.randn_like(m), m) for k, m in zip(at_scales(mask, maps), maps, strict=True)]
    second = decoder([changed, other], [mask, none], present).pyramids[0]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_the_other_view_helps_only_where_it_is_there():
    decoder = trained()
    maps, mask = pyramid(3, 4), torch.rand(2, 3, 4) < 0.4
    none = torch.zeros(2, 2, 2, dtype=torch.bool)
    present = torch.tensor([[True, True], [True, False]])
    first = decoder([maps, pyramid(2, 2)], [mask, none], present).pyramids[0][-1]
    second = decoder([maps, pyramid(2, 2)], [mask, none], present).pyramids[0][-1]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_reconstruction_can_be_learnt():
    """Features that repeat over the map can be told from the visible ones: the loss falls."""
    torch.manual_seed(0)
    decoder = FeatureReconstruction({"a": (4, 6, 8)}, width=16, heads=2)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        constant = [
            torch.randn(8, c, 1, 1).expand(-1, -1, 4 * r, 4 * r) for c, r in zip((4, 6, 8), (4, 2, 1), strict=True)
        ]
        shared = torch.randn(8, 4, 1, 1)
        maps = [m.clone() for m in constant]
        maps[0] = shared.expand(-1, -1, 16, 16).clone()
        maps[2][:, :4] = shared
        hidden = choose_hidden(torch.rand(8, 4, 4), 0.3, "random")
        loss = decoder([maps], [hidden], torch.ones(8, 1, dtype=torch.bool)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_consistency_is_the_symmetric_divergence():
    p, q = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.4, 0.6]])
    expected = 0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    assert consistency_loss(p.log(), q.log()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert consistency_loss(p.log(), p.log()).item() == 0.0


def test_blanked_cells_hold_the_mean_of_the_visible_ones():
    maps = pyramid(3, 4)
    hidden = choose_hidden(torch.randn(2, 3, 4), 0.3, "top")
    (blanked,) = blank([maps], [hidden])
    for before, after, cells in zip(maps, blanked, at_scales(hidden, maps), strict=True):
        mask = cells.expand_as(before)
        assert torch.equal(after[~mask], before[~mask])
        for case in range(2):
            for channel in range(before.shape[1]):
                here = mask[case, channel]
                mean = before[case, channel][~here].mean()
                assert torch.allclose(after[case, channel][here], mean, atol=1e-5)


def told(evidence: torch.Tensor, attention: torch.Tensor) -> Output:
    """What `focus_loss` reads of an output with one view and one scale."""
    nothing = torch.zeros(len(evidence), 0)
    return Output(nothing, nothing, nothing, nothing, nothing, nothing, [[attention]], [evidence], nothing)


def test_focus_is_right_where_attention_is_where_evidence_stands():
    """Evidence of the true class that the reconstruction does not bear out does not count."""
    before, after = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    before[0, 1] = torch.tensor([[4.0, 4.0], [-3.0, 0.0]])
    after[0, 1] = torch.tensor([[4.0, 0.0], [-3.0, 5.0]])
    label, present = torch.tensor([1]), torch.ones(1, 1, dtype=torch.bool)
    losses = []
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        attention = torch.full((1, 1, 2, 2), 1e-6)
        attention[0, 0, place[0], place[1]] = 0.5  # how bright a map is does not matter, where it is does
        losses.append(float(focus_loss(told(before, attention), told(after, attention), label, present)))
    assert losses[0] == pytest.approx(0.0, abs=1e-4)
    assert min(losses[1:]) > 5.0


def test_focus_corrects_the_attention_alone_and_only_of_present_views():
    evidence = torch.randn(3, 4, 4, 4, requires_grad=True)
    attention = torch.rand(3, 1, 2, 2, requires_grad=True)
    output = told(evidence, attention)
    present = torch.tensor([[True], [False], [True]])
    focus_loss(output, output, torch.tensor([0, 1, -1]), present).backward()
    assert evidence.grad is None
    assert (attention.grad.flatten(1).abs().sum(1) > 0).tolist() == [True, False, True]
    flat = told(torch.zeros(3, 4, 4, 4), attention)  # no evidence anywhere
    assert focus_loss(flat, flat, torch.tensor([0, 1, 2]), present).item() == 0.0


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("size", [(72, 128), (65, 66), (120, 112)])
def test_sides_that_the_strides_do_not_divide(size, encoder):
    """Finer maps are then not a whole number of times as large: the first encoder rounds up, the second down."""
    network = AGFNet(3, ["a", "b"], encoder, fusion_options={"width": 32})
    images = {m: torch.randn(2, 3, *size) for m in "ab"}
    pyramids = network.encode(images, torch.ones(2, 2, dtype=torch.bool))
    decoder = FeatureReconstruction(network.channels, width=16, heads=2)
    hidden = [choose_hidden(torch.randn(2, *maps[-1].shape[2:]), 0.3, "random") for maps in pyramids]
    done = decoder(pyramids, hidden, torch.ones(2, 2, dtype=torch.bool))
    for maps, own in zip(pyramids, done.pyramids, strict=True):
        assert [m.shape for m in maps] == [m.shape for m in own]
    assert [[m.shape for m in maps] for maps in blank(pyramids, hidden)] == [[m.shape for m in p] for p in pyramids]


@pytest.mark.parametrize(("sign", "wanted"), [(1.0, 0.0), (-1.0, 2.0)])
def test_the_loss_is_of_hidden_positions_alone_and_nothing_where_they_are_right(monkeypatch, sign, wanted):
    decoder = FeatureReconstruction({"a": CHANNELS["a"]}, width=16, heads=2)
    maps, mask = pyramid(3, 4), choose_hidden(torch.rand(2, 3, 4), 0.3, "random")
    # Right where hidden (or the opposite), and the other way round elsewhere, which does not count.
    made = [torch.where(k, sign * m, -sign * m) for k, m in zip(at_scales(mask, maps), maps, strict=True)]
    (near,) = neighbours([maps], [mask])
    monkeypatch.setattr(decoder, "_changes", lambda *_: [own - mean for own, mean in zip(made, near, strict=True)])
    loss = decoder([maps], [mask], torch.ones(2, 1, dtype=torch.bool)).loss
    assert loss.item() == pytest.approx(wanted, abs=1e-5)


def test_figures_of_more_cases_views_and_maps_are_means():
    torch.manual_seed(0)
    p, q = torch.randn(1, 4), torch.randn(1, 4)
    once = consistency_loss(p, q)
    assert consistency_loss(p.repeat(3, 1), q.repeat(3, 1)).item() == pytest.approx(once.item(), rel=1e-5)
    attention, evidence = torch.rand(1, 1, 4, 4), [torch.randn(1, 3, 4, 4) for _ in range(2)]

    def of(cases, views, maps):
        rows = [
            Output(**dict.fromkeys(Output._fields))._replace(
                logits=torch.zeros(cases, 3),
                attention=[[attention.repeat(cases, 1, 1, 1)] * maps] * views,
                evidence=[own.repeat(cases, 1, 1, 1)] * views,
            )
            for own in evidence
        ]
        label = torch.zeros(cases, dtype=torch.int64)
        return focus_loss(*rows, label, torch.ones(cases, views, dtype=torch.bool)).item()

    assert of(1, 1, 1) > 0.0
    assert of(3, 2, 2) == pytest.approx(of(1, 1, 1), rel=1e-5)


def near_loss(maps, hidden, *, present=True) -> float:
    """The loss of the neighbours' mean in one view."""
    return hidden_losses(neighbours([maps], [hidden]), [maps], [hidden], torch.full((1, 1), present)).item()


def test_neighbours_write_what_is_even_and_not_what_stands_out():
    hidden = torch.zeros(1, 5, 6, dtype=torch.bool)
    hidden[0, 2, 2] = True
    even = [torch.ones(1, c, 5 * r, 6 * r) for c, r in zip(CHANNELS["a"], (4, 2, 1), strict=True)]
    assert near_loss(even, hidden) == pytest.approx(0.0, abs=1e-6)
    odd = [torch.where(cells, -m, m) for m, cells in zip(even, at_scales(hidden, even), strict=True)]
    assert near_loss(odd, hidden) == pytest.approx(2.0, abs=1e-6)
    assert near_loss(odd, hidden, present=False) == 0.0


def test_neighbours_are_the_eight_around_a_cell():
    """Half of them point along one axis, half along the other: the hidden one between lies 45 degrees off either."""
    hidden = torch.zeros(1, 5, 5, dtype=torch.bool)
    hidden[0, 2, 2] = True
    directions = torch.full((2, 5, 5), -1.0)  # those further away point the other way, and do not count
    directions[:, 1:4, 1:4] = 0.0
    directions[0, 1:4, 1], directions[1, 1:4, 3] = 1.0, 1.0
    directions[:, 1, 2], directions[:, 3, 2] = 1.0, 1.0
    for own, angle in (((1.0, 1.0), 1.0), ((1.0, 0.0), 0.5**0.5)):
        directions[:, 2, 2] = torch.tensor(own)
        maps = []
        for channels, ratio in zip(CHANNELS["a"], (4, 2, 1), strict=True):
            maps.append(torch.zeros(1, channels, 5 * ratio, 5 * ratio))
            maps[-1][0, :2] = directions.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)
        assert near_loss(maps, hidden) == pytest.approx(1.0 - angle, abs=1e-5)
