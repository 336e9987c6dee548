"""Tests of TSD as the box heads and predictors of the cascade and of HTC-Lite."""

from itertools import pairwise

import pytest
import torch
from detectron2.structures import Boxes

from d2_seesaw.inference.tta.merging import box_predictions
from d2_seesaw.modeling.roi_heads import (
    GlobalContextEncoder,
    HTCLiteROIHeads,
    LossDrivenCascadeROIHeads,
)
from tests.modeling.roi_heads import parts, tsd_parts
from tests.modeling.roi_heads.parts import MMDET, SIZE, C, losses_of

pytestmark = pytest.mark.usefixtures("storage")

KINDS = ("cascade", "htc_lite")


def build(kind, options):
    if kind == "cascade":
        return LossDrivenCascadeROIHeads(**options)
    encoder = GlobalContextEncoder(C, channels=parts.CHANNELS, in_feature="p3", num_convs=1)
    return HTCLiteROIHeads(context_encoder=encoder, **options)


def tsd(kind, **options):
    return build(kind, tsd_parts.cascade_options(**options))


def zero_offset_and_plain_heads(kind, **options):
    """Build TSD heads with zero offsets and the sibling's weights, and equal heads without TSD."""
    heads = tsd(kind, masks="none", **options)
    plain = build(
        kind, parts.cascade_options(masks="none", box_pooler=tsd_parts.pooler(), **options)
    )
    plain_state = plain.state_dict()
    for k in range(3):
        tsd_parts.stay_in_place(heads.box_head[k])
        predictor = heads.box_predictor[k]
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
        for name in ("cls_score", "bbox_pred"):
            weights = getattr(predictor, name).state_dict()
            getattr(predictor.sibling, name).load_state_dict(weights)
    state = heads.state_dict()
    for name in plain_state:
        plain_state[name] = state[name.replace("fc1", "sibling.fc1")]
    plain.load_state_dict(plain_state)
    return heads, plain


@pytest.mark.parametrize("seesaw", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_offsets_and_the_siblings_weights_equal_the_cascade_without_tsd(kind, seesaw):
    heads, plain = zero_offset_and_plain_heads(kind, seesaw=seesaw, **MMDET)
    batch = parts.batch()
    losses, expected = losses_of(heads, batch), losses_of(plain, batch)
    assert len(expected) >= (9 if seesaw else 6)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, atol=1e-4, rtol=1e-4)
        if name != "loss_context":
            sibling_loss = losses[name.replace("_stage", "_sibling_stage")]
            torch.testing.assert_close(sibling_loss, loss, atol=1e-4, rtol=1e-4)
    features, proposals, _ = batch
    with torch.no_grad():
        found = heads.eval().box_predictions(features, proposals)
        expected = plain.eval().box_predictions(features, proposals)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("resample", [False, True])
def test_the_next_stage_starts_from_the_refined_moved_boxes(resample):
    heads = tsd("cascade", resample=resample, proposal_append_gt=False, batch_size_per_image=40)
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    features, proposals, targets = parts.batch()
    sampled = heads.label_and_sample_proposals(proposals, targets)
    stages = heads._run_stages(features, sampled, targets)
    for stage, following in pairwise(stages):
        moved, deltas = stage.predictions.boxes, stage.predictions.deltas
        original = torch.cat([p.proposal_boxes.tensor for p in stage.proposals])
        assert (moved - original).abs().max() > 0.1
        boxes = stage.predictor.box2box_transform.apply_deltas(deltas, moved).detach()
        boxes = boxes.split([len(p) for p in stage.proposals])
        for become, rois in zip(boxes, following.proposals, strict=True):
            expected = Boxes(become)
            expected.clip((SIZE, SIZE))
            expected = expected.tensor[expected.nonempty()]
            # Compare as sets, because sampling changes the order.
            found = rois.proposal_boxes.tensor
            same = (found[:, None] - expected).abs().max(dim=2).values < 1e-4
            assert len(found) == len(expected) > 0
            assert same.any(dim=0).all()
            assert same.any(dim=1).all()


