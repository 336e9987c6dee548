import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from d2_seesaw.modeling.roi_heads import GlobalContextEncoder, HTCLiteROIHeads
from d2_seesaw.modeling.roi_heads.htc_lite import ContextPooler
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import MMDET, SIZE, C, losses_of


def htc_lite(*, encoder=None, **options):
    context = GlobalContextEncoder(
        C, channels=parts.CHANNELS, **{"in_feature": "p3", "stride": 8} | (encoder or {})
    )
    return HTCLiteROIHeads(context_encoder=context, **parts.cascade_options(**MMDET | options))


def test_every_roi_gets_the_vector_of_its_image():
    plain = parts.pooler(7)
    maps = [m.detach() for m in parts.features(3).values()]
    context = torch.randn(3, parts.CHANNELS, 1, 1)
    boxes = [Boxes(parts.boxes(n)) for n in (2, 0, 3)]
    pooled = ContextPooler(plain)([*maps, context], boxes)
    expected = plain(maps, boxes)
    for roi, image in enumerate((0, 0, 2, 2, 2)):
        torch.testing.assert_close(pooled[roi], expected[roi] + context[image])


def test_zero_rois_keep_the_graph():
    maps = list(parts.features(2).values())
    context = torch.randn(2, parts.CHANNELS, 1, 1, requires_grad=True)
    nothing = [Boxes(torch.zeros(0, 4))] * 2
    pooled = ContextPooler(parts.pooler(7))([*maps, context], nothing)
    assert pooled.shape == (0, parts.CHANNELS, 7, 7)
    (gradient,) = torch.autograd.grad(pooled.sum(), context)
    assert not gradient.any()


def detections(heads, features, proposals):
    with torch.no_grad():
        boxes, scores = heads.eval().box_predictions(features, proposals)
        given = [
            Instances(
                (SIZE, SIZE),
                pred_boxes=p.proposal_boxes,
                pred_classes=torch.zeros(len(p), dtype=torch.int64),
            )
            for p in proposals
        ]
        found = heads.forward_with_given_boxes(features, given)
    return list(zip(boxes, scores, [f.pred_masks for f in found], strict=True))


class _Shift(nn.Module):
    """Encoder that changes the context of one image."""

    def __init__(self, encoder, image):
        super().__init__()
        self.encoder, self.image = encoder, image

    def forward(self, features, image_sizes):
        context = self.encoder(features, image_sizes).clone()
        context[self.image] += 1
        return context


