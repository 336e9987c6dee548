import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances, PolygonMasks

from d2_seesaw.layers import mask_predictor
from d2_seesaw.modeling.roi_heads import (
    AveragedMaskHeads,
    GlobalContextEncoder,
    HTCLiteROIHeads,
    LossDrivenCascadeROIHeads,
    MaskHeadWithPredictor,
    MaskIoUHead,
    ScoredMaskHead,
)
from d2_seesaw.modeling.roi_heads.mask_scoring import mask_iou_targets
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import CHANNELS, SIZE, C, losses_of

SHAPE = ShapeSpec(channels=CHANNELS, width=14, height=14)


def iou_head(num_classes=C, **options):
    head = MaskIoUHead(
        SHAPE, num_classes=num_classes, conv_dims=[CHANNELS] * 4, fc_dims=[16, 16], **options
    )
    torch.nn.init.normal_(head.fc_mask_iou.weight, std=0.5)
    return head


def scored(**options):
    return ScoredMaskHead(parts.mask_head(), iou_head=iou_head(), **options)


def standard(mask_head):
    return StandardROIHeads(
        num_classes=C,
        batch_size_per_image=24,
        positive_fraction=0.5,
        proposal_matcher=parts.matchers()[0],
        box_in_features=list(parts.LEVELS),
        box_pooler=parts.pooler(7),
        box_head=parts.box_head(),
        box_predictor=parts.box_predictor(),
        mask_in_features=list(parts.LEVELS),
        mask_pooler=parts.pooler(14),
        mask_head=mask_head,
    )


def cascade(mask_head):
    return LossDrivenCascadeROIHeads(**parts.cascade_options(mask_head=mask_head))


def averaging_cascade(mask_head):
    heads = [mask_head, *(copy.deepcopy(mask_head) for _ in range(2))]
    for head in heads[1:]:
        for parameter in head.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return LossDrivenCascadeROIHeads(
        **parts.cascade_options(mask_head=heads, stage_loss_weights=[1, 0.5, 0.25])
    )


def htc_lite(mask_head):
    context = GlobalContextEncoder(C, channels=CHANNELS, in_feature="p3", stride=8)
    return HTCLiteROIHeads(
        context_encoder=context, **parts.cascade_options(mask_head=mask_head, resample=True)
    )


BUILDERS = [standard, cascade, averaging_cascade, htc_lite]
every_heads = pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)


def with_polygons(batch):
    features, proposals, targets = batch
    for target in targets:
        if len(target):
            corners = target.gt_boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]]
            target.gt_masks = PolygonMasks([[c.numpy()] for c in corners])
    return features, proposals, targets


LABELS = {
    "no objects": ((), ()),
    "one object": ((), (3,)),
    "many objects": ((0, 2, 2, 1, 4, 3), (4, 0, 1)),
}


@every_heads
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("polygons", [False, True])
def test_trains_and_detects(storage, build, labels, polygons):
    heads = build(scored())
    batch = parts.batch(labels)
    batch = with_polygons(batch) if polygons else batch
    losses = losses_of(heads, batch)
    named = [n for n in losses if n.startswith("loss_mask_iou")]
    assert len(named) == (3 if build is averaging_cascade else 1)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in heads.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        if len(labels[0]) and "mask_head" in name:
            assert parameter.grad.any(), name
    with torch.no_grad():
        found, _ = heads.eval()(None, batch[0], batch[1])
    assert len(found[0]) > 0
    for image in found:
        assert image.mask_scores.shape == image.scores.shape
        assert torch.isfinite(image.mask_scores).all()


@every_heads
def test_empty_detections_have_empty_mask_scores(build):
    heads = build(scored()).eval()
    features, _, _ = parts.batch()
    found, _ = heads(None, features, [parts.no_proposals()] * 2)
    assert [i.mask_scores.shape for i in found] == [(0,), (0,)]


def without_iou(state):
    """Return the state dict without the mask-IoU heads."""
    parts_of = {k: v for k, v in state.items() if "iou_head" not in k}
    return {k.replace("mask_head.mask_head", "mask_head"): v for k, v in parts_of.items()}


@pytest.mark.parametrize("build", [standard, cascade, htc_lite], ids=lambda b: b.__name__)
def test_other_losses_and_detections_are_unchanged(storage, build):
    with_scores, plain = build(scored()), build(parts.mask_head())
    plain.load_state_dict(without_iou(with_scores.state_dict()))
    batch = parts.batch()
    losses, expected = losses_of(with_scores, batch), losses_of(plain, batch)
    assert losses.pop("loss_mask_iou") > 0
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)
    with torch.no_grad():
        found, _ = with_scores.eval()(None, batch[0], batch[1])
        others, _ = plain.eval()(None, batch[0], batch[1])
    for image, other in zip(found, others, strict=True):
        assert torch.equal(image.pred_boxes.tensor, other.pred_boxes.tensor)
        for name in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(image.get(name), other.get(name)), name
        assert not other.has("mask_scores")


@every_heads
def test_a_saved_state_gives_the_same_detections(build):
    one, other = build(scored()).eval(), build(scored()).eval()
    other.load_state_dict(one.state_dict())
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        found, again = (heads(None, features, proposals)[0] for heads in (one, other))
    for f, a in zip(found, again, strict=True):
        assert torch.equal(f.mask_scores, a.mask_scores)
        assert len(f) > 0


