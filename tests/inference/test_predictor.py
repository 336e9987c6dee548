import copy
import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch.testing import assert_close

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.predictions.score_origin import ScoreOrigin
from d2_seesaw.inference import MultiViewInference, Predictor, best_instances, load_predictor
from d2_seesaw.inference.predictor import _without_pretrained_weights
from d2_seesaw.inference.sources import read_picture
from tests.inference.models import mask_rcnn, picture

NAMES = [f"class {i}" for i in range(20)]
METADATA = {"dataset": "d", "class_names": NAMES, "category_ids": list(range(5, 25))}


def save_run(folder, model, metadata=METADATA, config="quickstart/seesaw", *overrides):
    cfg = load_config(f"configs/{config}.py", [f"train.output_dir={folder}", *overrides])
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    StrictCheckpointer(model, str(folder), metadata=metadata).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mask_rcnn()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    topk = "model.roi_heads.box_predictor.test_topk_per_image=15"
    return save_run(tmp_path_factory.mktemp("run"), model, METADATA, "quickstart/seesaw", topk)


@pytest.fixture
def image(tmp_path):
    return read_picture(picture(tmp_path / "a.png")["file_name"], "BGR")


def assert_same_instances(one, other):
    assert len(one) == len(other) > 0
    assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert_close(one.scores, other.scores)
    assert torch.equal(one.pred_classes, other.pred_classes)
    assert torch.equal(one.pred_masks, other.pred_masks)


def test_predictions_equal_those_of_the_model_with_the_test_mapper(
    checkpoint, model, image, tmp_path
):
    predictor = load_predictor(checkpoint, device="cpu")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1}
    mapper = instantiate(load_config("configs/quickstart/seesaw.py").dataloader.test.mapper)
    with torch.no_grad():
        (expected,) = model.eval()([mapper(record)])
    assert_same_instances(predictor(image)["instances"], expected["instances"])


def test_an_elongated_image_keeps_a_pixel_and_has_results_in_its_own_size(model):
    predictor = Predictor(
        model.eval(),
        augmentations=T.AugmentationList([T.ResizeShortestEdge(96, 160)]),
        image_format="BGR",
        metadata={"class_names": [], "category_ids": []},
    )
    thin = np.zeros((1000, 1, 3), np.uint8)
    assert predictor.inputs(thin)["image"].shape == (3, 160, 1)
    assert predictor(thin)["instances"].image_size == (1000, 1)


def test_the_augmentations_of_the_config_resize_the_picture_not_the_results(
    checkpoint, model, image
):
    cfg = load_config(str(checkpoint.with_name("config.yaml")))
    resize = {"_target_": "detectron2.data.transforms.ResizeShortestEdge"}
    cfg.dataloader.test.mapper.augmentations = [{**resize, "short_edge_length": 75}]
    LazyConfig.save(cfg, str(checkpoint.with_name("small.yaml")))
    config = checkpoint.with_name("small.yaml")
    predictor = load_predictor(checkpoint, config_file=config, device="cpu")
    seen = []
    predictor.model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )
    found = predictor(image)["instances"]
    assert seen[0][2] < image.shape[0]  # padded to a multiple of 32
    assert found.image_size == image.shape[:2]


def test_views_of_test_time_augmentation_start_from_the_original_picture():
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, inputs):
            seen.extend(inputs)
            return [{"sem_seg": torch.zeros(1, 40, 60)}]

    predictor = Predictor(
        Recorder(),
        augmentations=T.AugmentationList([T.Resize((20, 30))]),
        image_format="RGB",
        metadata={"class_names": ["a"], "category_ids": [1]},
    )
    image = np.random.randint(0, 255, (40, 60, 3), dtype=np.uint8)
    predictor(image)
    (view,) = seen
    assert view["image"].shape == (3, 20, 30)
    assert np.array_equal(view["original_image"].permute(1, 2, 0).numpy(), image[:, :, ::-1])
    assert (view["height"], view["width"]) == (40, 60)


class Echo(torch.nn.Module):
    """Model that returns its image."""

    def forward(self, inputs):
        return [{"sem_seg": inputs[0]["image"]}]


