"""Decoupled training of detectors: what is trained, frozen, loaded and resumed."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.engine import EMAHook
from d2_seesaw.modeling import DecoupledRCNN, FederatedDecoupledRCNN
from tests.modeling.roi_heads.dual_parts import TinyBackbone, images, roi_heads, rpn, trained
from tests.modeling.roi_heads.parts import C
from tests.modeling.test_dual_head_rcnn import assert_equal, clone_tensors, stages, steps
from tests.support.ranks import run_on_ranks

pytestmark = pytest.mark.usefixtures("storage")
KINDS = ("plain", "cascade", pytest.param("htc_lite", marks=pytest.mark.slow))


def second(kind, *, init="random", fresh_counts=True, kind_of_model=DecoupledRCNN, **options):
    return kind_of_model(
        backbone=TinyBackbone(),
        proposal_generator=rpn(),
        roi_heads=roi_heads(kind, False, **options),
        pixel_mean=[127.5] * 3,
        pixel_std=[60.0] * 3,
        input_format="RGB",
        init=init,
        fresh_counts=fresh_counts,
    )


def follow(first, kind, **options):
    after = second(kind, **options)
    result = after.load_state_dict(first.state_dict(), strict=False)
    assert set(result.missing_keys) == set(after.added_keys)
    return after


def classifier_tensors(module, init):
    """Return the names of the tensors that the second phase trains."""
    parts = [s.cls_score for s in stages(module)]
    learned = {p for part in parts for p in part.parameters()}
    if init == "scale":
        learned = {part.class_scales.scales for part in parts}
    return {n for n, p in module.named_parameters() if any(p is other for other in learned)}


@pytest.mark.parametrize("seesaw", [True, False])
@pytest.mark.parametrize("init", ["random", "keep", "scale"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_classifiers_change(kind, init, seesaw):
    first = trained(kind, predictors={"seesaw": seesaw})
    after = follow(first, kind, init=init, predictors={"seesaw": seesaw})
    before, expected = clone_tensors(after), classifier_tensors(after, init)
    losses = steps(after)
    assert losses
    assert all(name.startswith("loss_") and "box_reg" not in name for name in losses)
    counts = {n for n, _ in after.named_buffers() if n.endswith(".cls_loss.class_counts")}
    counts = {n for n in counts if "sibling" not in n}
    for name, tensor in clone_tensors(after).items():
        moved = not torch.equal(tensor, before[name])
        if name.endswith("cls_score.bias") and not moved:
            continue  # objects of a class may be missing
        assert moved == (name in expected | counts), name
    for name, parameter in after.named_parameters():
        assert parameter.requires_grad == (name in expected), name
        assert (parameter.grad is not None) == (name in expected), name
    old = clone_tensors(first)
    kept = old.keys() - expected - counts
    assert all(torch.equal(clone_tensors(after)[n], old[n]) for n in kept)
    if seesaw:
        assert len(counts) == len(stages(after))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scales_of_one_and_kept_classifiers_change_no_detection(kind):
    first = trained(kind)
    expected = first(inputs := images())
    assert all(len(found["instances"]) for found in expected)
    for init in ("scale", "keep"):
        assert_equal(follow(first, kind, init=init).eval()(inputs), expected)


@torch.no_grad()
def test_scales_multiply_the_logits():
    first = trained("plain", predictors={"seesaw": False})
    after = follow(first, "plain", init="scale", predictors={"seesaw": False})
    scales = torch.rand(C + 1)
    (stage,) = stages(after)
    stage.cls_score.class_scales.scales.copy_(scales)
    x = torch.randn(7, stage.cls_score.in_features)
    (old,) = stages(first)
    torch.testing.assert_close(stage(x)[0], old(x)[0] * scales)
    assert torch.equal(stage(x)[1], old(x)[1])  # boxes


def seeded(function):
    def call(*arguments):
        torch.manual_seed(5)
        return function(*arguments)

    return call


def test_rois_and_losses_are_those_of_the_whole_model():
    first = trained("cascade", predictors={"seesaw": False})
    whole = copy.deepcopy(first).train()
    whole.backbone.eval()  # the second phase has frozen statistics
    after = follow(first, "cascade", init="keep", predictors={"seesaw": False}).train()
    # The RPN's loss draws random numbers, too, so the RoIs are drawn from the same seed.
    for module in (whole, after):
        sample = module.roi_heads.label_and_sample_proposals
        module.roi_heads.label_and_sample_proposals = seeded(sample)
    inputs = images()
    expected, found = whole(inputs), after(inputs)
    names = {name for name in expected if name.startswith("loss_cls")}
    assert len(names) == 3
    assert found.keys() == names
    assert all(torch.equal(found[name], expected[name]) for name in names)


def test_softmax_may_be_followed_by_seesaw_with_more_logits(tmp_path):
    first = trained("cascade", predictors={"seesaw": False})
    StrictCheckpointer(first, str(tmp_path)).save("first")
    after = second("cascade")
    fresh = clone_tensors(after)
    StrictCheckpointer(after).load(str(tmp_path / "first.pth"))
    old = first.state_dict()
    for name, tensor in clone_tensors(after).items():
        expected = fresh if name in after.replaced_keys | after.added_keys else old
        assert torch.equal(tensor, expected.get(name, tensor)), name
    assert {n.rsplit(".", 2)[1] for n in after.replaced_keys} == {"cls_score", "cls_loss"}
    steps(after)
    StrictCheckpointer(after, str(tmp_path)).save("second")
    with pytest.raises(ValueError, match=r"second\.pth is already of the second phase"):
        StrictCheckpointer(second("cascade")).load(str(tmp_path / "second.pth"))
    resumed = second("cascade")
    StrictCheckpointer(resumed).resume(str(tmp_path / "second.pth"))
    assert all(torch.equal(t, clone_tensors(after)[n]) for n, t in clone_tensors(resumed).items())


def test_an_average_of_the_weights_loads_and_follows_the_classifier(tmp_path):
    after = follow(trained("plain"), "plain", init="scale")
    ema = EMAHook(after, str(tmp_path), decay=0)  # follows the weights
    ema.averaged.load_state_dict(after.state_dict())
    steps(after)
    ema.update()
    averaged = clone_tensors(ema.averaged)
    frozen = {n for n, p in after.named_parameters() if not p.requires_grad}
    assert all(torch.equal(averaged[n], clone_tensors(after)[n]) for n in frozen)
    assert_equal(ema.averaged(inputs := images()), after.eval()(inputs))


def test_predictors_without_a_loss_object_are_refused():
    heads = roi_heads("plain", False)
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    heads.box_predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=16), box2box_transform=transform, num_classes=C
    )
    with pytest.raises(ValueError, match=r"LossDrivenOutputLayers.*got FastRCNNOutputLayers"):
        DecoupledRCNN(
            backbone=TinyBackbone(),
            proposal_generator=rpn(),
            roi_heads=heads,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )


def test_federated_data_reach_the_heads_in_a_second_phase(monkeypatch):
    first = trained("plain")
    after = follow(first, "plain", kind_of_model=FederatedDecoupledRCNN).train()
    seen = []
    generator = after.proposal_generator
    forward = generator.forward
    monkeypatch.setattr(generator, "forward", lambda i, *a: [seen.append(i), forward(i, *a)][1])
    given = [{**image, "negative_classes": [c]} for c, image in enumerate(images())]
    assert set(after(given)) == {"loss_cls_classes", "loss_cls_objectness"}
    assert [c.tolist() for c in seen[0].negative_classes] == [[0], [1]]
    with pytest.raises(ValueError, match="has no neg_category_ids"):
        after(images())


def test_tsd_is_refused():
    with pytest.raises(ValueError, match="decoupled training does not support TSD"):
        second("tsd")


def _gradients_on_a_rank():
    torch.manual_seed(0)
    module = second("plain", predictors={"seesaw": False})
    wrapped = DistributedDataParallel(module.train(), broadcast_buffers=False)
    with EventStorage(0):
        for _ in range(2):  # a second step would report unused parameters
            sum(wrapped(images()).values()).backward()
    return module.roi_heads.box_predictor.cls_score.weight.grad


@pytest.mark.slow
@pytest.mark.dist
def test_ranks_share_the_gradients():
    first, other = run_on_ranks(_gradients_on_a_rank, world_size=2)
    assert torch.equal(first, other)
    assert first.abs().sum() > 0
