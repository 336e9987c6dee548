"""Tests that instance segmentation configs match their names and published recipes."""

import re
import runpy
import time

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from d2_seesaw.data import OpenCVResizeShortestEdge, RandomSampling, RepeatFactorSampling
from d2_seesaw.inference import MultiViewInference, UnionOfDetections
from d2_seesaw.layers import FrozenStatisticsBatchNorm2d, NormedConv2d, NormedLinear
from d2_seesaw.layers.predictors import is_pointwise
from d2_seesaw.losses import SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import GlorotFPN, LabelMapRCNN, PaddedMaskRCNN, ValidAnchorRPN
from d2_seesaw.modeling.roi_heads import (
    HTCLiteROIHeads,
    HTCROIHeads,
    LossDrivenCascadeROIHeads,
    MaskHeadWithPredictor,
    TwoSidedBox2BoxTransform,
)
from tests.support.configs import (
    CONFIGS,
    LEAVES,
    all_of,
    build_model,
    changed,
    each,
    meta_device,
    model_in,
    plain,
    predictors_of,
    read,
)

FLAGSHIP = CONFIGS / "lvis_v1_seesaw.py"
# These folders have their own test files.
ELSEWHERE = {"semantic", "backbones", "challenge", "classification"}
INSTANCES = [
    p
    for p in LEAVES
    if not ELSEWHERE & {*p.parts, p.stem} and not p.stem.startswith(("semantic", "classification"))
]
LVIS = [p for p in LEAVES if p.parent.name == "lvis_v1"]
MMDET = [p for p in LEAVES if p.parent.name == "mmdet"]

every_config = each(INSTANCES)
every_lvis_config = each(LVIS)


@every_config
def test_the_number_of_classes_is_set_in_one_place(path):
    cfg = changed(path, "model.roi_heads.num_classes=7")
    with meta_device():
        heads = instantiate(cfg.model.roi_heads)
    assert heads.num_classes == 7
    cascade = isinstance(heads, LossDrivenCascadeROIHeads)
    assert len(all_of(heads.box_predictor)) == (3 if cascade else 1)
    for predictor in all_of(heads.box_predictor):
        assert predictor.num_classes == predictor.cls_loss.num_classes == 7
        assert predictor.cls_score.out_features == predictor.cls_loss.num_logits
        assert predictor.bbox_pred.out_features == (4 if cascade else 4 * 7)
    for mask_head in all_of(heads.mask_head):
        assert mask_head.predictor.out_channels == 7
    if isinstance(heads, HTCLiteROIHeads):
        assert heads.context_encoder.classifier.out_features == 7


@pytest.mark.slow
@every_config
def test_only_the_mask_of_the_rois_class_is_computed(path):
    heads = all_of(model_in(path).roi_heads.mask_head)
    assert all(isinstance(h, MaskHeadWithPredictor) and is_pointwise(h.predictor) for h in heads)


@every_config
def test_tta_views_include_the_test_size(path):
    cfg = changed(path)
    cfg.tta.model = model = model_in(path)
    tta = instantiate(cfg.tta)
    assert isinstance(tta, MultiViewInference)
    assert tta.model is model
    assert isinstance(tta.merge, UnionOfDetections)
    assert tta.flip
    test_sizes = {"quickstart": (144, 144), "vitdet": (1024, 1024), "cpu": (192, 320)}
    size = test_sizes.get(path.relative_to(CONFIGS).parts[0]) or test_sizes.get(path.stem)
    assert (size or (800, 1333)) in tta.scales


def test_published_tta_views_are_multiples_of_the_test_size():
    scales = read(FLAGSHIP).tta.scales
    assert [short for short, _ in scales] == list(range(400, 1300, 100))
    assert all(abs(limit - short * 1333 / 800) <= 0.5 for short, limit in scales)