def echo(image_format):
    return Predictor(
        Echo(),
        augmentations=T.AugmentationList([]),
        image_format=image_format,
        metadata={"class_names": ["a"], "category_ids": [1]},
    )


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_a_file_a_pillow_image_and_opencvs_array_are_the_same_image(tmp_path, image_format):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    bgr = cv2.imread(str(path))
    bgra = np.dstack([bgr, np.full((6, 8), 9, np.uint8)])
    expected = torch.tensor(rgb if image_format == "RGB" else rgb[:, :, ::-1].copy())
    for given in (path, str(path), Image.open(path), bgr, bgra, np.asfortranarray(bgr)):
        seen = echo(image_format)(given)["sem_seg"]
        assert torch.equal(seen.permute(1, 2, 0), expected)


def test_gray_images_have_three_equal_channels(tmp_path):
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    for given in (gray, gray[:, :, None], Image.fromarray(gray), tmp_path / "a.png"):
        assert torch.equal(echo("RGB")(given)["sem_seg"], torch.tensor(gray).expand(3, 6, 8))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "None, as cv2.imread returns"),
        (np.zeros((4, 5, 3)), r"float64 and shape \(4, 5, 3\)"),
        (np.zeros((4, 5, 2), np.uint8), r"uint8 and shape \(4, 5, 2\)"),
        (np.zeros((1, 3, 4, 5), np.uint8), r"uint8 and shape \(1, 3, 4, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 and shape \(0, 5, 3\)"),
        (torch.zeros(3, 4, 5), "got Tensor"),
        ([1], "got list"),
        ("nowhere.png", "nowhere.png cannot be read"),
    ],
)
def test_what_is_not_an_image_is_named(given, named):
    with pytest.raises(ValueError, match=named):
        echo("RGB")(given)


def test_predictions_are_on_the_cpu():
    class Found:
        def to(self, device):
            return device

    class Model(torch.nn.Module):
        def forward(self, inputs):
            return [{"instances": Found()}]

    predictor = Predictor(
        Model(),
        augmentations=T.AugmentationList([]),
        image_format="RGB",
        metadata={"class_names": ["a"], "category_ids": [1]},
    )
    assert predictor(np.zeros((4, 6, 3), np.uint8)) == {"instances": "cpu"}


def test_names_and_ids_come_from_the_checkpoint(checkpoint):
    predictor = load_predictor(checkpoint, device="cpu")
    assert predictor.class_names == NAMES
    assert predictor.category_ids == METADATA["category_ids"]
    assert not predictor.is_semantic


def test_test_time_augmentation_uses_the_views_of_the_config(checkpoint, model, image):
    views = ["tta.scales=[[150,500]]", "tta.flip=False"]
    predictor = load_predictor(checkpoint, device="cpu", tta=True, overrides=views)
    assert isinstance(predictor.model, MultiViewInference)
    assert predictor.origin == ScoreOrigin(str(checkpoint), None, True, False)
    one_view = load_predictor(checkpoint, device="cpu", calibrated=False)
    assert one_view.origin == ScoreOrigin(str(checkpoint), None, False, False)
    plain = one_view(image)["instances"]
    assert_same_instances(predictor(image)["instances"], plain)


def test_a_wrong_number_of_names_is_refused(model, tmp_path):
    wrong = METADATA | {"class_names": NAMES[:-1], "category_ids": list(range(19))}
    path = save_run(tmp_path, model, wrong)
    with pytest.raises(ValueError, match=r"has 19 class names \(class 0, .* has 20 classes"):
        load_predictor(path, device="cpu")


