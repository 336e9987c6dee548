import copy

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import nn
from torch.nn import functional as F

from d2_seesaw.layers import normed_mask_predictor
from d2_seesaw.losses import RecallLoss
from d2_seesaw.modeling import (
    CarafeMaskHead,
    FusedSemanticHead,
    HTCMaskHeads,
    HTCROIHeads,
    LossDrivenCascadeROIHeads,
    MaskIoUHead,
    OffsetROIPooler,
    ScoredMaskHead,
)
from d2_seesaw.modeling.roi_heads.htc_semantic import SemanticPooler
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import CHANNELS, LEVELS, MMDET, SIZE, C, losses_of

PIXEL_CLASSES = 4


def semantic_head(**options):
    sizes = {"in_channels": CHANNELS, "channels": CHANNELS, "num_convs": 1}
    return FusedSemanticHead(PIXEL_CLASSES, in_features=LEVELS, **sizes | options)


def semantic_pooler():
    return ROIPooler(14, scales=[1 / 8], sampling_ratio=0, pooler_type="ROIAlignV2")


def htc(*, semantic=False, masks="three", **options):
    branch = {}
    if semantic:
        branch = {"semantic_head": semantic_head(), "semantic_pooler": semantic_pooler()}
    return HTCROIHeads(**parts.cascade_options(masks=masks, **MMDET | branch | options))


def label_maps(num_images=2):
    maps = torch.randint(0, PIXEL_CLASSES, (num_images, SIZE, SIZE))
    maps[:, :8] = 255
    return maps


def given_boxes(boxes, classes):
    return [Instances((SIZE, SIZE), pred_boxes=Boxes(boxes), pred_classes=classes)]


def mask_heads(count=3, **options):
    return HTCMaskHeads([parts.mask_head() for _ in range(count)], **options)


# Mask information flow.


@torch.no_grad()
def test_masks_follow_the_equations_of_the_information_flow():
    heads = mask_heads().eval()
    x = torch.randn(5, CHANNELS, 14, 14)
    classes = torch.tensor([0, 3, 1, 4, 2])
    features, probabilities = None, []
    for k in range(3):
        head = heads.get_submodule(str(k))
        given = x
        if k:
            conv = heads.conv_res[str(k)]
            mixed = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], features)
            given = x + (mixed + conv.bias[:, None, None]).clamp(min=0)
        features = head.mask_fcn1(given)
        logits = head.predictor(head.deconv_relu(head.deconv(features)))
        probabilities.append(logits.sigmoid()[torch.arange(5), classes])
    for fusion, expected in (("last", probabilities[-1]), ("average", sum(probabilities) / 3)):
        heads.fusion = fusion
        (found,) = heads(x, given_boxes(parts.boxes(5), classes))
        torch.testing.assert_close(found.pred_masks[:, 0], expected)


@torch.no_grad()
def test_a_link_of_zeros_equals_independent_heads():
    heads = mask_heads().eval()
    for link in heads.conv_res.values():
        nn.init.zeros_(link.weight)
        nn.init.zeros_(link.bias)
    alone = HTCMaskHeads(list(heads), information_flow=False).eval()
    assert not len(alone.conv_res)
    x, classes = torch.randn(3, CHANNELS, 14, 14), torch.tensor([0, 1, 2])
    for fusion in ("last", "average"):
        heads.fusion = alone.fusion = fusion
        (a,), (b,) = (h(x, given_boxes(parts.boxes(3), classes)) for h in (heads, alone))
        torch.testing.assert_close(a.pred_masks, b.pred_masks, rtol=0, atol=0)


@pytest.mark.parametrize("stage", range(3))
def test_a_mask_loss_trains_its_head_and_the_path_before_it(storage, stage):
    heads = mask_heads().train()
    x = torch.randn(2, CHANNELS, 14, 14)
    (loss,) = heads.stage_losses(stage, x, parts.positives((0, 2))).values()
    loss.backward()
    trained = {n for n, p in heads.named_parameters() if p.grad is not None and p.grad.any()}
    paths = {f"{k}.mask_fcn1" for k in range(stage + 1)}
    paths |= {f"{stage}.deconv", f"{stage}.predictor"}
    paths |= {f"conv_res.{k}" for k in range(1, stage + 1)}
    assert {name.rpartition(".")[0] for name in trained} == paths


