import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances, pairwise_iou

from d2_seesaw.modeling.roi_heads import AveragedMaskHeads, LossDrivenCascadeROIHeads
from tests.modeling.roi_heads import parts
from tests.modeling.roi_heads.parts import MMDET, SIZE, C, losses_of


def cascade(**options):
    return LossDrivenCascadeROIHeads(**parts.cascade_options(**options))


def detectron2_heads(ours):
    """Return Detectron2's heads with the weights of ``ours``, which has softmax losses."""
    options = parts.cascade_options(seesaw=False, masks="one")
    options["box_predictors"] = [
        FastRCNNOutputLayers(
            ShapeSpec(channels=parts.WIDTH),
            box2box_transform=parts.transform(k),
            num_classes=C,
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.1,
        )
        for k in range(3)
    ]
    host = CascadeROIHeads(**options)
    host.load_state_dict(ours.state_dict())
    return host


def test_with_softmax_and_mean_probabilities_it_matches_detectron2s_cascade(storage):
    ours = cascade(seesaw=False, score_fusion="probabilities")
    host = detectron2_heads(ours)
    batch = parts.batch()
    losses, expected = losses_of(ours, batch), losses_of(host, batch)
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses, expected)
    maps = list(batch[0].values())
    gradients = torch.autograd.grad(sum(losses.values()), maps)
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(expected.values()), maps))
    for name, parameter in host.named_parameters():
        assert parameter.shape == ours.get_parameter(name).shape
    with torch.no_grad():
        features, proposals, _ = batch
        found, _ = ours.eval()(None, features, proposals)
        expected, _ = host.eval()(None, features, proposals)
    assert min(map(len, expected)) > 3
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f.pred_classes, e.pred_classes)
        torch.testing.assert_close(f.pred_boxes.tensor, e.pred_boxes.tensor)
        torch.testing.assert_close(f.scores, e.scores)
        torch.testing.assert_close(f.pred_masks, e.pred_masks)


def test_mean_logits_are_the_default():
    heads = cascade().eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        boxes, scores = heads.box_predictions(features, proposals)
        stages = heads._run_stages(features, proposals)
    logits = sum(s.predictions[0] for s in stages) / 3
    torch.testing.assert_close(torch.cat(scores), heads.box_predictor[0].cls_loss.scores(logits))
    assert [b.shape for b in boxes] == [(40, 4), (40, 4)]
    heads.score_fusion = "probabilities"
    other = torch.cat(heads.box_predictions(features, proposals)[1])
    assert (torch.cat(scores) - other).abs().max() > 1e-4


def test_losses_and_counts_are_kept_per_stage(storage):
    heads = cascade()
    losses = losses_of(heads, parts.batch())
    names = ("loss_cls_classes", "loss_cls_objectness", "loss_box_reg")
    expected = {f"{n}_stage{k}" for n in names for k in range(3)} | {"loss_mask"}
    assert set(losses) == expected
    counts = [p.cls_loss.class_counts for p in heads.box_predictor]
    assert all(c.sum() > 20 for c in counts)
    assert not torch.equal(counts[0], counts[2])
    assert {f"stage{k}/fast_rcnn/cls_accuracy" for k in range(3)} <= set(storage.latest())


def test_stage_weights_scale_box_and_mask_losses(storage):
    plain = cascade(masks="three", stage_loss_weights=[1, 1, 1])
    weighted = cascade(masks="three", stage_loss_weights=[2, 0.5, 0.25])
    weighted.load_state_dict(plain.state_dict())
    batch = parts.batch()
    expected, losses = losses_of(plain, batch), losses_of(weighted, batch)
    assert {f"loss_mask_stage{k}" for k in range(3)} < set(losses)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, [2, 0.5, 0.25][int(name[-1])] * expected[name])


def test_stage_weights_replace_the_gradient_scaling(storage):
    scaled, plain = cascade(masks="none"), cascade(masks="none", stage_loss_weights=[1, 1, 1])
    plain.load_state_dict(scaled.state_dict())
    batch = parts.batch()
    maps = list(batch[0].values())
    scaled_losses, plain_losses = losses_of(scaled, batch), losses_of(plain, batch)
    torch.testing.assert_close(scaled_losses, plain_losses)
    gradients = torch.autograd.grad(sum(scaled_losses.values()), maps)
    expected = [g / 3 for g in torch.autograd.grad(sum(plain_losses.values()), maps)]
    torch.testing.assert_close(list(gradients), expected)