def test_a_checkpoint_without_names_gets_those_of_the_registered_dataset(model, tmp_path):
    """Read the LVIS file, because Detectron2's catalog has no names before."""
    (tmp_path / "train").mkdir()
    federated = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    image = {"id": 1, "coco_url": "http://host/train/1.jpg", "height": 9, "width": 9, **federated}
    box = {"bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]}
    annotation = {"id": 1, "image_id": 1, "category_id": 2, "area": 8, **box}
    categories = [{"id": i, "name": f"thing {i}"} for i in range(20, 0, -1)]
    annotations = {"images": [image], "annotations": [annotation], "categories": categories}
    (tmp_path / "lvis.json").write_text(json.dumps(annotations))
    json_file = tmp_path / "lvis.json"
    register_longtail_instances("predictor_test", json_file=json_file, image_root=tmp_path)
    name = "dataloader.train.dataset.names=predictor_test"
    path = save_run(tmp_path, model, None, "quickstart/seesaw", name)
    predictor = load_predictor(path, device="cpu")
    assert predictor.class_names == [f"thing {i}" for i in range(1, 21)]
    assert predictor.category_ids == list(range(1, 21))


def test_missing_names_are_an_error(model, tmp_path):
    path = save_run(
        tmp_path, model, None, "quickstart/seesaw", "dataloader.train.dataset.names=nowhere"
    )
    with pytest.raises(ValueError, match=r"no class names, and .* 'nowhere' is not registered"):
        load_predictor(path, device="cpu")


def test_names_of_another_dataset_are_refused(model, tmp_path):
    names = "dataloader.train.dataset.names=lvis_v1_train"
    path = save_run(tmp_path, model, None, "quickstart/seesaw", names)
    with pytest.raises(ValueError, match=r"dataset lvis_v1_train has 1203 class names .* has 20"):
        load_predictor(path, device="cpu")


def test_missing_files_are_named(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth' does not exist"):
        load_predictor(tmp_path / "nowhere.pth")
    (tmp_path / "m.pth").write_bytes(checkpoint.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"config.yaml' does not exist; training saves"):
        load_predictor(tmp_path / "m.pth")


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_checkpoint_is_named(tmp_path, checkpoint, damage):
    whole = checkpoint.read_bytes()
    path, config = tmp_path / "m.pth", checkpoint.with_name("config.yaml")
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match=r"m\.pth cannot be read: ."):
        load_predictor(path, config_file=config, device="cpu")


@pytest.mark.parametrize(
    ("device", "message"), [("cdua", "got 'cdua'"), ("cuda", "there is no GPU")]
)
def test_an_unavailable_device_is_named(checkpoint, device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        load_predictor(checkpoint, device=device)


def test_a_config_without_a_model_is_named(checkpoint, tmp_path):
    (tmp_path / "c.yaml").write_text("train: {output_dir: x}\n")
    with pytest.raises(ValueError, match=r"c\.yaml has no `model`"):
        load_predictor(checkpoint, config_file=tmp_path / "c.yaml", device="cpu")


def test_a_config_with_own_parts_in_its_training_needs_no_trust(checkpoint, model, image, tmp_path):
    text = checkpoint.with_name("config.yaml").read_text()
    (tmp_path / "c.yaml").write_text(
        text.replace("d2_seesaw.data.InstanceDatasetMapper", "own.Mapper")
    )
    assert "own.Mapper" in (tmp_path / "c.yaml").read_text()
    predictor = load_predictor(checkpoint, config_file=tmp_path / "c.yaml", device="cpu")
    assert len(predictor(image)["instances"]) > 0
    with pytest.raises(ValueError, match=r"dataloader.train.mapper._target_ names own.Mapper"):
        load_config(str(tmp_path / "c.yaml"))


def test_a_part_that_cannot_be_built_is_named(checkpoint):
    wrong = ["model.roi_heads.box_head.conv_dims=[-1]"]
    with pytest.raises(ValueError, match=r"^model of the config cannot be built: \S"):
        load_predictor(checkpoint, device="cpu", overrides=wrong)


def test_weights_of_the_backbone_are_not_downloaded_before_those_of_the_checkpoint():
    cfg = load_config("configs/backbones/resnest50_mask_rcnn_seesaw_rfs.py")
    assert cfg.model.backbone.bottom_up.pretrained
    _without_pretrained_weights(cfg)
    assert cfg.model.backbone.bottom_up.pretrained is False


def test_weights_of_another_model_are_refused(checkpoint):
    with pytest.raises(ValueError, match="does not fit the model"):
        load_predictor(checkpoint, device="cpu", overrides=["model.roi_heads.num_classes=7"])


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint, tmp_path):
    saved = torch.load(checkpoint, weights_only=False)
    name = next(name for name in saved["model"] if name.startswith("roi_heads.mask_head"))
    del saved["model"][name]
    torch.save(saved, tmp_path / "m.pth")
    config = checkpoint.with_name("config.yaml")
    with pytest.raises(ValueError, match=rf"does not fit the model[\s\S]*{name}") as error:
        load_predictor(tmp_path / "m.pth", config_file=config, device="cpu")
    assert "allow_partial" not in str(error.value)


def test_a_model_without_masks_is_loaded_with_the_config_that_it_was_trained_with(
    checkpoint, tmp_path
):
    saved = torch.load(checkpoint, weights_only=False)
    boxes = {k: v for k, v in saved["model"].items() if "mask_head." not in k}
    torch.save({**saved, "model": boxes}, tmp_path / "boxes.pth")
    config = checkpoint.with_name("config.yaml")  # has a mask head, which training left out
    predictor = load_predictor(tmp_path / "boxes.pth", config_file=config, device="cpu")
    assert not predictor.model.roi_heads.mask_on


@pytest.fixture(scope="module")
def semantic(tmp_path_factory):
    cfg = load_config("configs/quickstart/semantic_recall.py")
    torch.manual_seed(0)
    names = {"class_names": list("abcdefghijkl"), "category_ids": list(range(12))}
    model = instantiate(copy.deepcopy(cfg.model))
    folder = tmp_path_factory.mktemp("semantic")
    return save_run(folder, model, names, "quickstart/semantic_recall")


def test_semantic_segmentation_gives_scores_of_each_class_at_the_size_of_the_picture(semantic):
    predictor = load_predictor(semantic, device="cpu")
    assert predictor.is_semantic
    image = np.random.randint(0, 255, (50, 70, 3), dtype=np.uint8)
    assert predictor(image)["sem_seg"].shape == (12, 50, 70)


def test_test_time_augmentation_without_views_is_refused(semantic):
    with pytest.raises(ValueError, match="has no `tta`"):
        load_predictor(semantic, tta=True)


def score_limit(predictor):
    model: Any = predictor.model
    return model.roi_heads.box_predictor.test_score_thresh


def test_a_threshold_lowers_that_of_the_model_and_applies_to_all_classes(checkpoint, image):
    everything = load_predictor(checkpoint, device="cpu")
    scores = everything(image)["instances"].scores
    low, middle = score_limit(everything) / 2, float(scores.median())
    lowered = load_predictor(checkpoint, device="cpu", threshold=low)
    assert score_limit(lowered) < low
    assert lowered(image)["instances"].scores.min() >= np.float32(low)
    found = load_predictor(checkpoint, device="cpu", threshold=middle)(image)["instances"]
    assert 0 < len(found) < len(scores)
    assert found.scores.min() >= np.float32(middle)
    with pytest.raises(ValueError, match="there are no score thresholds"):
        load_predictor(checkpoint, device="cpu", threshold="best-f1")
    with pytest.raises(ValueError, match="best-f1, precision=P"):
        load_predictor(checkpoint, device="cpu", threshold="best")


def test_thresholds_of_classes_are_refused_for_label_maps(semantic):
    with pytest.raises(ValueError, match="predicts label maps"):
        load_predictor(semantic, device="cpu", threshold="best-f1")
    assert load_predictor(semantic, device="cpu", threshold=0.5).thresholds is None


def test_the_best_detections_come_first_and_weak_ones_are_dropped():
    scores = torch.tensor([0.2, 0.9, 0.5, 0.7])
    found = Instances((9, 9), scores=scores, pred_boxes=Boxes(torch.zeros(4, 4)))
    assert best_instances(found).scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert_close(best_instances(found, score_threshold=0.5).scores, scores[[1, 3, 2]])
    best = best_instances(found, score_threshold=0.5, max_detections=2)
    assert_close(best.scores, scores[[1, 3]])
    assert len(best_instances(found, score_threshold=1.0)) == 0