def test_heads_of_other_kinds_are_connected():
    shape = parts.mask_head  # a plain head, a normalized predictor, and CARAFE
    carafe = CarafeMaskHead(
        parts.ShapeSpec(channels=CHANNELS, width=14, height=14),
        num_classes=C,
        conv_dims=[16, 16],
        predictor=normed_mask_predictor(),
    )
    heads = HTCMaskHeads([shape(), carafe, shape()]).eval()
    assert [tuple(c.weight.shape[:2]) for c in heads.conv_res.values()] == [(8, 8), (8, 16)]
    with torch.no_grad():
        (found,) = heads(
            torch.randn(2, CHANNELS, 14, 14), given_boxes(parts.boxes(2), torch.tensor([0, 1]))
        )
    assert found.pred_masks.shape == (2, 1, 28, 28)


def test_mask_scoring_is_refused():
    iou = MaskIoUHead(parts.ShapeSpec(channels=CHANNELS, width=14, height=14), num_classes=C)
    scored = [ScoredMaskHead(parts.mask_head(), iou_head=copy.deepcopy(iou)) for _ in range(3)]
    with pytest.raises(ValueError, match=r"mask head 0 is ScoredMaskHead\. Mask scoring is not"):
        htc(mask_head=scored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_fusion": "mean"}, r"fusion must be one of .* got 'mean'"),
        ({"masks": "one"}, r"3 stages, .* \{'mask_head': 1\}"),
        ({"mask_rois": "last"}, r"there are 3: head k is trained on the RoIs of stage k"),
        ({"semantic_head": semantic_head()}, "needs a semantic_pooler"),
    ],
)
def test_inconsistent_options_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        htc(**options)


def test_the_semantic_branch_refuses_rois_that_tsd_moves():
    pooler = OffsetROIPooler(7, (1 / 4, 1 / 8), 0, "ROIAlignV2", offset_sampling_ratio=2)
    with pytest.raises(ValueError, match="does not support OffsetROIPooler"):
        htc(semantic=True, box_pooler=pooler)


# Interleaving.


def test_mask_head_k_is_trained_on_the_boxes_that_stage_k_predicts(storage, monkeypatch):
    heads = htc()
    predicted, used = [], []
    refine = heads._refined_proposals

    def refined(stage, matcher, targets):
        proposals = refine(stage, matcher, targets)
        if matcher >= 3:
            predicted.append((matcher - 3, stage, proposals))
        return proposals

    monkeypatch.setattr(heads, "_refined_proposals", refined)
    losses = heads.mask_head.stage_losses
    monkeypatch.setattr(
        heads.mask_head,
        "stage_losses",
        lambda k, x, instances: used.append((k, instances)) or losses(k, x, instances),
    )
    losses_of(heads, parts.batch())
    assert [k for k, *_ in predicted] == [k for k, _ in used] == [0, 1, 2]
    for (k, stage, proposals), (_, positives) in zip(predicted, used, strict=True):
        decoded = stage.predictor.predict_boxes(stage.predictions, stage.proposals)
        for image, (boxes, sampled, given) in enumerate(
            zip(decoded, proposals, positives, strict=True)
        ):
            clipped = Boxes(boxes.detach().clone())
            clipped.clip((SIZE, SIZE))
            objects = given.gt_boxes.tensor
            candidates = torch.cat([clipped.tensor, objects])
            distance = torch.cdist(given.proposal_boxes.tensor, candidates, p=torch.inf)
            assert distance.min(dim=1).values.max() < 1e-4, (k, image)
            # The foreground is that of the stage's matcher.
            overlaps = matched_pairwise_iou(given.gt_boxes, given.proposal_boxes)
            assert (overlaps >= parts.IOUS[k]).all()
            assert len(sampled) <= heads.batch_size_per_image