def stages_of(heads, batch):
    features, proposals, targets = batch
    sampled = heads.label_and_sample_proposals(proposals, targets)
    return heads._run_stages(features, sampled, targets)


@pytest.mark.parametrize("resample", [False, True])
def test_labels_follow_the_iou_threshold_of_each_stage(storage, resample):
    heads = cascade(resample=resample)
    batch = parts.batch()
    foreground = []
    for stage, iou in zip(stages_of(heads, batch), parts.IOUS, strict=True):
        for rois, objects in zip(stage.proposals, batch[2], strict=True):
            overlaps, matched = pairwise_iou(objects.gt_boxes, rois.proposal_boxes).max(dim=0)
            labels = torch.where(overlaps >= iou, objects.gt_classes[matched], C)
            assert torch.equal(rois.gt_classes, labels)
            boxes = objects.gt_boxes.tensor[matched]
            is_object = labels < C
            assert torch.equal(rois.gt_boxes.tensor[is_object], boxes[is_object])
            foreground.append(int(is_object.sum()))
    assert min(foreground) > 0


def test_resampling_appends_ground_truth_and_keeps_the_batch_size(storage):
    heads = cascade(resample=True, batch_size_per_image=10)
    batch = parts.batch()
    for stage in stages_of(heads, batch):
        for rois in stage.proposals:
            assert len(rois) == 10
            assert (rois.gt_classes < C).sum() <= 5
            assert rois.has("gt_masks")
    # With one object and no proposal near it, the object itself is the only positive in each stage.
    objects = parts.target([3])
    objects.gt_boxes = Boxes(torch.tensor([[2.0, 2.0, 9.0, 9.0]]))
    far = Instances((SIZE, SIZE))
    far.proposal_boxes = Boxes(torch.tensor([[40.0, 40.0, 60.0, 60.0], [30.0, 40.0, 60.0, 60.0]]))
    far.objectness_logits = torch.zeros(2)
    for stage in stages_of(heads, (parts.features(1), [far], [objects])):
        (rois,) = stage.proposals
        assert rois.gt_classes.tolist() == [3, C, C]
        assert torch.equal(rois.proposal_boxes.tensor[0], objects.gt_boxes.tensor[0])


def test_resampling_keeps_refined_boxes_without_an_area_as_background_as_mmdet_does(storage):
    boxes = [torch.tensor([[2.0, 2.0, 9.0, 9.0], [SIZE + 5.0, 2.0, SIZE + 9.0, 9.0]])]
    for resample, kept in ((True, 2), (False, 1)):
        heads = cascade(resample=resample).train()
        (proposals,) = heads._create_proposals_from_boxes(boxes, [(SIZE, SIZE)])
        assert len(proposals) == kept
    heads = cascade(resample=True).train()
    proposals = heads._create_proposals_from_boxes(boxes, [(SIZE, SIZE)])
    (rois,) = heads._match_and_label_boxes(proposals, 1, [parts.target([3])])
    empty = rois.proposal_boxes.area() == 0
    assert rois.gt_classes[empty].tolist() == [C]


def test_resampling_keeps_the_matcher_of_the_first_stage(storage):
    heads = cascade(resample=True)
    losses_of(heads, parts.batch())
    assert heads.proposal_matcher is heads.proposal_matchers[0]
    latest = storage.latest()
    names = {
        f"{s}roi_head/num_{g}_samples" for s in ("", "stage1/", "stage2/") for g in ("fg", "bg")
    }
    assert names <= set(latest)


def mask_rois_of(heads, batch, monkeypatch):
    """Return the RoIs that the mask head was trained on, and the RoIs of the stages."""
    seen, stages = [], []
    run = heads._run_stages
    monkeypatch.setattr(heads, "_run_stages", lambda *a: stages.extend(run(*a)) or stages)
    several = isinstance(heads.mask_head, AveragedMaskHeads)
    for head in heads.mask_head if several else [heads.mask_head]:
        head.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    losses_of(heads, batch)
    return seen, stages