@pytest.mark.parametrize("image", [0, 1])
def test_changing_the_context_of_one_image_affects_only_that_image(image):
    heads = htc_lite()
    for predictor in heads.box_predictor:
        nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    features, proposals, _ = parts.batch()
    before = detections(heads, features, proposals)
    heads.context_encoder = _Shift(heads.context_encoder, image)
    after = detections(heads, features, proposals)
    for b, a in zip(before[1 - image], after[1 - image], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for b, a in zip(before[image], after[image], strict=True):
        changed = (a - b).abs().flatten(1).max(dim=1).values > 1e-6
        assert changed.all()


def test_every_box_stage_and_the_mask_head_see_the_context(storage):
    heads = htc_lite()
    seen = []
    for pooler in (heads.box_pooler, heads.mask_pooler):
        pooler.register_forward_pre_hook(lambda _, given: seen.append(given[0][-1]))
    losses_of(heads, parts.batch())
    assert len(seen) == 4  # three box stages and the mask head
    assert all(context is seen[0] for context in seen)
    assert seen[0].shape == (2, parts.CHANNELS, 1, 1)


def test_losses_are_the_cascades_and_the_contexts(storage):
    heads = htc_lite()
    batch = parts.batch()
    losses = losses_of(heads, batch)
    names = ("loss_cls_classes", "loss_cls_objectness", "loss_box_reg")
    stages = {f"{n}_stage{k}" for n in names for k in range(3)}
    assert set(losses) == stages | {"loss_mask", "loss_context"}
    context = heads.context_encoder(batch[0], [(SIZE, SIZE)] * 2)
    expected = heads.context_encoder.losses(context, batch[2])["loss_context"]
    torch.testing.assert_close(losses["loss_context"], expected)


def test_the_encoder_learns_from_boxes_and_masks_as_well(storage):
    heads = htc_lite()
    losses = losses_of(heads, parts.batch())
    weight = heads.context_encoder.layers[0].weight
    for name in ("loss_cls_classes_stage0", "loss_cls_classes_stage2", "loss_mask", "loss_context"):
        (gradient,) = torch.autograd.grad(losses[name], weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_without_context_it_equals_the_cascade(storage):
    heads = htc_lite(encoder={"num_convs": 0})
    heads.context_encoder.forward = lambda features, sizes: torch.zeros(2, parts.CHANNELS, 1, 1)
    cascade = parts.cascade_options(**MMDET)
    plain = HTCLiteROIHeads.__base__(**cascade, mask_rois="last")
    plain.load_state_dict(
        {k: v for k, v in heads.state_dict().items() if not k.startswith("context_encoder")}
    )
    batch = parts.batch()
    losses = losses_of(heads, batch)
    del losses["loss_context"]
    torch.testing.assert_close(losses, losses_of(plain, batch))


@pytest.mark.parametrize("mask_rois", ["last", "refined"])
def test_the_mask_head_sees_boxes_of_the_last_stage(storage, mask_rois):
    heads = htc_lite(mask_rois=mask_rois)
    seen = []
    heads.mask_head.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    losses_of(heads, parts.batch())
    refined = "stage5/roi_head/num_fg_samples"
    assert (refined in storage.latest()) == (mask_rois == "refined")
    number = storage.latest()[
        refined if mask_rois == "refined" else "stage2/roi_head/num_fg_samples"
    ]
    assert sum(map(len, seen[0])) == 2 * number[0] > 0


def test_a_federated_encoder_reads_the_negatives_of_the_images(storage):
    heads = htc_lite(encoder={"federated": True})
    negatives = [torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
    losses = losses_of(heads, parts.batch(((0,), ())), negative_classes=negatives)
    (gradient,) = torch.autograd.grad(
        losses["loss_context"], heads.context_encoder.classifier.weight
    )
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == [0, 1]


def test_a_federated_encoder_names_the_model_it_needs(storage):
    with pytest.raises(ValueError, match="FederatedRCNN"):
        losses_of(htc_lite(encoder={"federated": True}), parts.batch())


EMPTY = {
    "no objects": ((), ()),
    "one image without objects": ((), (0, 2)),
    "objects": ((1,), (0, 2)),
}


@pytest.mark.parametrize("masks", ["one", "none"])
@pytest.mark.parametrize("mask_rois", ["last", "refined"])
@pytest.mark.parametrize("labels", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("masked_mean", [False, True])
def test_trains_and_detects_with_missing_objects(storage, labels, mask_rois, masks, masked_mean):
    heads = htc_lite(encoder={"masked_mean": masked_mean}, mask_rois=mask_rois, masks=masks)
    features, proposals, targets = parts.batch(labels)
    for given in (proposals, [parts.no_proposals(), proposals[1]], [parts.no_proposals()] * 2):
        heads.train().zero_grad()
        losses = losses_of(heads, (features, given, targets))
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        for name, parameter in heads.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
        with torch.no_grad():
            found, _ = heads.eval()(None, features, given)
        assert all(len(f) == 0 for f, g in zip(found, given, strict=True) if len(g) == 0)


def test_masks_for_given_boxes_match_the_detections():
    heads = htc_lite().eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        found, _ = heads(None, features, proposals)
        given = [
            Instances((SIZE, SIZE), pred_boxes=f.pred_boxes, pred_classes=f.pred_classes)
            for f in found
        ]
        again = heads.forward_with_given_boxes(features, given)
    assert len(found[0]) > 0
    for f, a in zip(found, again, strict=True):
        torch.testing.assert_close(a.pred_masks, f.pred_masks)


def test_the_callers_features_are_not_modified(storage):
    heads = htc_lite()
    batch = parts.batch()
    losses_of(heads, batch)
    assert set(batch[0]) == set(parts.LEVELS)


def test_unequal_numbers_of_classes_are_reported():
    with pytest.raises(ValueError, match="is 7 in the context encoder and 5 in the ROI heads"):
        HTCLiteROIHeads(
            context_encoder=GlobalContextEncoder(7, channels=parts.CHANNELS),
            **parts.cascade_options(),
        )
