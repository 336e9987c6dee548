"""Tests of complete dual-head models: trained parameters, frozen state and outputs."""

import pytest
import torch
import torch.distributed as dist
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference.tta.merging import box_predictions
from d2_seesaw.modeling import DualHeadRCNN
from tests.modeling.roi_heads import dual_parts
from tests.modeling.roi_heads.dual_parts import KINDS, follow, images, model, trained
from tests.modeling.roi_heads.parts import C

pytestmark = pytest.mark.usefixtures("storage")
every_kind = pytest.mark.parametrize("kind", KINDS)


def clone_tensors(module):
    """Clone all parameters and buffers, including non-persistent ones."""
    return {n: t.clone() for n, t in [*module.named_parameters(), *module.named_buffers()]}


def stages(module):
    predictors = module.roi_heads.box_predictor
    return list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]


def steps(module, number=3, inputs=None):
    parameters = get_default_optimizer_params(getattr(module, "module", module))
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    module.train()
    losses = {}
    for _ in range(number):
        losses = module(inputs or images())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return losses


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        one, other = (i["instances"].get_fields() for i in (one, other))
        assert one.keys() == other.keys() >= {"scores", "pred_masks", "mask_scores"}
        for name, value in one.items():
            pair = (value, other[name])
            value, expected_value = (v.tensor if isinstance(v, Boxes) else v for v in pair)
            assert torch.equal(value, expected_value), name


EQUAL = [*((kind, {}) for kind in KINDS), ("cascade", {"encoder": False})]
EQUAL += [(kind, {"score_fusion": "probabilities"}) for kind in ("cascade", "tsd_htc_lite")]
EQUAL += [("tsd", {"predictors": {"cls_agnostic_bbox_reg": False}})]
EQUAL += [("plain", {"predictors": {"cls_agnostic_bbox_reg": False, "seesaw": False}})]


@pytest.mark.parametrize(("kind", "options"), EQUAL)
@torch.no_grad()
def test_a_new_branch_equal_to_the_old_one_changes_no_detection(kind, options):
    old_options = {k: v for k, v in options.items() if k != "encoder"}
    before = trained(kind, **old_options)
    after = follow(before, kind, **options).eval()
    inputs = images()
    expected = before(inputs)
    assert all(len(found["instances"]) == 10 for found in expected)
    assert_equal(after(inputs), expected)
    features = before.backbone(before.preprocess_image(inputs).tensor)
    proposals, _ = before.proposal_generator(before.preprocess_image(inputs), features)
    for found, reference in zip(
        box_predictions(after.roi_heads, features, proposals),
        box_predictions(before.roi_heads, features, proposals),
        strict=True,
    ):
        assert all(torch.equal(f, b) for f, b in zip(found, reference, strict=True))


@pytest.mark.parametrize("init", ["copy", "random"])
@every_kind
def test_training_changes_every_new_tensor_and_no_old_one(kind, init):
    before = trained(kind)
    after = follow(before, kind, model_options={"init": init})
    start = clone_tensors(after)
    assert all(torch.equal(start[n], t) for n, t in clone_tensors(before).items())
    steps(after)
    added = after.added_keys
    new_parameters = 0
    for name, tensor in clone_tensors(after).items():
        moved = not torch.equal(tensor, start[name])
        assert moved == (name in added), name
        new_parameters += name in added
    per_stage = 2 + 1 + 1  # fc1, classifier (normalized: no bias), counts
    assert new_parameters == len(added) >= per_stage * len(stages(after))
    assert {n for n, p in after.named_parameters() if p.requires_grad} < added


@torch.no_grad()
def test_after_training_detections_are_scored_by_both_branches():
    before = trained("plain")
    after = follow(before, "plain")
    with torch.enable_grad():
        steps(after)
    after.eval()
    inputs = images()
    found = [i["instances"] for i in after(inputs)]
    assert any(
        not torch.equal(f.scores, b["instances"].scores)
        for f, b in zip(found, before(inputs), strict=True)
    )