def positives(stage):
    return [p.proposal_boxes.tensor[p.gt_classes < C] for p in stage.proposals]


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize(("mask_rois", "stage"), [("first", 0), ("last", 2)])
def test_a_single_mask_head_is_trained_on_the_configured_stage(
    storage, monkeypatch, mask_rois, stage, resample
):
    heads = cascade(mask_rois=mask_rois, resample=resample)
    (seen,), stages = mask_rois_of(heads, parts.batch(), monkeypatch)
    for image, expected in zip(seen, positives(stages[stage]), strict=True):
        assert torch.equal(image.proposal_boxes.tensor, expected)
        assert len(image.gt_masks) == len(expected) > 0


@pytest.mark.parametrize("resample", [False, True])
def test_three_mask_heads_are_trained_on_their_own_stages(storage, monkeypatch, resample):
    heads = cascade(masks="three", resample=resample)
    seen, stages = mask_rois_of(heads, parts.batch(), monkeypatch)
    assert len(seen) == 3
    for rois, stage in zip(seen, stages, strict=True):
        for image, expected in zip(rois, positives(stage), strict=True):
            assert torch.equal(image.proposal_boxes.tensor, expected)


@pytest.mark.parametrize("resample", [False, True])
def test_masks_belong_to_the_matched_object(storage, monkeypatch, resample):
    heads = cascade(mask_rois="last", resample=resample)
    batch = parts.batch()
    (seen,), _ = mask_rois_of(heads, batch, monkeypatch)
    for image, objects in zip(seen, batch[2], strict=True):
        matched = pairwise_iou(objects.gt_boxes, image.proposal_boxes).argmax(dim=0)
        assert torch.equal(image.gt_masks.tensor, objects.gt_masks.tensor[matched])


@pytest.mark.parametrize("resample", [False, True])
def test_refined_mask_rois_are_the_boxes_predicted_by_the_last_stage(
    storage, monkeypatch, resample
):
    heads = cascade(mask_rois="refined", resample=resample, proposal_append_gt=not resample)
    batch = parts.batch()
    (seen,), stages = mask_rois_of(heads, batch, monkeypatch)
    last = stages[2]
    predicted = heads.box_predictor[2].predict_boxes(last.predictions, last.proposals)
    number = 0
    for image, boxes, objects in zip(seen, predicted, batch[2], strict=True):
        boxes = Boxes(boxes.detach())
        boxes.clip((SIZE, SIZE))
        for box in image.proposal_boxes.tensor:
            assert (boxes.tensor == box).all(dim=1).any()
        overlaps = pairwise_iou(objects.gt_boxes, image.proposal_boxes).max(dim=0).values
        assert (overlaps >= 0.7).all()
        number += len(image)
    assert number > 0
    assert "stage5/roi_head/num_fg_samples" in storage.latest()


def test_three_mask_heads_are_averaged_on_the_final_boxes():
    heads = cascade(masks="three").eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        found, _ = heads(None, features, proposals)
        maps = [features[f] for f in parts.LEVELS]
        pooled = heads.mask_pooler(maps, [f.pred_boxes for f in found])
        classes = torch.cat([f.pred_classes for f in found])
        index = torch.arange(len(classes))
        masks = [h.layers(pooled)[index, classes].sigmoid() for h in heads.mask_head]
    assert len(classes) > 3
    torch.testing.assert_close(torch.cat([f.pred_masks[:, 0] for f in found]), sum(masks) / 3)


def test_weight_names_contain_head_and_stage():
    names = set(cascade(masks="three").state_dict())
    assert {
        "box_head.2.fc1.weight",
        "box_predictor.2.cls_score.weight",
        "box_predictor.2.cls_loss.class_counts",
        "box_predictor.2.bbox_pred.bias",
        "mask_head.2.predictor.weight",
    } <= names
    assert "mask_head.predictor.weight" in cascade(masks="one").state_dict()


EMPTY = {
    "no objects": ((), ()),
    "one image without objects": ((0, 2), ()),
}
MODES = {
    "detectron2": {},
    "mmdet": {**MMDET, "masks": "three"},
    "last": {"mask_rois": "last"},
    "refined": {"mask_rois": "refined", "resample": True},
    "box only": {**MMDET, "masks": "none"},
    "class-specific": {"agnostic": False, **MMDET},
}