@every_lvis_config
def test_settings_match_the_file_name(path):
    cfg = read(path)
    words = path.stem.split("_")
    heads = model_in(path).roi_heads
    is_seesaw = "seesaw" in words
    for predictor in all_of(heads.box_predictor):
        assert isinstance(predictor.cls_loss, SeesawLoss if is_seesaw else SoftmaxLoss)
        assert isinstance(predictor.cls_score, NormedLinear) == is_seesaw
    for mask_head in all_of(heads.mask_head):
        assert isinstance(mask_head.predictor, NormedConv2d) == ("norm" in words)
    assert cfg.model.backbone.bottom_up.stages.depth == (101 if "r101" in words else 50)
    assert f"ResNet{cfg.model.backbone.bottom_up.stages.depth}_" in cfg.train.init_checkpoint
    sampling = instantiate(cfg.dataloader.train.sampling)
    assert isinstance(sampling, RepeatFactorSampling if "rfs" in words else RandomSampling)
    assert isinstance(heads, LossDrivenCascadeROIHeads) == (
        {"cascade", "htc"} & set(words) != set()
    )
    assert isinstance(heads, HTCLiteROIHeads) == ("lite" in words)
    assert isinstance(heads, HTCROIHeads) == ("htc" in words and "lite" not in words)
    assert cfg.train.epochs == int(words[-1].removesuffix("x")) * 12