@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
@pytest.mark.parametrize("kind", ["cascade", "tsd_htc_lite"])
@torch.no_grad()
def test_branches_are_fused_over_stages_and_then_averaged(kind, fusion):
    after = follow(trained(kind), kind, score_fusion=fusion, model_options={"init": "random"})
    for predictor in stages(after):
        predictor.new.cls_score.weight.normal_(std=1.0)
    after.eval()
    stage_logits = []
    for predictor in stages(after):
        predictor.register_forward_hook(lambda *a: stage_logits.append(a[2][0]))
    given = after.preprocess_image(images())
    features = after.backbone(given.tensor)
    proposals, _ = after.proposal_generator(given, features)
    _, scores = box_predictions(after.roi_heads, features, proposals)
    assert len(stage_logits) == 3

    def literal(logits):
        objectness = logits[:, C:].softmax(dim=1)
        classes = logits[:, :C].softmax(dim=1) * objectness[:, :1]
        return torch.cat([classes, objectness[:, 1:]], dim=1)

    branches = [[z[:, : C + 2] for z in stage_logits], [z[:, C + 2 :] for z in stage_logits]]
    if fusion == "logits":
        expected = sum(literal(sum(logits) / 3) for logits in branches) / 2
    else:
        expected = sum(literal(z) for logits in branches for z in logits) / 6
    torch.testing.assert_close(torch.cat(scores), expected)
    assert (literal(sum(branches[0]) / 3) - literal(sum(branches[1]) / 3)).abs().max() > 0.1


NAMES = {False: ["loss_cls_new"], True: ["loss_cls_classes_new", "loss_cls_objectness_new"]}


@pytest.mark.parametrize("seesaw", [True, False])
@every_kind
def test_only_the_new_branches_have_losses(kind, seesaw):
    after = model(kind, dual=True, predictors={"seesaw": seesaw})
    losses = after(images())
    suffixes = [""] if kind == "plain" else [f"_stage{k}" for k in range(3)]
    assert set(losses) == {name + suffix for name in NAMES[seesaw] for suffix in suffixes}
    assert all(loss.requires_grad for loss in losses.values())


@every_kind
def test_modules_needed_only_by_other_losses_are_not_run(kind):
    after = follow(trained(kind), kind)
    heads = after.roi_heads
    unused = [heads.mask_head, heads.mask_pooler]
    for predictor in stages(after):
        if kind.startswith("tsd"):
            unused.append(predictor.sibling)
        predictor.box_reg_loss = None
    after.proposal_generator.losses = after.proposal_generator.label_and_sample_anchors = None
    if kind.endswith("htc_lite"):
        heads.context_encoder.losses = None

    def fail(*_):
        raise RuntimeError("was run")

    for module in unused:
        module.register_forward_pre_hook(fail)
    features = []
    after.backbone.register_forward_hook(lambda *a: features.extend(a[2].values()))
    steps(after, 1)
    assert len(features) == 2
    assert not any(f.requires_grad for f in features)


def test_stage_weights_scale_the_losses():
    one, other = (
        model("cascade", dual=True, stage_loss_weights=weights)
        for weights in ([1, 1, 1], [1, 2, 4])
    )
    other.load_state_dict(one.state_dict())
    inputs = images()
    losses = []
    for module in (one, other):
        torch.manual_seed(1)  # same sampling
        losses.append(module(inputs))
    for name, loss in losses[1].items():
        torch.testing.assert_close(loss, [1, 2, 4][int(name[-1])] * losses[0][name])


@every_kind
def test_rois_are_sampled_from_as_many_proposals_as_in_plain_training(kind):
    before = trained(kind)
    after = follow(before, kind)
    seen = {"before": [], "after": []}
    for name, module in (("before", before), ("after", after)):
        sample = module.roi_heads.label_and_sample_proposals

        def record(proposals, targets, sample=sample, name=name):
            sampled = sample(proposals, targets)
            seen[name].append(([len(p) for p in proposals], [len(p) for p in sampled]))
            return sampled

        module.roi_heads.label_and_sample_proposals = record
    inputs = images(((0, 2, 2), ()))
    for module in before.modules():
        # Training mode, but with fixed statistics, so that both models see the same features.
        module.training = not isinstance(module, nn.BatchNorm2d)
    for module in (before, after):
        module(inputs)
    assert seen["before"][0][0] == seen["after"][0][0]
    assert max(seen["after"][0][0]) > after.proposal_generator.post_nms_topk[False]
    assert sum(seen["after"][0][1]) == 48
    assert len(seen["before"]) == len(seen["after"]) == (1 if kind == "plain" else 3)