def empty(kind):
    if kind in EMPTY:
        return parts.batch(EMPTY[kind])
    features, proposals, targets = parts.batch()
    if kind == "no positives at stage 3":
        return features, proposals, targets
    some = proposals[:1] if kind == "one image without proposals" else []
    return features, [*some, *(parts.no_proposals() for _ in range(2 - len(some)))], targets


@pytest.mark.parametrize("mode", MODES)
def test_an_image_whose_objects_were_all_filtered_out_trains(storage, mode):
    features, proposals, targets = parts.batch(((0, 2), (1,)))
    targets[1] = targets[1][torch.tensor([], dtype=torch.int64)]
    assert len(targets[1].gt_masks) == 0
    losses = losses_of(cascade(**MODES[mode]), (features, proposals, targets))
    assert all(torch.isfinite(loss) for loss in losses.values())


KINDS = [*EMPTY, "no positives at stage 3", "one image without proposals", "no proposals"]


@pytest.mark.parametrize("append", [True, False], ids=["append", "no append"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_trains_with_missing_objects_positives_or_proposals(storage, mode, kind, append):
    heads = cascade(**MODES[mode], proposal_append_gt=append)
    if kind == "no positives at stage 3":
        for k in (1, 2):
            heads.proposal_matchers[k] = Matcher([2.0], [0, 1], allow_low_quality_matches=False)
        heads.proposal_matchers[3] = heads.proposal_matchers[2]
    losses = losses_of(heads, empty(kind))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_detects_without_proposals(mode):
    heads = cascade(**MODES[mode]).eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        both, _ = heads(None, features, proposals)
        some, _ = heads(None, features, [proposals[0], parts.no_proposals()])
        none, _ = heads(None, features, [parts.no_proposals(), parts.no_proposals()])
    assert len(both[0]) > 0
    torch.testing.assert_close(some[0].scores, both[0].scores)
    assert [len(i) for i in (some[1], *none)] == [0, 0, 0]
    if heads.mask_on:
        assert none[0].pred_masks.shape == (0, 1, 28, 28)
    else:
        assert not both[0].has("pred_masks")


def test_masks_for_given_boxes_match_the_detections():
    heads = cascade(masks="three").eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        found, _ = heads(None, features, proposals)
        given = [
            Instances((SIZE, SIZE), pred_boxes=f.pred_boxes, pred_classes=f.pred_classes)
            for f in found
        ]
        again = heads.forward_with_given_boxes(features, given)
    for f, a in zip(found, again, strict=True):
        torch.testing.assert_close(a.pred_masks, f.pred_masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_fusion": "mean"}, r"score_fusion must be one of \['logits'.*got 'mean'"),
        ({"mask_rois": "all"}, r"mask_rois must be one of .* got 'all'"),
        ({"stage_loss_weights": [1, 1]}, r"3 stages, .* \{'stage_loss_weights': 2\}"),
        ({"box_predictors": []}, r"3 stages, .* \{'box_predictors': 0\}"),
        ({"mask_head": [parts.mask_head()]}, r"3 stages, .* \{'mask_head': 1\}"),
        ({"masks": "three", "mask_rois": "last"}, r"needs a single mask head, .* there are 3"),
    ],
)
def test_inconsistent_options_are_reported(options, message):
    with pytest.raises(ValueError, match=message):
        cascade(**options)


def mixed_predictors():
    return [parts.box_predictor(k, seesaw=k > 0) for k in range(3)]


def test_logits_of_different_losses_cannot_be_averaged_but_probabilities_can():
    with pytest.raises(ValueError, match=r"\[6, 7, 7\] logits, .* score_fusion='probabilities'"):
        cascade(box_predictors=mixed_predictors())
    features, proposals, _ = parts.batch()
    heads = cascade(box_predictors=mixed_predictors(), score_fusion="probabilities").eval()
    found, _ = heads(None, features, proposals)
    assert len(found) == 2


def test_training_without_targets_is_reported(storage):
    features, proposals, _ = parts.batch()
    with pytest.raises(ValueError, match="training needs targets"):
        cascade()(parts.images(), features, proposals)