def test_first_mask_rois_without_flow_equal_the_cascade_with_three_mask_heads(storage):
    heads = htc(mask_rois="first", information_flow=False)
    plain = LossDrivenCascadeROIHeads(**parts.cascade_options(masks="three", **MMDET))
    plain.load_state_dict(heads.state_dict())
    batch = parts.batch()
    torch.testing.assert_close(losses_of(heads, batch), losses_of(plain, batch))
    features, proposals, _ = batch
    with torch.no_grad():
        ours, theirs = (h.eval()(None, features, proposals)[0] for h in (heads, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) > 0
        torch.testing.assert_close(a.pred_masks, b.pred_masks)
        torch.testing.assert_close(a.scores, b.scores)


@pytest.mark.parametrize("resample", [True, False])
@pytest.mark.parametrize("seesaw", [True, False])
def test_losses_are_those_of_the_stages_with_their_weights(storage, seesaw, resample):
    torch.manual_seed(3)
    heads = htc(seesaw=seesaw, resample=resample)
    batch = parts.batch()
    losses = losses_of(heads, batch)
    kinds = ["loss_cls_classes", "loss_cls_objectness"] if seesaw else ["loss_cls"]
    kinds += ["loss_box_reg", "loss_mask"]
    assert set(losses) == {f"{kind}_stage{k}" for kind in kinds for k in range(3)}
    heads.stage_loss_weights = [1.0, 1.0, 1.0]
    for predictor in heads.box_predictor:
        if seesaw:
            predictor.cls_loss.class_counts.zero_()
    unweighted = losses_of(heads, batch)
    for k, weight in enumerate(MMDET["stage_loss_weights"]):
        for kind in kinds:
            torch.testing.assert_close(
                losses[f"{kind}_stage{k}"], weight * unweighted[f"{kind}_stage{k}"]
            )


# The semantic branch.


@torch.no_grad()
def test_the_branch_fuses_levels_as_defined():
    head = semantic_head(num_convs=2)
    maps = {k: v.detach() for k, v in parts.features(1).items()}
    logits, embedding = head({**maps, "p6": torch.zeros(1)})
    fine = F.interpolate(maps["p2"], size=(8, 8), mode="bilinear", align_corners=True)
    x = head.lateral[0](fine).relu() + head.lateral[1](maps["p3"]).relu()
    for conv in head.convs:
        x = conv(x).relu()
    torch.testing.assert_close(logits, head.logits(x))
    torch.testing.assert_close(embedding, head.embedding(x).relu())
    assert logits.shape == (1, PIXEL_CLASSES, 8, 8)


def test_its_loss_is_the_weighted_mean_over_all_pixels_ignored_ones_included():
    head = semantic_head(loss_weight=0.5)
    logits = torch.randn(1, PIXEL_CLASSES, 2, 2)
    labels = torch.full((1, 16, 16), 255)
    labels[0, 0, 0], labels[0, 8, 8] = 1, 3  # the pixels that nearest neighbors take
    labels[0, 3, 3] = 2
    log = logits.log_softmax(dim=1)
    expected = -0.5 * (log[0, 1, 0, 0] + log[0, 3, 1, 1]) / 4
    torch.testing.assert_close(head.losses(logits, labels)["loss_semantic"], expected)
    nothing = head.losses(logits.requires_grad_(), torch.full_like(labels, 255))["loss_semantic"]
    assert nothing.item() == 0
    nothing.backward()


def test_it_takes_a_pixel_loss():
    loss = RecallLoss(PIXEL_CLASSES)
    head = semantic_head(loss=loss, loss_weight=1.0)
    logits, labels = torch.randn(2, PIXEL_CLASSES, 8, 8), label_maps()
    small = labels[:, ::8, ::8]
    torch.testing.assert_close(head.losses(logits, labels)["loss_semantic"], loss(logits, small))
    with pytest.raises(ValueError, match="is 9 in the loss and 4 in the semantic head"):
        semantic_head(loss=RecallLoss(9))


def test_every_roi_gets_the_features_of_its_place_in_its_image():
    plain, pooler = parts.pooler(7), semantic_pooler()
    maps = [m.detach() for m in parts.features(2).values()]
    semantic = torch.randn(2, CHANNELS, 8, 8)
    boxes = [Boxes(parts.boxes(2)), Boxes(parts.boxes(3))]
    pooled = SemanticPooler(plain, pooler)([*maps, semantic], boxes)
    added = pooler([semantic], boxes).unflatten(-1, (7, 2)).unflatten(-3, (7, 2)).mean((-3, -1))
    torch.testing.assert_close(pooled, plain(maps, boxes) + added)


@torch.no_grad()
def test_a_branch_of_zeros_equals_no_branch():
    heads = htc(semantic=True).eval()
    nn.init.zeros_(heads.semantic_head.embedding.weight)
    plain = htc().eval()
    plain.load_state_dict({k: v for k, v in heads.state_dict().items() if "semantic" not in k})
    features, proposals, _ = parts.batch()
    for a, b in zip(*(h(None, features, proposals)[0] for h in (heads, plain)), strict=True):
        assert len(a) > 0
        torch.testing.assert_close(a.scores, b.scores)
        torch.testing.assert_close(a.pred_masks, b.pred_masks)


def test_the_branch_learns_from_its_loss_and_from_boxes_and_masks(storage):
    heads = htc(semantic=True)
    losses = losses_of(heads, parts.batch(), sem_seg=label_maps())
    assert "loss_semantic" in losses
    weights = heads.semantic_head.lateral[0].weight
    for name in ("loss_semantic", "loss_box_reg_stage2", "loss_mask_stage0", "loss_mask_stage2"):
        (gradient,) = torch.autograd.grad(losses[name], weights, retain_graph=True)
        assert gradient.any(), name
    (gradient,) = torch.autograd.grad(
        losses["loss_semantic"], heads.semantic_head.embedding.weight, allow_unused=True
    )
    assert gradient is None


def test_missing_label_maps_are_reported(storage):
    with pytest.raises(ValueError, match=r"LabelMapRCNN .*semantic_head=null"):
        losses_of(htc(semantic=True), parts.batch())


def test_boxes_alone_work_with_the_branch(storage):
    heads = htc(semantic=True, masks="none")
    losses = losses_of(heads, parts.batch(), sem_seg=label_maps())
    assert "loss_semantic" in losses
    assert not any("mask" in name for name in losses)


# All of it.

EMPTY = {
    "no objects": ((), ()),
    "one image without objects": ((), (0, 2)),
    "objects": ((1,), (0, 2)),
}


@pytest.mark.parametrize("semantic", [False, True])
@pytest.mark.parametrize("labels", EMPTY.values(), ids=EMPTY.keys())
def test_trains_and_detects_with_missing_objects(storage, labels, semantic):
    heads = htc(semantic=semantic)
    features, proposals, targets = parts.batch(labels)
    for given in (proposals, [parts.no_proposals(), proposals[1]], [parts.no_proposals()] * 2):
        heads.train().zero_grad()
        losses = losses_of(heads, (features, given, targets), sem_seg=label_maps())
        sum(losses.values()).backward()
        for name, parameter in heads.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
        with torch.no_grad():
            found, _ = heads.eval()(None, features, given)
        assert all(f.has("pred_masks") for f in found)
        assert all(len(f) == 0 for f, g in zip(found, given, strict=True) if len(g) == 0)


@torch.no_grad()
def test_masks_for_given_boxes_match_the_detections():
    heads = htc(semantic=True).eval()
    features, proposals, _ = parts.batch()
    found, _ = heads(None, features, proposals)
    given = [
        Instances((SIZE, SIZE), pred_boxes=f.pred_boxes, pred_classes=f.pred_classes) for f in found
    ]
    assert len(found[0]) > 0
    for f, a in zip(found, heads.forward_with_given_boxes(features, given), strict=True):
        torch.testing.assert_close(a.pred_masks, f.pred_masks)
    boxes, scores = heads.box_predictions(features, proposals)
    assert [len(b) for b in boxes] == [len(s) for s in scores] == [len(p) for p in proposals]
    assert set(features) == set(LEVELS)


def test_losses_and_masks_are_in_full_precision_under_autocast(storage):
    heads = htc(semantic=True)
    batch, maps = parts.batch(), label_maps()
    exact = losses_of(heads, batch, sem_seg=maps)["loss_semantic"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(heads, batch, sem_seg=maps)
        with torch.no_grad():
            found, _ = heads.eval()(None, *batch[:2])
    torch.testing.assert_close(losses["loss_semantic"], exact, rtol=0.05, atol=0)
    assert all(loss.isfinite() for loss in losses.values())
    assert found[0].pred_masks.dtype == losses["loss_semantic"].dtype == torch.float32
