"""Choices for own data: closed forms, bounds, and the direction in which each one moves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes as TorchBoxes
from detectron2.structures import ImageList, pairwise_iou

from d2_seesaw.data.check.overview import ThresholdEffect
from d2_seesaw.engine import load_config, load_part
from d2_seesaw.own_data.anchors import Anchors, Boxes, best_overlaps, fit_anchors, k_means, reach
from d2_seesaw.own_data.choices import (
    choose,
    choose_batch,
    choose_evaluation,
    choose_flip,
    choose_length,
    choose_rate,
    choose_sampling,
    choose_start,
)
from d2_seesaw.own_data.config_file import OwnData, choices_text, config_text
from d2_seesaw.own_data.heads import (
    LOSSES,
    SEESAW,
    choose_detections,
    choose_loss,
    choose_outputs,
)
from d2_seesaw.own_data.measure import DatasetMeasures
from d2_seesaw.own_data.recipes import Recipe, recipe_of
from d2_seesaw.own_data.resizing import Resize, choose_resize

FILES = OwnData(Path("train.json"), Path("val.json"), Path("images"))
STRIDES = [4, 8, 16, 32, 64]
DEFAULT = Anchors([16, 32, 64, 96, 128], [0.5, 1.0, 2.0], STRIDES)
CPU = Recipe(
    config="own_data/cpu",
    device="CPU",
    processes=1,
    edges=(192, 512),
    batch=8,
    pixels=0.8e6,
    lr=1e-3,
    weights="torchvision://mobilenet_v2",
    anchors=DEFAULT,
    rois=(48, 128),
    steps=(300, 4000),
)
GPUS = replace(
    CPU, device="GPU", processes=4, edges=(480, 1024), batch=8, pixels=8.5e6, steps=(1000, None)
)


def measures(size=(640, 480), side=60.0, images=100, per_image=2, classes=4, **changes):
    """Return measurements of equal images with square objects of one size."""
    M = images * per_image
    rng = np.random.default_rng(0)
    side = np.broadcast_to(side, M)
    corner = rng.uniform(0, 1, (M, 2)) * (np.array(size) - side[:, None])
    values = {
        "image_sizes": np.tile(np.array(size, float), (images, 1)),
        "boxes": np.column_stack([corner, side, side]),
        "image": np.repeat(np.arange(images), per_image),
        "category": np.arange(M) % classes,
        "image_counts": np.full(classes, images),
        "names": [f"class {c}" for c in range(classes)],
        "thresholds": [ThresholdEffect(0.001, images, 0, 1.0)],
        "has_masks": True,
        "is_federated": False,
        "crowd_share": 0.0,
    }
    return DatasetMeasures(**values | changes)


def drawn_boxes(number, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 300, (number, 2)).astype(float)
    wh = np.exp(rng.uniform(np.log(10), np.log(90), (number, 2)))
    return Boxes(np.hstack([rng.uniform(0, 1, (number, 2)) * (sizes - wh), wh]), sizes)


def test_the_best_overlap_is_that_of_detectron2s_anchors():
    boxes = drawn_boxes(40)
    anchors = Anchors([20, 37.5, 70], [0.3, 1.0, 2.5], [4, 8, 16])
    generator = DefaultAnchorGenerator(
        sizes=[[s] for s in anchors.sizes],
        aspect_ratios=anchors.aspect_ratios,
        strides=[4, 8, 16],
        offset=0.0,
    )
    found = best_overlaps(boxes, anchors)
    for row, (box, (width, height)) in enumerate(zip(boxes.xywh, boxes.image_sizes, strict=True)):
        picture = torch.zeros(3, int(height), int(width))
        padded = ImageList.from_tensors([picture], 32).tensor.shape[-2:]
        maps = [torch.zeros(1, 1, padded[0] // s, padded[1] // s) for s in (4, 8, 16)]
        x, y, w, h = box
        target = TorchBoxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
        best = max(pairwise_iou(target, of_level).max().item() for of_level in generator(maps))
        assert found[row] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("side", [20.0, 51.0, 140.0])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 4.0])
def test_boxes_of_one_shape_get_anchors_of_this_shape(side, ratio):
    number = 50
    w, h = side / np.sqrt(ratio), side * np.sqrt(ratio)
    xywh = np.tile([100.0 - w / 2, 100.0 - h / 2, w, h], (number, 1))
    fitted = fit_anchors(Boxes(xywh, np.full((number, 2), 400.0)), DEFAULT)
    assert min(abs(np.log2(np.array(fitted.sizes) / side))) < 0.13  # an eighth of an octave
    assert min(abs(np.log2(np.array(fitted.aspect_ratios) / ratio))) < 0.13
    assert reach(Boxes(xywh, np.full((number, 2), 400.0)), fitted).at_70 == 1


def test_k_means_finds_separate_groups_and_keeps_equal_numbers():
    rng = np.random.default_rng(1)
    groups = np.concatenate([rng.normal(m, 0.01, 30) for m in (-2, 0, 5)])
    assert k_means(groups, 3) == pytest.approx([-2, 0, 5], abs=0.02)
    assert k_means(np.full(9, 3.0), 5) == pytest.approx([3.0] * 5)


def test_fitted_anchors_are_better_or_the_default_ones():
    for seed in range(2):
        boxes = drawn_boxes(120, seed)
        fitted = fit_anchors(boxes, DEFAULT)
        assert fitted == DEFAULT or reach(boxes, fitted).score > reach(boxes, DEFAULT).score + 0.02
        assert reach(boxes, fitted).at_50 >= reach(boxes, DEFAULT).at_50 - 0.005
        assert fit_anchors(boxes, fitted) == fitted


def test_long_boxes_get_five_ratios_and_as_many_anchors_in_the_head():
    rng = np.random.default_rng(0)
    M = 800
    ratio = rng.choice([1 / 12, 1 / 5, 1, 5, 12], M)
    w, h = 60 / np.sqrt(ratio), 60 * np.sqrt(ratio)
    boxes = np.column_stack([rng.uniform(0, 300, (M, 2)), w, h])
    data = measures((640, 640), images=400, boxes=boxes)
    (choice,) = [c for c in choose(data, CPU, 10) if c.subject == "anchors"]
    prefix = "model.proposal_generator"
    assert len(choice.settings[f"{prefix}.anchor_generator.aspect_ratios"]) == 5
    assert choice.settings[f"{prefix}.head.num_anchors"] == 5
    # The RPN of a detector, such as Detectron2's of COCO, has three.
    coco = replace(GPUS, weights="model.pkl", starts_from_detector=True, has_zoo_input=True)
    choices = {c.subject: c for c in choose(data, coco, 10)}
    assert len(choices["anchors"].settings[f"{prefix}.anchor_generator.aspect_ratios"]) == 3
    assert choices["start"].settings["train.class_transfer"] == "by_name"
    assert choices["start"].settings["model.input_format"] == "BGR"


def test_slivers_do_not_change_the_anchors():
    boxes = drawn_boxes(120)
    slivers = np.tile([[5, 5, 1e-9, 40], [5, 5, 90, 1e-3]], (4, 1))
    sizes = np.full((8, 2), 100.0)
    both = Boxes(np.vstack([boxes.xywh, slivers]), np.vstack([boxes.image_sizes, sizes]))
    assert fit_anchors(both, DEFAULT) == fit_anchors(boxes, DEFAULT)
    assert fit_anchors(Boxes(slivers, sizes), DEFAULT) == DEFAULT
    long = Boxes(np.tile([[0.0, 9, 900, 2], [9, 0, 2, 900]], (50, 1)), np.full((100, 2), 1000.0))
    ratios = fit_anchors(long, Anchors([16], [1.0, 2.0], [4])).aspect_ratios
    assert all(0.03 <= ratio <= 32 for ratio in ratios)


def test_resizing_is_that_of_detectron2():
    sizes = np.array([[640, 480], [300, 1200], [100, 101]], float)
    resize = Resize(192, 320)
    for (width, height), scale in zip(sizes, resize.scales(sizes), strict=True):
        expected = ResizeShortestEdge.get_output_shape(int(height), int(width), 192, 320)
        assert (round(height * scale), round(width * scale)) == expected


@pytest.mark.parametrize("recipe", [CPU, GPUS])
def test_the_resize_stays_within_its_bounds(recipe):
    for size in [(60, 40), (144, 144), (640, 480), (4000, 3000), (4000, 500)]:
        for side in (4.0, 12.0, 39.0):
            resize, choice = choose_resize(measures(size, side), recipe)
            low, high = recipe.edges
            assert min(low, 2 * min(size)) - 16 <= resize.edge <= high
            assert resize.edge <= 2 * min(size) + 16
            assert resize.limit <= 2.5 * resize.edge + 16
            edges = choice.settings["dataloader.train.mapper.augmentations[0].short_edge_length"]
            assert max(edges) == resize.edge


def test_smaller_objects_get_larger_images_and_16_pixels_where_that_is_possible():
    edges = [choose_resize(measures((1600, 1200), side), CPU)[0].edge for side in (300, 60, 45, 20)]
    assert edges == sorted(edges)
    assert edges[0] == 192
    assert edges[-1] == 512
    assert edges[1] == 16 / 60 * 1200


def test_tiny_images_are_enlarged_twice_at_most():
    assert choose_resize(measures((144, 144), 40.0), CPU)[0].edge == 192  # least of the config
    assert choose_resize(measures((64, 64), 40.0), CPU)[0].edge == 128
    assert choose_resize(measures((144, 144), 8.0), CPU)[0].edge == 288  # 16 pixels
    assert choose_resize(measures((64, 64), 6.0), CPU)[0].edge == 128  # twice, not three times


def mixed(small_images, large_images, side, per_large):
    """Return images of 100 x 100 with an object of 60, and of 1000 x 800 with small objects."""
    sizes = [(100.0, 100.0)] * small_images + [(1000.0, 800.0)] * large_images
    sides = [60.0] * small_images + [float(side)] * large_images * per_large
    image = [*range(small_images), *np.repeat(range(small_images, len(sizes)), per_large).tolist()]
    return measures(
        images=len(sides),
        per_image=1,
        image_sizes=np.array(sizes),
        boxes=np.array([[5.0, 5.0, s, s] for s in sides]),
        image=np.array(image),
    )


def test_the_limit_of_enlargement_is_that_of_the_images_that_the_objects_are_in():
    # More images of 100 x 100, but nearly all objects are in photos: 16 / 20 * 800 = 640.
    for data in (mixed(12, 10, 20, 15), mixed(300, 10, 20, 15)):
        resize, choice = choose_resize(data, GPUS)
        assert resize.edge == 640
        assert "enlarged" not in choice.reason
        assert "100 % of the objects have 8 pixels or more" in choice.reason
        assert not choice.warning
    resize, choice = choose_resize(mixed(12, 10, 20, 15), CPU)
    assert resize.edge == 512
    assert "more than 512 would exceed" in choice.reason
    # Less than a tenth of the objects are in photos: images of 100 x 100 decide.
    resize, choice = choose_resize(mixed(1000, 10, 20, 5), GPUS)
    assert resize.edge == 192  # of 200
    assert "half of the objects are in images of at most 100, which are enlarged 2" in choice.reason
    # Small images of tiny objects: twice 100.
    tiny = choose_resize(measures((100, 100), 4.0), CPU)
    assert tiny[0].edge == 192
    assert "needs one of 400 for 16 pixels; 200 where images are enlarged" in tiny[1].reason


def test_a_resize_that_leaves_many_objects_too_small_is_a_warning():
    (choice,) = [c for c in choose(measures((4000, 3000), 30.0), CPU, 10) if c.subject == "resize"]
    assert choice.warning.startswith("100 % of the objects have less than 8 pixels as resized")
    assert "config for a GPU" in choice.warning
    assert f"warning: {choice.warning[:20]}" in choices_text([choice])
    written = config_text("out", FILES, "own_data/cpu", [choice])
    assert f"# Warning: {choice.warning[:20]}" in written
    assert "GPU" not in choose_resize(measures((4000, 3000), 20.0), GPUS)[1].warning
    side = np.where(np.arange(200) < 18, 4.0, 60.0)  # 9 % are too small
    assert not choose_resize(measures((640, 480), side), CPU)[1].warning


def effects(*means):
    thresholds = (0.001, 0.003, 0.01, 0.03, 0.1)
    return [
        ThresholdEffect(t, 100, 10 * (m > 1), m) for t, m in zip(thresholds, means, strict=True)
    ]


@pytest.mark.parametrize(
    ("means", "threshold", "mean"),
    [
        ((1, 1, 1, 1, 1), 0.001, 1),
        ((1, 1, 1.1, 1.3, 1.7), 0.03, 1.3),
        ((1, 1.05, 1.2, 1.4, 1.5), 0.1, 1.5),
        ((1.8, 2, 3, 4, 5), 0.001, 1.8),
        ((1, 1, 1, 1, 1.58), 0.001, 1),
    ],
)
def test_the_threshold_lengthens_an_epoch_by_half_at_most(means, threshold, mean):
    repeats, choice = choose_sampling(measures(thresholds=effects(*means)))
    assert repeats == mean
    assert choice.settings == {"dataloader.train.sampling.threshold": threshold}


def test_the_reason_for_no_repeats_is_true():
    def reason(*means):
        return choose_sampling(measures(thresholds=effects(*means)))[1].reason

    assert "no category is in so few images that a threshold up to 0.1" in reason(1, 1, 1, 1, 1)
    # 25 categories, each in 3 of 75 images: sqrt(0.1 / 0.04) = 1.58.
    found = reason(1, 1, 1, 1, 1.5811)
    assert "threshold 0.1 would repeat 10 of 100 images" in found
    assert "1.58 times as long, which is more than 1.5; lower ones repeat none" in found


def test_the_learning_rate_is_proportional_to_the_batch():
    rates = [choose_rate(CPU, batch, 500).settings["optimizer.lr"] for batch in (2, 4, 8)]
    assert rates == [2.5e-4, 5e-4, 1e-3]
    assert choose_rate(CPU, 8, 300).settings["lr_multiplier.warmup_iters"] == 30
    assert choose_rate(CPU, 8, 90_000).settings["lr_multiplier.warmup_iters"] == 500


def test_a_batch_fits_the_pixels_and_the_processes():
    for recipe in (CPU, GPUS):
        for resize in (Resize(192, 320), Resize(512, 864), Resize(1024, 1706)):
            data = measures((1600, 1200))
            batch, _ = choose_batch(data, recipe, resize)
            assert batch % recipe.processes == 0
            assert 1 <= batch // recipe.processes <= recipe.batch
            least = 2 if recipe.processes == 1 else recipe.processes
            assert batch == least or batch * resize.pixels(data.image_sizes) <= recipe.pixels


@pytest.mark.parametrize("recipe", [CPU, GPUS])
def test_more_images_take_more_steps_and_fewer_epochs(recipe):
    numbers = [500, 2000, 8000, 30_000]
    steps = [choose_length(measures(images=n), recipe, 8, 1.2)[0] for n in numbers]
    assert steps == sorted(steps)
    epochs = [s / n for s, n in zip(steps, numbers, strict=True)]
    assert epochs == sorted(epochs, reverse=True)


def test_the_length_has_the_closed_form_of_its_reason():
    assert choose_length(measures(images=400), CPU, 8, 1.0)[0] == 500  # 200 * 20 / 8
    assert choose_length(measures(images=400), CPU, 8, 1.0, from_scratch=True)[0] == 1500
    assert choose_length(measures(images=9), CPU, 8, 1.0)[0] == 300
    assert choose_length(measures(images=3000), GPUS, 8, 1.0)[0] == 24_000  # 64 epochs


def test_warm_up_rate_and_evaluation_fit_the_length_and_the_batch_that_are_given():
    def settings(**given):
        found = {}
        for choice in choose(measures(images=400), CPU, 10, given=given):
            found |= choice.settings
        return found

    free = settings()
    assert free["train.max_iter"] > 400
    steps = settings(**{"train.max_iter": 100})
    assert steps["lr_multiplier.warmup_iters"] == 10
    assert steps["train.eval_period"] == 20  # five evaluations
    assert steps["train.max_iter"] == 100
    epochs = settings(**{"train.epochs": 4})
    assert (epochs["train.epochs"], epochs["train.max_iter"]) == (4, None)
    number = 4 * 400 / free["dataloader.train.total_batch_size"]
    assert epochs["lr_multiplier.warmup_iters"] == number // 10
    batch = settings(**{"dataloader.train.total_batch_size": 2})
    assert batch["optimizer.lr"] == CPU.lr * 2 / CPU.batch
    # The same number of images are seen.
    before, after = (
        s["train.max_iter"] * s["dataloader.train.total_batch_size"] for s in (free, batch)
    )
    assert after == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize(
    ("weights", "is_detector", "has_zoo_input"),
    [
        ("torchvision://resnet50", False, False),
        ("https://download.pytorch.org/models/resnet50-0676ba61.pth", False, False),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", False, True),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", False, False),
        ("detectron2://COCO-InstanceSegmentation/model_final.pkl", True, True),
        ("https://example.org/model.pth", True, False),
        ("", False, False),
    ],
)
def test_an_address_tells_a_backbone_from_a_detector(weights, is_detector, has_zoo_input):
    cfg = load_config("own_data/one_gpu")
    cfg.train.init_checkpoint = weights
    recipe = recipe_of("own_data/one_gpu", cfg, 1)
    assert recipe.starts_from_detector == is_detector
    choice = choose_start(recipe, from_scratch=not weights)
    assert ("model.input_format" in choice.settings) == has_zoo_input
    assert ("train.class_transfer" in choice.settings) == is_detector


@pytest.mark.parametrize(
    ("images", "changes", "recipe", "shared"),
    [
        (100, {}, CPU, ("boxes", "masks")),
        (100, {"has_masks": False}, CPU, ("boxes",)),
        (2000, {}, CPU, ()),  # 1,000 objects of each category
        (1999, {}, CPU, ("boxes", "masks")),
        (100, {}, GPUS, ()),
        (100, {"classes": 1}, CPU, ()),
    ],
)
def test_classes_share_outputs_on_a_cpu_if_half_of_them_have_few_objects(
    images, changes, recipe, shared
):
    predictor, head = "model.roi_heads.box_predictor", "model.roi_heads.mask_head"
    keys = {
        "boxes": (f"{predictor}.cls_agnostic_bbox_reg", True),
        "masks": (f"{head}.num_classes", 1),
    }
    choice = choose_outputs(measures(images=images, **changes), recipe)
    assert choice.settings == dict(keys[part] for part in shared)


def test_crowded_images_keep_more_detections_and_many_classes_lower_scores():
    few, many = measures(per_image=2, classes=3), measures(per_image=50, classes=1203)
    key = "model.roi_heads.box_predictor"
    found = [choose_detections(data, CPU).settings for data in (few, many)]
    assert [f[f"{key}.test_topk_per_image"] for f in found] == [100, 250]
    assert [f[f"{key}.test_score_thresh"] for f in found] == [0.02, 8e-05]
    assert [f["model.roi_heads.batch_size_per_image"] for f in found] == [48, 128]


@pytest.mark.parametrize("recipe", [CPU, GPUS])
@pytest.mark.parametrize("evaluated", [5, 50, 300, 100_000])
def test_evaluations_take_about_a_tenth_of_the_time_of_training(evaluated, recipe):
    settings = choose_evaluation(recipe, evaluated, 8, 2000, masks=True).settings
    number = 2000 // settings["train.eval_period"]
    assert 1 <= number <= 20
    assert number == 1 or number * evaluated <= 0.1 * 8 * 2000
    patience = settings.get("train.early_stopping.patience")
    assert (patience is None) == (number <= 3)
    assert patience is None or number / 3 <= patience < number


def test_balanced_data_keep_seesaw_loss_and_the_reason_says_so():
    assert "close to 1" in choose_loss(measures()).reason
    skewed = choose_loss(measures(image_counts=np.array([400, 30, 4, 2])))
    assert "200 times" in skewed.reason
    assert skewed.settings == {"model.roi_heads.num_classes": 4}


def test_another_loss_is_the_part_of_the_shipped_configs_with_this_name():
    heads = load_part("common/heads/classification")
    assert set(heads) - set(LOSSES) == {"federated_seesaw"}  # needs another meta-architecture
    assert choose_loss(measures(), SEESAW).code == ""
    for name in set(LOSSES) - {SEESAW}:
        cfg = load_config("own_data/cpu")
        scope = {"model": cfg.model, "load_part": load_part}
        exec(choose_loss(measures(), name).code, scope)
        predictor = cfg.model.roi_heads.box_predictor
        assert predictor.cls_loss == heads[name].cls_loss
        assert predictor.cls_score == heads[name].cls_score


@pytest.mark.parametrize(
    "name",
    ["left hand", "left_hand", "hand-RIGHT", "LeftShoe", "shoe (left)", "handLeft2", "HAND_LEFT_3"],
)
def test_left_and_right_are_not_flipped(name):
    choice = choose_flip(measures(names=["a", name, "b", "c"]))
    assert choice.settings == {
        "dataloader.train.mapper.augmentations[1].prob": 0.0,
        "tta.flip": False,
    }


def test_words_that_contain_left_or_right_are_flipped():
    names = ["brightness", "leftover", "pot_leftovers", "road_rightofway", "Copyright", "BRIGHT"]
    assert choose_flip(measures(names=names)) is None