def test_proposal_limits_are_restored_after_an_error():
    after = model("plain", dual=True)
    limits = (after.proposal_generator.pre_nms_topk, after.proposal_generator.post_nms_topk)

    def fail(*_):
        raise RuntimeError("broken")

    after.backbone.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        after(images())
    assert limits == (
        after.proposal_generator.pre_nms_topk,
        after.proposal_generator.post_nms_topk,
    )
    assert limits[0] == {True: 100, False: 50}


@every_kind
def test_only_new_branches_are_ever_in_training_mode(kind):
    after = model(kind, dual=True)
    for mode in (True, False, True):
        after.train(mode)
        assert after.training == after.roi_heads.training == mode
        for name, module in after.named_modules():
            if name not in ("", "roi_heads"):
                is_new = ".new." in f"{name}."
                assert module.training == (mode and is_new), name
    assert not any(module.training for module in after.eval().modules())


@pytest.mark.parametrize("labels", [((), ()), ((), (2,)), ((0, 2, 2, 1), (4, 1, 1, 3, 0))])
@every_kind
def test_trains_with_any_number_of_objects(kind, labels):
    after = follow(trained(kind), kind)
    inputs = images(labels)
    losses = after(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in after.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all()


@every_kind
def test_object_masks_are_not_copied_for_every_roi(kind):
    after = model(kind, dual=True)
    sample, fields = after.roi_heads.label_and_sample_proposals, []

    def record(*given):
        sampled = sample(*given)
        fields.extend(name for p in sampled for name in p.get_fields())
        return sampled

    after.roi_heads.label_and_sample_proposals = record
    after(images())
    assert {name for name in fields if name.startswith("gt_")} == {"gt_boxes", "gt_classes"}


def test_objects_need_no_masks_and_are_not_modified():
    after = model("cascade", dual=True)
    inputs = images()
    for given in inputs:
        if given["instances"].has("gt_masks"):
            given["instances"].remove("gt_masks")
    fields = [set(given["instances"].get_fields()) for given in inputs]
    after(inputs)
    assert fields == [set(given["instances"].get_fields()) for given in inputs]


def test_the_optimizer_gets_only_the_new_parameters():
    after = model("tsd_htc_lite", dual=True)
    groups = get_default_optimizer_params(after)
    given = {id(p) for group in groups for p in group["params"]}
    new = {id(p) for n, p in after.named_parameters() if n in after.added_keys}
    assert given == new
    assert len(given) == 3 * 4  # per stage: weight and bias of one layer and of the classifier


@every_kind
def test_ddp_finds_no_unused_parameter(kind, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        after = follow(trained(kind), kind)
        wrapped = DistributedDataParallel(after, broadcast_buffers=False)
        steps(wrapped, 2)
        steps(wrapped, 1, images(((), ())))
        assert not after.backbone.training
    finally:
        dist.destroy_process_group()


def test_loaded_weights_are_copied_unless_new_ones_were_loaded():
    before = trained("tsd")
    copied = follow(before, "tsd")
    for name, tensor in copied.state_dict().items():
        if name in copied.added_keys:
            expected = copied.state_dict()[name.replace("new.", "")]
            is_count = name.endswith("class_counts")
            assert torch.equal(tensor, torch.zeros_like(tensor) if is_count else expected), name
    steps(copied, 1)
    again = model("tsd", dual=True)
    again.load_state_dict(copied.state_dict())
    assert all(torch.equal(again.state_dict()[n], t) for n, t in copied.state_dict().items())


def test_random_branches_are_not_copies_and_counts_continue_on_request():
    before = trained("cascade")
    after = follow(before, "cascade", model_options={"init": "random", "fresh_counts": False})
    for predictor, old in zip(stages(after), stages(before), strict=True):
        assert not torch.equal(predictor.new.cls_score.weight, predictor.cls_score.weight)
        assert torch.equal(predictor.new.cls_loss.class_counts, old.cls_loss.class_counts)
        assert old.cls_loss.class_counts.sum() > 0


def test_a_state_without_the_new_branches_is_reported_as_incomplete():
    with pytest.raises(RuntimeError, match=r"Missing key.*box_predictor\.new\.cls_score\.weight"):
        model("plain", dual=True).load_state_dict(trained("plain").state_dict())


def test_added_keys_are_the_keys_that_the_previous_model_lacks():
    for kind in KINDS:
        after = model(kind, dual=True)
        assert after.added_keys == after.state_dict().keys() - trained(kind).state_dict().keys()


@pytest.mark.parametrize("kind", ["cascade", "tsd"])
def test_bfloat16_autocast_is_close_to_full_precision(kind):
    after = model(kind, dual=True)
    inputs = images()
    sample = after.roi_heads.label_and_sample_proposals
    sampled, replayed = [], []

    def replay(*given):
        # Rounding changes proposals and thus the sampled RoIs, so both runs use the same RoIs.
        if len(sampled) < 3:
            sampled.append(sample(*given))
            return sampled[-1]
        replayed.append(sampled[len(replayed)])
        return replayed[-1]

    after.roi_heads.label_and_sample_proposals = replay
    expected = after(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        losses = after(inputs)
    assert len(replayed) == len(sampled) == 3
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], atol=0.1, rtol=0.1)
    sum(losses.values()).backward()
    for name, parameter in after.named_parameters():
        assert (parameter.grad is not None) == (name in after.added_keys), name
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = after.eval()(inputs)
    assert all(f["instances"].scores.dtype == torch.float32 for f in found)


def test_invalid_options_are_rejected():
    with pytest.raises(ValueError, match=r"init must be one of \['copy', 'random'\], got 'zero'"):
        model("plain", dual=True, model_options={"init": "zero"})
    with pytest.raises(ValueError, match="new_cls_score cannot start as a copy of cls_score"):
        model("plain", dual=True, predictors={"seesaw": False, "new_seesaw": True})
    before = trained("cascade")
    with pytest.raises(ValueError, match="got LossDrivenOutputLayers"):
        DualHeadRCNN(
            backbone=before.backbone,
            proposal_generator=before.proposal_generator,
            roi_heads=before.roi_heads,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )
    with pytest.raises(ValueError, match="the inputs have no 'instances'"):
        model("plain", dual=True)([{"image": torch.rand(3, 64, 64)}])


def test_new_branches_with_another_loss_can_start_from_random_weights():
    options = {"predictors": {"seesaw": False, "new_seesaw": True}}
    after = model("tsd", dual=True, model_options={"init": "random"}, **options)
    losses = steps(after, 1)
    assert set(losses) == {f"{name}_stage{k}" for name in NAMES[True] for k in range(3)}
    with torch.no_grad():
        scores = [i["instances"].scores for i in after.eval()(images())]
    assert all(torch.isfinite(s).all() and len(s) == 10 for s in scores)


def test_only_the_batch_norm_of_the_new_branch_is_trained():
    norm = {"conv_dims": [8], "conv_norm": "BN"}
    head = dual_parts.box_head("plain", True, **norm)
    names = [n for n, _ in head.named_buffers() if n.endswith("running_mean")]
    assert names == ["conv1.norm.running_mean", "new.conv1.norm.running_mean"]
    after = model("plain", dual=True, heads=norm | {"fc_dims": [dual_parts.WIDTH]})
    start = clone_tensors(after)
    steps(after)
    moved = {n for n, t in clone_tensors(after).items() if not torch.equal(t, start[n])}
    assert moved == after.added_keys