def test_the_loss_uses_whole_objects_and_true_classes(storage):
    head = scored(mask_threshold=0.02)
    images = [parts.target([2, 0]), parts.target([]), parts.target([1, 2, 2])]
    for image in images:
        image.proposal_boxes = image.gt_boxes.clone()
        image.proposal_boxes.tensor[:, 2] -= 4
    x = torch.randn(5, CHANNELS, 14, 14)
    classes = torch.tensor([2, 0, 1, 2, 2])
    logits = head.mask_head.layers(x)[torch.arange(5), classes][:, None]
    targets = mask_iou_targets(logits, images, threshold=0.02)
    assert not torch.equal(targets, mask_iou_targets(logits, images))
    predicted = head.iou_head(x, logits)[torch.arange(5), classes]
    expected = 0.5 * (predicted - targets).square().mean()
    torch.testing.assert_close(head(x, images)["loss_mask_iou"], expected)


def detections(*classes_of_images):
    found = []
    for classes in classes_of_images:
        image = Instances((SIZE, SIZE), pred_classes=torch.tensor(classes, dtype=torch.int64))
        image.scores = torch.rand(len(classes))
        found.append(image)
    return found


def test_a_mask_score_is_the_class_score_times_the_predicted_iou():
    head = scored().eval()
    found = detections([2, 0], [], [1, 2, 2])
    before = [i.scores.clone() for i in found]
    x = torch.randn(5, CHANNELS, 14, 14)
    classes = torch.tensor([2, 0, 1, 2, 2])
    logits = head.mask_head.layers(x)[torch.arange(5), classes][:, None]
    ious = head.iou_head(x, logits)[torch.arange(5), classes]
    assert head(x, found) is found
    torch.testing.assert_close(torch.cat([i.mask_scores for i in found]), torch.cat(before) * ious)
    assert [len(i.mask_scores) for i in found] == [2, 0, 3]
    assert all(torch.equal(i.scores, b) for i, b in zip(found, before, strict=True))


def test_predicted_ious_are_not_clamped():
    head = scored().eval()
    for bias in (-3.0, 3.0):
        torch.nn.init.constant_(head.iou_head.fc_mask_iou.weight, 0.0)
        torch.nn.init.constant_(head.iou_head.fc_mask_iou.bias, bias)
        (found,) = head(torch.randn(2, CHANNELS, 14, 14), detections([1, 2]))
        torch.testing.assert_close(found.mask_scores, bias * found.scores)


def test_masks_and_weights_of_other_classes_have_no_effect():
    head = scored().eval()
    x = torch.randn(2, CHANNELS, 14, 14)
    found, again = detections([1, 1], [1, 1])
    again.scores = found.scores
    head(x, [found])
    with torch.no_grad():
        for layer in (head.mask_head.predictor, head.iou_head.fc_mask_iou):
            others = torch.arange(len(layer.weight)) != 1
            layer.weight[others] = 7.0
            layer.bias[others] = -7.0
    head(x, [again])
    assert torch.equal(again.mask_scores, found.mask_scores)


def test_boxes_without_a_score_get_masks_but_no_mask_scores():
    given = Instances((SIZE, SIZE), pred_classes=torch.tensor([1]))
    scored().eval()(torch.randn(1, CHANNELS, 14, 14), [given])
    assert set(given.get_fields()) == {"pred_classes", "pred_masks"}


def test_several_heads_average_their_mask_scores():
    heads = [scored() for _ in range(3)]
    averaged = AveragedMaskHeads(heads).eval()
    x = torch.randn(3, CHANNELS, 14, 14)
    found = detections([2], [0, 1])
    each = [torch.cat([i.mask_scores for i in h(x, copy.deepcopy(found))]) for h in heads]
    averaged(x, found)
    assert torch.stack(each).std(dim=0).min() > 0
    torch.testing.assert_close(torch.cat([i.mask_scores for i in found]), sum(each) / 3)


def test_class_agnostic_masks_may_have_class_specific_mask_scores():
    mask_head = MaskHeadWithPredictor(
        SHAPE, num_classes=1, conv_dims=[CHANNELS, CHANNELS], predictor=mask_predictor(std=0.1)
    )
    head = ScoredMaskHead(mask_head, iou_head=iou_head()).eval()
    x = torch.randn(1, CHANNELS, 14, 14).expand(2, -1, -1, -1)
    (found,) = head(x, detections([1, 2]))
    ious = found.mask_scores / found.scores
    assert not torch.isclose(ious[0], ious[1])


@pytest.mark.parametrize(
    ("mask_head", "message"),
    [
        (MaskRCNNConvUpsampleHead(SHAPE, num_classes=C, conv_dims=[4, 4]), "got MaskRCNNConvUps"),
        (AveragedMaskHeads([]), r"got AveragedMaskHeads.*Wrap each of several"),
    ],
)
def test_unsupported_mask_heads_are_reported(mask_head, message):
    with pytest.raises(ValueError, match=message):
        ScoredMaskHead(mask_head, iou_head=iou_head())


def test_unequal_numbers_of_classes_are_reported():
    with pytest.raises(ValueError, match="is 5 in the mask head and 7 in the mask-IoU head"):
        ScoredMaskHead(parts.mask_head(), iou_head=iou_head(7))