@every_lvis_config
def test_follows_the_published_recipe(path):
    epochs = read(path).train.epochs
    cfg = changed(path, f"train.max_iter={epochs * 1000}")
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (
        0.02,
        0.9,
        1e-4,
    )
    assert cfg.dataloader.train.total_batch_size == 16
    schedule = instantiate(cfg.lr_multiplier)
    first, second = {12: (8, 11), 24: (16, 22)}[epochs]
    values = [schedule(e / epochs) for e in (1, first - 0.01, first, second - 0.01, second)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    step = 1 / cfg.train.max_iter
    assert schedule(0) == pytest.approx(1e-3)
    assert schedule(498 * step) < 1
    assert schedule(499 * step) == pytest.approx(1)
    heads = cfg.model.roi_heads
    assert (heads.batch_size_per_image, heads.positive_fraction) == (512, 0.25)
    for predictor in predictors_of(cfg):
        assert predictor.test_score_thresh == 1e-4
        assert predictor.test_topk_per_image == 300
        assert predictor.test_nms_thresh == 0.5
    assert cfg.model.input_format == "RGB"
    assert cfg.model.pixel_mean == [123.675, 116.28, 103.53]
    assert cfg.model.pixel_std == [58.395, 57.12, 57.375]
    assert not cfg.model.backbone.bottom_up.stages.stride_in_1x1
    resize, flip = map(instantiate, cfg.dataloader.train.mapper.augmentations)
    assert list(resize.short_edge_length) == [640, 672, 704, 736, 768, 800]
    assert resize.max_size == 1333
    assert flip.horizontal
    (test_resize,) = map(instantiate, cfg.dataloader.test.mapper.augmentations)
    assert {*np.atleast_1d(test_resize.short_edge_length)} == {800}
    assert test_resize.max_size == 1333


def test_the_flagship_is_seesaw_with_normalized_masks_and_repeat_factors():
    row = changed(CONFIGS / "lvis_v1/mask_rcnn_r50_fpn_seesaw_norm_mask_rfs_2x.py")
    row.train.output_dir = read(FLAGSHIP).train.output_dir
    assert plain(row) == plain(read(FLAGSHIP))


def test_the_flagship_has_lvis_v1s_classes_and_the_published_logit_counts():
    heads = model_in(FLAGSHIP).roi_heads
    assert heads.box_predictor.cls_score.out_features == 1205
    assert heads.box_predictor.cls_loss.class_counts.shape == (1204,)
    assert heads.box_predictor.bbox_pred.out_features == 4812


CASCADES = [
    p for p in INSTANCES if ("cascade" in p.stem or "htc" in p.stem) and p.parent.name != "vitdet"
]

BUILT_IN_TWO_SECONDS = [
    FLAGSHIP,
    CONFIGS / "lvis_v1/cascade_mask_rcnn_r101_fpn_seesaw_norm_mask_rfs_2x.py",
    CONFIGS / "lvis_v1/htc_lite_r50_fpn_softmax_rfs_1x.py",
]


@each(CASCADES)
def test_cascade_training_follows_mmdet(path):
    heads = model_in(path).roi_heads
    assert [m.thresholds[1] for m in heads.proposal_matchers[:3]] == [0.5, 0.6, 0.7]
    stds = ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
    for predictor, (xy, wh) in zip(heads.box_predictor, stds, strict=True):
        expected = (1 / xy, 1 / xy, 1 / wh, 1 / wh)
        assert tuple(predictor.box2box_transform.weights) == pytest.approx(expected)
        assert (predictor.box_reg_loss_type, predictor.smooth_l1_beta) == ("smooth_l1", 1.0)
    losses = [predictor.cls_loss for predictor in heads.box_predictor]
    assert len(set(map(id, losses))) == 3
    assert heads.score_fusion == "logits"
    assert heads.resample
    assert heads.stage_loss_weights == [1, 0.5, 0.25]
    assert len(all_of(heads.mask_head)) == (1 if "htc_lite" in path.stem else 3)


@pytest.mark.parametrize(
    ("name", "floors"), [("htc_without_semantic", [0.5, 0.6, 0.7]), ("htc_lite", [None] * 3)]
)
def test_htc_alone_of_the_cascades_matches_low_quality_as_in_mmdet(name, floors):
    # mmdet's HTC configs do not set match_low_quality, which is true by default.
    (path,) = [p for p in LVIS if p.stem.startswith(f"{name}_r50")]
    matchers = read(path).model.roi_heads.proposal_matchers
    assert [m.low_quality_floor for m in matchers] == floors


@each([p for p in CASCADES if p in LVIS])
def test_the_rpn_of_a_cascade_follows_mmdet(path):
    rpn = read(path).model.proposal_generator
    assert (rpn.box_reg_loss_type, rpn.smooth_l1_beta) == ("smooth_l1", pytest.approx(1 / 9))
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == ([2000, 1000], [2000, 1000])


@pytest.mark.slow  # a slow processor may need longer
@each(BUILT_IN_TWO_SECONDS)
def test_flagship_sizes_build_in_less_than_two_seconds(path):
    cfg = read(path)
    start = time.process_time()  # processor time, because other processes may hold the cores
    model = build_model(cfg)
    assert time.process_time() - start < 2
    assert model.roi_heads.num_classes == 1203


HTC_LITES = [p for p in CASCADES if "htc_lite" in p.stem and "plain" not in p.stem]
HTCS = [p for p in CASCADES if "htc" in p.stem and "lite" not in p.stem]


@each(HTCS)
def test_htc_trains_as_in_mmdet_and_has_a_semantic_branch_by_its_name(path):
    model = model_in(path)
    heads = model.roi_heads
    assert heads.mask_rois == "refined"
    assert [*heads.mask_head.conv_res] == ["1", "2"]
    assert heads.mask_head.fusion == "average"
    maps = "stuffthingmaps" in read(path).dataloader.train.dataset.names
    semantic = "without" not in path.stem and "quickstart" not in path.parts
    assert isinstance(model, LabelMapRCNN) == maps == semantic
    if semantic:
        branch = heads.semantic_head
        assert branch.in_features == ["p2", "p3", "p4", "p5", "p6"]
        assert (branch.fusion_level, branch.num_classes, branch.loss_weight) == ("p3", 183, 0.2)
        assert len(branch.convs) == 4


@each(HTC_LITES)
def test_unpublished_choices_of_htc_lite_are_the_recommended_ones(path):
    heads = model_in(path).roi_heads
    encoder = heads.context_encoder
    assert (encoder.in_feature, encoder.loss_weight) == ("p6", 3.0)
    assert (encoder.federated, encoder.masked_mean) == (False, False)
    assert [type(layer) for layer in encoder.layers] == [nn.Conv2d, nn.ReLU] * 4
    assert heads.mask_rois == "last"


@pytest.mark.slow
def test_the_semantic_branch_is_one_override_away_from_other_maps_and_from_none():
    path = CONFIGS / "coco/htc_r50_fpn_1x.py"
    stuff = MetadataCatalog.get("coco_2017_train_panoptic_separated").stuff_classes
    cfg = changed(path, f"model.roi_heads.semantic_head.num_classes={len(stuff)}")
    assert build_model(cfg).roi_heads.semantic_head.logits.out_channels == 54
    without = build_model(changed(path, "model.roi_heads.semantic_head=null"))
    plain_htc = model_in(CONFIGS / "coco/htc_without_semantic_r50_fpn_1x.py")
    assert without.state_dict().keys() == plain_htc.state_dict().keys()


def test_the_plain_htc_lite_only_lacks_the_context():
    with_context = model_in(CONFIGS / "quickstart/htc_lite.py").state_dict()
    without = model_in(CONFIGS / "quickstart/htc_lite_plain.py").state_dict()
    assert {k for k in with_context if "context_encoder" not in k} == set(without)
    assert len(without) < len(with_context)
    heads = model_in(CONFIGS / "quickstart/htc_lite_plain.py").roi_heads
    assert (heads.mask_rois, heads.resample) == ("last", True)


@each(MMDET)
def test_configs_for_mmdets_weights_start_from_these_alone(path):
    source = f"coco/{path.stem}_1x.py" if "htc" in path.stem else f"lvis_v1/{path.stem}_rfs_2x.py"
    cfg, base = changed(path), read(CONFIGS / source)
    assert str(cfg.train.init_checkpoint) == ""
    cfg.train.output_dir = base.train.output_dir
    cfg.train.init_checkpoint = base.train.init_checkpoint
    assert plain(cfg) == plain(base)


def test_the_flagship_of_detectron2_differs_in_conventions_only():
    cfg, base = changed(CONFIGS / "lvis_v1_seesaw_detectron2.py"), changed(FLAGSHIP)
    train_as_detectron2 = conventions()["train_as_detectron2"]
    train_as_detectron2(base.model, base.dataloader)
    base.train.output_dir = cfg.train.output_dir
    assert plain(cfg) == plain(base)


def conventions():
    return runpy.run_path(str(CONFIGS / "common/conventions.py"))


TRAINED_AS_MMDET = [p for p in [FLAGSHIP, *LVIS] if "htc" not in p.stem]


@each(TRAINED_AS_MMDET)
def test_lvis_configs_train_as_mmdet_and_one_line_returns_to_detectron2(path):
    cfg = changed(path)
    cascade = "cascade" in path.stem
    model = model_in(path)
    assert isinstance(model, PaddedMaskRCNN)
    assert isinstance(model.backbone, GlorotFPN)
    assert isinstance(model.backbone.bottom_up.res3[0].conv1.norm, FrozenStatisticsBatchNorm2d)
    assert isinstance(model.backbone.bottom_up.res2[0].conv1.norm, FrozenBatchNorm2d)
    rpn = model.proposal_generator
    assert isinstance(rpn, ValidAnchorRPN)
    assert (rpn.anchor_boundary_thresh, rpn.anchor_matcher.low_quality_floor) == (-1 + cascade, 0.3)
    matchers = (
        [model.roi_heads.proposal_matcher] if not cascade else model.roi_heads.proposal_matchers
    )
    assert [m.low_quality_floor for m in matchers] == [None if cascade else 0.5] * len(matchers)
    assert all(m.objects_appended for m in matchers)
    for predictor in predictors_of(cfg):
        assert isinstance(instantiate(predictor.box2box_transform), TwoSidedBox2BoxTransform)
    for mapper in (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper):
        assert isinstance(instantiate(mapper.augmentations[0]), OpenCVResizeShortestEdge)
    # The switch changes every one of these parts, and the other one changes them back.
    before = plain(cfg)
    conventions()["train_as_detectron2"](cfg.model, cfg.dataloader)
    ours = re.findall(r"d2_seesaw\.(?:modeling|data|layers)[\w.]*\.(\w+)", str(plain(cfg)))
    assert not {
        "PaddedMaskRCNN",
        "kaiming_mask_predictor",
        "GlorotFPN",
        "GlorotBoxHead",
        "ValidAnchorRPN",
        "MaxIoUMatcher",
        "TwoSidedBox2BoxTransform",
        "BitMaskDatasetMapper",
        "OpenCVResizeShortestEdge",
    } & set(ours)
    assert cfg.model.backbone.bottom_up.stages.norm == "FrozenBN"
    conventions()["train_as_mmdet"](cfg.model, cfg.dataloader)
    assert plain(cfg) == before
