import random
from functools import cache

import pytest
import torch
import torch.distributed as dist
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn
from torch.nn.functional import max_pool2d
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference import MeanOverSharedProposals, MultiViewInference, UnionOfDetections
from tests.inference.models import (
    TRUE_BOXES,
    TRUE_CLASSES,
    Oracle,
    box_rcnn,
    cascade_rcnn,
    mapped,
    mask_rcnn,
    mask_scoring_rcnn,
    oracle_image,
    picture,
    true_masks,
    yacs_rcnn,
)
from tests.support.memory import PeakBytes

SCALES = [(64, 110), (80, 130), (96, 160)]
CHALLENGE = [(long, long) for long in (1200, 1400, 1600, 1800, 2000)]


either_merging = pytest.mark.parametrize(
    "merge",
    [UnionOfDetections(), pytest.param(MeanOverSharedProposals(), marks=pytest.mark.slow)],
)


@pytest.fixture
def record(tmp_path):
    return picture(tmp_path / "picture.png")


@cache
def shared_model():
    torch.manual_seed(5)
    return mask_rcnn()


def fields(output):
    found = output["instances"].get_fields()
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in found.items()}


def assert_equal(one, other):
    one, other = fields(one), fields(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


BUILDERS = [mask_rcnn, cascade_rcnn, yacs_rcnn, box_rcnn, mask_scoring_rcnn]


@pytest.mark.parametrize("build", BUILDERS)
@torch.no_grad()
def test_one_view_at_the_mappers_scale_equals_plain_inference_to_the_bit(record, build):
    model = build()
    image = mapped(record, image_format=model.input_format)
    assert image["image"].shape[1:] != (record["height"], record["width"])
    (plain,) = model([image])
    assert len(plain["instances"]) >= 5
    (found,) = MultiViewInference(model, scales=[(160, 260)], flip=False)([image])
    assert_equal(found, plain)
    assert ("pred_masks" in fields(found)) == (build is not box_rcnn)
    assert ("mask_scores" in fields(found)) == (build is mask_scoring_rcnn)


@torch.no_grad()
def test_the_mask_head_of_one_view_gets_the_boxes_of_the_model(record):
    model, seen = mask_rcnn(), []
    model.roi_heads.mask_pooler.register_forward_hook(
        lambda _, given, __: seen.append(given[1][0].tensor.clone())
    )
    model([mapped(record)])
    MultiViewInference(model, scales=[(160, 260)], flip=False)([record])
    plain, view = seen
    assert torch.equal(plain, view)  # transforming them back and forth would round


@torch.no_grad()
def test_averaging_over_one_view_equals_plain_inference(record):
    model, image = shared_model(), mapped(record)
    (plain,) = model([image])
    mean = MultiViewInference(
        model, scales=[(160, 260)], flip=False, merge=MeanOverSharedProposals()
    )
    torch.testing.assert_close(fields(mean([image])[0]), fields(plain), atol=1e-3, rtol=1e-4)


@either_merging
def test_correct_outputs_of_ten_views_give_correct_outputs(merge):
    views = MultiViewInference(Oracle(), scales=CHALLENGE, merge=merge)
    found = views([oracle_image()])[0]["instances"]
    # A pixel of the largest view is a quarter pixel here, so that an offset by one would show.
    torch.testing.assert_close(found.pred_boxes.tensor, TRUE_BOXES, atol=0.01, rtol=0)
    assert torch.equal(found.pred_classes, TRUE_CLASSES)
    true = true_masks().float()
    within_a_pixel = max_pool2d(true, 3, 1, 1) != -max_pool2d(-true, 3, 1, 1)
    wrong = found.pred_masks != true.bool()
    assert true.sum() > 15_000
    assert not (wrong & ~within_a_pixel).any()
    assert wrong.sum() < 0.02 * true.sum()


@pytest.mark.slow
@pytest.mark.parametrize("merge", [UnionOfDetections(), MeanOverSharedProposals()])
def test_the_order_of_views_does_not_matter(record, merge):
    scales = [*SCALES, (72, 300), (90, 100)]
    (expected,) = MultiViewInference(shared_model(), scales=scales, merge=merge)([record])
    assert len(expected["instances"]) == 15
    for _ in range(2):
        random.shuffle(scales)
        again = MultiViewInference(shared_model(), scales=list(scales), merge=merge)([record])
        assert_equal(again[0], expected)


def test_a_mirrored_image_gives_mirrored_outputs(record):
    views = MultiViewInference(shared_model(), scales=SCALES[:2])
    image = mapped(record, 150, 203)
    mirrored = image | {"image": image["image"].flip(2)}
    found, other = (fields(views([x])[0]) for x in (image, mirrored))
    x0, y0, x1, y1 = found["pred_boxes"].unbind(1)
    expected = torch.stack([203 - x1, y0, 203 - x0, y1], 1)
    # Rounding may swap detections of nearly equal scores.
    match = pairwise_iou(Boxes(expected), Boxes(other["pred_boxes"]))
    match = match * (found["pred_classes"][:, None] == other["pred_classes"])
    best, index = match.max(1)
    assert (best > 0.999).all()
    torch.testing.assert_close(found["scores"], other["scores"][index])
    agree = found["pred_masks"].flip(2) == other["pred_masks"][index]
    assert agree.float().mean() > 0.999


def test_views_come_from_the_original_image_not_from_the_resized_one(record):
    views = MultiViewInference(shared_model(), scales=SCALES, flip=False)
    (expected,) = views([record])
    assert_equal(views([mapped(record, 20, 30)])[0], expected)
    as_tensor = {"original_image": mapped(record, 150, 203)["image"], "height": 150, "width": 203}
    assert_equal(views([as_tensor])[0], expected)


def test_predictions_have_the_size_that_the_input_requests(record):
    views = MultiViewInference(shared_model(), scales=SCALES)
    (small,), (large,) = views([record]), views([record | {"height": 300, "width": 406}])
    assert large["instances"].pred_masks.shape[1:] == (300, 406)
    torch.testing.assert_close(fields(small)["pred_boxes"] * 2, fields(large)["pred_boxes"])


def test_images_of_a_batch_do_not_influence_each_other(tmp_path):
    records = [picture(tmp_path / f"{i}.png", 120 + 30 * i, 160) for i in range(3)]
    views = MultiViewInference(shared_model(), scales=SCALES[:1])
    for together, record in zip(views(records), records, strict=True):
        assert_equal(together, views([record])[0])
    assert views([]) == []


@either_merging
def test_ten_views_need_hardly_more_memory_than_the_largest_one(record, merge):
    model = mask_rcnn()
    model.roi_heads.box_predictor.test_topk_per_image = 3  # limits the share of the mask head
    scales = [(96, 160), (128, 200), (160, 260), (192, 300), (256, 400)]
    weights = sum(p.nbytes for p in model.parameters())

    def peak(**options):
        with PeakBytes() as memory:
            MultiViewInference(model, merge=merge, **options)([record])
        return memory.peak - weights

    largest = peak(scales=scales[-1:], flip=False)
    assert peak(scales=scales[:1], flip=False) < 0.5 * largest  # the views dominate the peak
    assert peak(scales=scales, flip=True) < 1.2 * largest


STAGES = ["backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.mask_head"]


@pytest.mark.parametrize("merge", [UnionOfDetections(), MeanOverSharedProposals()])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("call", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_model_is_restored_after_an_exception_anywhere(record, merge, stage, call):
    model = mask_rcnn().train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("no memory")

    model.get_submodule(stage).register_forward_pre_hook(fail)
    views = MultiViewInference(model, scales=SCALES[:1], merge=merge)
    with pytest.raises(RuntimeError, match="no memory"):
        views([record])
    assert model.roi_heads.mask_on is True
    assert [module.training for module in model.modules()] == modes
    assert "pred_masks" in fields(views([record])[0])


def test_views_can_be_run_in_training_mode_which_is_restored(record):
    model = mask_rcnn()
    views = MultiViewInference(model, scales=SCALES[:1])
    (expected,) = views.eval()([record])
    assert_equal(views.train()([record])[0], expected)
    assert all(module.training for module in model.modules())
    assert not fields(expected)["scores"].requires_grad


@pytest.mark.parametrize("merge", [UnionOfDetections(), MeanOverSharedProposals()])
@pytest.mark.parametrize("nothing", ["detections", "proposals"])
def test_without_detections_the_fields_are_those_of_the_model(record, merge, nothing):
    model = mask_rcnn()
    if nothing == "detections":
        model.roi_heads.box_predictor.test_score_thresh = 1.1
    else:
        model.proposal_generator.post_nms_topk = {False: 0}
    (plain,) = model([mapped(record)])
    (found,) = MultiViewInference(model, scales=SCALES, merge=merge)([record])
    assert len(found["instances"]) == 0
    for name, value in fields(plain).items():
        given = fields(found)[name]
        assert (given.shape, given.dtype) == (value.shape, value.dtype), name


def test_a_model_without_masks_runs_each_view_once_and_one_with_masks_twice(record):
    for model, runs in ((box_rcnn(), 6), (mask_rcnn(), 12)):
        calls = []
        model.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        MultiViewInference(model, scales=SCALES)([record])
        assert len(calls) == runs


def test_other_outputs_per_box_are_averaged_like_the_masks():
    views = MultiViewInference(Oracle(), scales=[(180, 240), (720, 960)], flip=False)
    found = views([oracle_image()])[0]["instances"]
    torch.testing.assert_close(found.mask_scores, torch.tensor([0.9, 0.8]) * (180 + 720) / 2)


@torch.no_grad()
def test_a_mask_score_is_the_merged_score_times_the_mean_of_the_predicted_ious(record):
    model, ious = mask_scoring_rcnn(), []
    model.roi_heads.mask_head.iou_head.register_forward_hook(lambda *a: ious.append(a[2].clone()))
    merged = MultiViewInference(model, scales=SCALES)([record])[0]["instances"]
    assert len(ious) == 6
    mean = torch.stack(ious).mean(0)
    assert len(mean) == len(merged) == 15
    torch.testing.assert_close(merged.mask_scores, merged.scores * mean)
    assert torch.stack(ious).std(0).max() > 0.01


@torch.no_grad()
def test_mask_scores_stay_with_their_boxes_if_empty_boxes_are_dropped():
    views = MultiViewInference(Oracle(), scales=[(180, 240)], flip=False)
    given = views.model.roi_heads.forward
    beside = torch.tensor([[-20.0, 10.0, -5.0, 30.0]])

    def with_a_box_outside(images, features, proposals, targets=None):
        (found,), losses = given(images, features, proposals)
        boxes = torch.cat([beside, found.pred_boxes.tensor])
        more = Instances(found.image_size, pred_boxes=Boxes(boxes))
        more.scores = torch.tensor([0.95, 0.9, 0.8])
        more.pred_classes = torch.cat([torch.tensor([5]), found.pred_classes])
        return [more], losses

    views.model.roi_heads.forward = with_a_box_outside
    found = views([oracle_image()])[0]["instances"]
    assert torch.equal(found.pred_classes, TRUE_CLASSES)
    torch.testing.assert_close(found.mask_scores, found.scores * 180)


class FixedMasks(Oracle):
    """Oracle that returns given masks in turn, regardless of the view."""

    def __init__(self, masks):
        super().__init__()
        masks = iter(masks)

        def forward_with_given_boxes(features, instances):
            for given in instances:
                given.pred_masks = next(masks).expand(len(given), 1, 28, 28)
            return instances

        self.roi_heads.forward_with_given_boxes = forward_with_given_boxes


@torch.no_grad()
def test_masks_are_the_mean_over_the_views_flipped_back(monkeypatch):
    upright, mirrored = torch.rand(2, 1, 1, 28, 28)
    means = []
    monkeypatch.setattr(
        "d2_seesaw.inference.tta.detector_postprocess",
        lambda result, *frame: means.append(result.pred_masks) or result,
    )
    MultiViewInference(FixedMasks([upright, mirrored]), scales=[(360, 480)])([oracle_image()])
    expected = (upright + mirrored.flip(3)) / 2
    torch.testing.assert_close(means[0], expected.expand(2, 1, 28, 28), atol=0, rtol=0)


def test_each_view_has_its_own_features_for_boxes_and_for_masks(record):
    model, seen = mask_rcnn(), []
    model.roi_heads.mask_pooler.register_forward_hook(
        lambda _, given, __: seen.append(("mask", given[0][0].shape[2:]))
    )
    model.roi_heads.box_pooler.register_forward_hook(
        lambda _, given, __: seen.append(("box", given[0][0].shape[2:]))
    )
    MultiViewInference(model, scales=SCALES[::2])([record])
    rounds = [tuple(s) for _, s in seen]
    assert [kind for kind, _ in seen] == ["box"] * 4 + ["mask"] * 4
    assert rounds == rounds[:4] * 2
    assert len(set(rounds)) == 2


def test_a_view_and_its_mirror_image_can_run_together(record):
    one, two = (
        MultiViewInference(shared_model(), scales=SCALES, batch_size=n)([record])[0] for n in (1, 2)
    )
    # Convolutions of one and of two images sum in a different order.
    rounding = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(fields(one)["pred_boxes"], fields(two)["pred_boxes"], **rounding)
    torch.testing.assert_close(fields(one)["scores"], fields(two)["scores"], **rounding)
    agree = fields(one)["pred_masks"] == fields(two)["pred_masks"]
    assert agree.float().mean() > 0.9999


@pytest.mark.parametrize(
    "merge",
    [UnionOfDetections(), pytest.param(MeanOverSharedProposals(), marks=pytest.mark.slow)],
)
def test_mixed_precision_applies_to_the_model_but_merging_is_in_float32(record, merge):
    model, dtypes = mask_rcnn(), set()
    model.backbone.register_forward_hook(lambda *a: dtypes.add(a[2]["p2"].dtype))
    views = MultiViewInference(model, scales=SCALES[:1], merge=merge, amp_dtype="bfloat16")
    found = fields(views([record])[0])
    assert dtypes == {torch.bfloat16}
    assert found["scores"].dtype == found["pred_boxes"].dtype == torch.float32


def test_a_model_in_ddp_is_unwrapped(record, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        views = MultiViewInference(DistributedDataParallel(shared_model()), scales=SCALES[:1])
        assert views.model is shared_model()
    finally:
        dist.destroy_process_group()


def test_mask_heads_get_the_features_and_the_size_of_each_view():
    model, sizes = Oracle(), []
    given_boxes = model.roi_heads.forward_with_given_boxes

    def with_context(features, instances):
        sizes.append((tuple(features["image"].shape[2:]), instances[0].image_size))
        return given_boxes(features, instances)

    model.roi_heads.forward_with_given_boxes = with_context
    MultiViewInference(model, scales=[(90, 120), (180, 240)])([oracle_image()])
    assert sizes == [((s, s * 4 // 3),) * 2 for s in (90, 90, 180, 180)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"amp_dtype": "half"}, r"amp_dtype must be one of \['bfloat16', 'float16'\], got 'half'"),
        ({"scales": []}, "scales must be at least one pair"),
        ({"model": nn.Linear(1, 1)}, "must be a GeneralizedRCNN, got Linear"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiViewInference(**{"model": shared_model(), "scales": SCALES} | options)


def test_unsupported_models_are_refused():
    for part, attribute, value, message in (
        ("", "proposal_generator", None, "no proposal_generator"),
        ("roi_heads", "keypoint_on", True, "keypoints"),
    ):
        model = mask_rcnn()
        setattr(model.get_submodule(part), attribute, value)
        with pytest.raises(ValueError, match=message):
            MultiViewInference(model, scales=SCALES)


def test_a_missing_file_is_one_clear_error():
    views = MultiViewInference(shared_model(), scales=SCALES)
    with pytest.raises(FileNotFoundError, match=r"image 'no\.jpg' does not exist"):
        views([{"file_name": "no.jpg", "height": 10, "width": 10}])