@pytest.mark.parametrize("seesaw", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_named_and_weighted_and_counts_kept_per_stage(kind, seesaw):
    heads, whole = (tsd(kind, seesaw=seesaw, stage_loss_weights=w) for w in ([1, 2, 4], [1, 1, 1]))
    whole.load_state_dict(heads.state_dict())
    batch = parts.batch()
    losses, unweighted = losses_of(heads, batch), losses_of(whole, batch)
    names = ["loss_box_reg", "loss_cls_classes", "loss_cls_objectness"]
    if not seesaw:
        names[1:] = ["loss_cls"]
    names += [f"{n}_sibling" for n in names] + ["loss_pc_loc"] + ([] if seesaw else ["loss_pc_cls"])
    expected = {f"{n}_stage{k}" for n in names for k in range(3)}
    assert expected == {name for name in losses if "_stage" in name}
    for name in expected:
        factor = [1, 2, 4][int(name[-1])]
        torch.testing.assert_close(losses[name], factor * unweighted[name])
    if seesaw:
        stages = [(p.cls_loss, p.sibling.cls_loss) for p in heads.box_predictor]
        for tsd_loss, sibling_loss in stages:
            assert tsd_loss.class_counts.sum() == 48  # the RoIs of two images, each counted once
            assert torch.equal(tsd_loss.class_counts, sibling_loss.class_counts)
        assert not torch.equal(stages[0][0].class_counts, stages[2][0].class_counts)


def test_stage_gradients_are_scaled_for_feature_maps_but_not_for_offsets():
    scaled, whole = (
        tsd("cascade", masks="none"),
        tsd("cascade", masks="none", stage_loss_weights=[1] * 3),
    )
    whole.load_state_dict(scaled.state_dict())
    batch = parts.batch()

    def gradients(heads):
        wanted = [
            *batch[0].values(),
            heads.box_head[1].delta_c[-1].bias,
            heads.box_head[1].delta_r[-1].bias,
        ]
        return torch.autograd.grad(sum(losses_of(heads, batch).values()), wanted)

    *map_gradients, bin_gradients, box_gradients = gradients(whole)
    torch.testing.assert_close(
        list(gradients(scaled)),
        [*(g / 3 for g in map_gradients), bin_gradients, box_gradients],
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_are_trained_only_by_their_own_branchs_losses(kind):
    heads = tsd(kind, **MMDET)
    losses = losses_of(heads, parts.batch())
    for k, head in enumerate(heads.box_head):
        learned = {"c": head.delta_c[-1].weight, "r": head.delta_r[-1].weight}
        for name, expected in {
            "loss_cls": "c",
            "loss_pc_cls": "c",
            "loss_box_reg": "r",
            "loss_pc_loc": "r",
            "loss_cls_sibling": "",
            "loss_box_reg_sibling": "",
        }.items():
            gradients = torch.autograd.grad(
                losses[f"{name}_stage{k}"],
                list(learned.values()),
                retain_graph=True,
                allow_unused=True,
            )
            moved = "".join(
                n for n, g in zip(learned, gradients, strict=True) if g is not None and g.any()
            )
            assert moved == expected, name


MODES = {
    "detectron2": {},
    "mmdet": MMDET,
    "seesaw": {**MMDET, "seesaw": True},
    "class-specific": {**MMDET, "agnostic": False, "seesaw": True},
    "no constraints": {**MMDET, "predictors": {"pc_cls": False, "pc_loc": False}},
    "detached": {**MMDET, "predictors": {"detach_targets": True}},
}
EVERYWHERE = [*(("cascade", mode) for mode in MODES), ("htc_lite", "mmdet"), ("htc_lite", "seesaw")]
MANY = ((0, 2, 2), (4, 1, 1, 3))
GIVEN = {  # labels by image, and the number of images with proposals
    "no objects": (((), ()), 2),
    "one object": (((), (2,)), 2),
    "many objects": (MANY, 2),
    "proposals of one image": (MANY, 1),
    "no proposals": (((0, 2), ()), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "number"), GIVEN.values(), ids=GIVEN.keys())
@pytest.mark.parametrize(("kind", "mode"), EVERYWHERE)
def test_trains_and_detects_with_any_number_of_objects_and_proposals(kind, mode, labels, number):
    heads = tsd(kind, **MODES[mode])
    features, proposals, targets = parts.batch(labels)
    given = [*proposals[:number], *(parts.no_proposals() for _ in range(2 - number))]
    losses = losses_of(heads, (features, given, targets))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    with torch.no_grad():
        found, _ = heads.eval()(None, features, given)
    for f, g in zip(found, given, strict=True):
        assert f.pred_boxes.tensor.shape == (len(f), 4)
        assert len(g) > 0 or len(f) == 0
        assert f.pred_masks.shape == (len(f), 1, 28, 28)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_stage_is_tsd_without_a_cascade(kind):
    heads = tsd(
        kind,
        box_heads=[tsd_parts.box_head()],
        box_predictors=[tsd_parts.predictor(cls_agnostic_bbox_reg=False)],
        proposal_matchers=parts.matchers()[:1],
    )
    batch = parts.batch()
    losses = losses_of(heads, batch)
    sum(losses.values()).backward()
    assert {n for n in losses if n.startswith("loss_pc")} == {
        "loss_pc_cls_stage0",
        "loss_pc_loc_stage0",
    }
    assert all(p.grad is not None for p in heads.parameters())
    found, _ = heads.eval()(None, *batch[:2])
    assert len(found[0]) > 0


@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_shared_proposals_are_computed_without_the_siblings(kind, fusion):
    heads = tsd(kind, seesaw=True, score_fusion=fusion).eval()
    features, proposals, _ = parts.batch()
    with torch.no_grad():
        boxes, scores = box_predictions(heads, features, proposals)
        for head, predictor in zip(heads.box_head, heads.box_predictor, strict=True):
            for branch in (head.sibling, predictor.sibling):
                for parameter in branch.parameters():
                    parameter.fill_(torch.nan)
        again = box_predictions(heads, features, proposals)
    assert [b.shape for b in boxes] == [(40, 4), (40, 4)]
    torch.testing.assert_close(torch.cat(scores).sum(dim=1), torch.ones(80))
    torch.testing.assert_close((boxes, scores), again)


def test_the_context_is_added_to_every_pooled_feature():
    heads = tsd("htc_lite", **MMDET)
    pooled = []
    heads.box_pooler.register_forward_hook(
        lambda pooler, given, options, out: pooled.append(
            (pooler.pooler(given[0][:-1], given[1], **options), given, out)
        ),
        with_kwargs=True,
    )
    losses_of(heads, parts.batch())
    assert len(pooled) == 9  # plain, moved bins and moved boxes, in three stages
    for without, (maps, boxes), out in pooled:
        context = torch.cat(
            [c.expand(len(b), -1, 1, 1) for c, b in zip(maps[-1], boxes, strict=True)]
        )
        torch.testing.assert_close(out, without + context)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_saved_and_loaded(kind):
    heads, other = (tsd(kind, seesaw=True).eval() for _ in range(2))
    features, proposals, _ = parts.batch()
    other.load_state_dict(heads.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            other.box_predictions(features, proposals), heads.box_predictions(features, proposals)
        )
    names = set(heads.state_dict())
    assert {
        "box_head.2.shared_fc.0.weight",
        "box_head.2.delta_c.2.bias",
        "box_head.2.delta_r.0.weight",
        "box_head.2.classification.fc1.weight",
        "box_head.2.localization.fc1.weight",
        "box_head.2.sibling.fc1.weight",
        "box_predictor.2.cls_loss.class_counts",
        "box_predictor.2.sibling.cls_loss.class_counts",
        "box_predictor.2.sibling.bbox_pred.weight",
    } <= names


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_is_close_to_full_precision(kind):
    heads = tsd(kind, masks="none", stage_loss_weights=[1, 1, 1])
    batch = parts.batch()
    expected = losses_of(heads, batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(heads, batch)
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        torch.testing.assert_close(loss.float(), expected[name], atol=0.05, rtol=0.1)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())


def test_a_pooler_without_offsets_is_rejected():
    with pytest.raises(ValueError, match="TSDBoxHead pools RoIs with offsets, which ROIPooler"):
        tsd("cascade", box_pooler=parts.pooler(7))
