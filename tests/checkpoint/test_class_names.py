import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.checkpoint import (
    StrictCheckpointer,
    check_class_names,
    class_metadata,
    is_semantic,
    number_of_classes,
)
from d2_seesaw.engine import load_config


def meta_model(config):
    with torch.device("meta"):
        return instantiate(load_config(f"configs/{config}.py").model)


@pytest.fixture(scope="module")
def detector():
    return meta_model("quickstart/seesaw")


@pytest.fixture(scope="module")
def segmentor():
    return meta_model("quickstart/semantic_recall")


@pytest.mark.parametrize("config", ["quickstart/cascade", "quickstart/htc_lite"])
def test_cascades_report_their_number_of_classes(config):
    assert number_of_classes(meta_model(config)) == 20


def test_the_number_of_classes_is_read_from_the_head(detector, segmentor):
    assert (number_of_classes(detector), number_of_classes(segmentor)) == (20, 12)
    deeplab = meta_model("semantic/cityscapes_deeplab_r18_recall")
    assert number_of_classes(deeplab) == 19
    assert is_semantic(segmentor)
    assert not is_semantic(detector)


def test_coco_has_its_own_category_ids_and_colors(detector):
    found = class_metadata("coco_2017_train", detector)
    assert found["dataset"] == "coco_2017_train"
    assert len(found["class_names"]) == len(found["category_ids"]) == 80
    # COCO's ids have gaps: 12 is missing after fire hydrant, and toothbrush is 90.
    by_name = dict(zip(found["class_names"], found["category_ids"], strict=True))
    assert (by_name["person"], by_name["stop sign"], by_name["toothbrush"]) == (1, 13, 90)
    assert found["class_colors"][0] == [220, 20, 60]


def test_lvis_category_ids_start_at_one(detector):
    found = class_metadata(["lvis_v1_train", "lvis_v1_val"], detector)
    assert found["dataset"] == ["lvis_v1_train", "lvis_v1_val"]
    assert found["class_names"][:2] == ["aerosol_can", "air_conditioner"]
    assert found["category_ids"] == list(range(1, 1204))


def test_semantic_segmentation_has_the_stuff_classes_from_zero(segmentor):
    """Check stuff classes: the 8 thing classes of Cityscapes are part of them in label maps."""
    found = class_metadata("cityscapes_fine_sem_seg_train", segmentor)
    assert (found["class_names"][0], len(found["class_names"])) == ("road", 19)
    assert found["category_ids"] == list(range(19))


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"c7": 1, "c40": 0}, ["c40", "c7"]),
        ({"7": 1, "40": 0}, ["40", "7"]),  # ids of the dataset are text, not 7 and 40
        ({np.int64(7): 1, 40: 0}, [40, 7]),
        ({7: 1, 40: 2}, [1, 2]),  # wrong number of classes
        (None, [1, 2]),
    ],
)
def test_category_ids_are_the_datasets_as_numbers_or_text(detector, mapping, expected):
    metadata = MetadataCatalog.get("tests_class_names").set(thing_classes=["a", "b"])
    try:
        if mapping:
            metadata.set(thing_dataset_id_to_contiguous_id=mapping)
        found = class_metadata("tests_class_names", detector)["category_ids"]
        assert (found, [type(i) for i in found]) == (expected, [type(i) for i in expected])
    finally:
        MetadataCatalog.remove("tests_class_names")


@pytest.mark.parametrize(("colors", "kept"), [([(1, 2, 3), (4, 5, 6)], True), ([(1, 2, 3)], False)])
def test_colors_are_kept_if_each_class_has_one(detector, colors, kept):
    metadata = MetadataCatalog.get("tests_class_names")
    try:
        metadata.set(thing_classes=["a", "b"], thing_colors=colors)
        found = class_metadata("tests_class_names", detector)
        assert found.get("class_colors") == ([[1, 2, 3], [4, 5, 6]] if kept else None)
    finally:
        MetadataCatalog.remove("tests_class_names")


def test_a_dataset_without_class_names_gives_none_and_is_not_created(detector):
    assert class_metadata("nowhere", detector) == {"dataset": "nowhere"}
    assert "nowhere" not in MetadataCatalog.list()


class TinySegmentor(SemanticSegmentor):
    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.fixture
def _one_process(tmp_path):
    """Create a process group, which DDP needs."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_semantic_models_are_recognized_inside_ddp():
    assert is_semantic(DistributedDataParallel(TinySegmentor()))
    assert not is_semantic(DistributedDataParallel(nn.Linear(2, 2)))


def test_a_wrong_number_of_class_names_is_rejected(detector):
    with pytest.raises(ValueError, match=r"m.pth has no class names, the model has 20 classes"):
        check_class_names({}, detector, "m.pth")
    with pytest.raises(ValueError, match=r"has 2 class names \(a, b, ...\), the model has 20"):
        check_class_names({"class_names": ["a", "b"]}, detector, "m.pth")
    with pytest.raises(ValueError, match=r"has 21 class names \(a, b, c, ...\), the model has 20"):
        check_class_names({"class_names": list("abcdefghijklmnopqrstu")}, detector, "m.pth")
    check_class_names({"class_names": list("abcdefghijklmnopqrst")}, detector, "m.pth")


METADATA = {"dataset": "d", "class_names": ["a", "é"], "category_ids": [3, 7]}


def test_metadata_is_saved_as_plain_values_and_returned_on_loading(tmp_path):
    StrictCheckpointer(nn.Linear(2, 2), str(tmp_path), metadata=METADATA).save("m", iteration=4)
    path = str(tmp_path / "m.pth")
    assert torch.load(path, weights_only=True)["metadata"] == METADATA
    extras = StrictCheckpointer(nn.Linear(2, 2), require_all=True).load(path)
    assert extras["metadata"] == METADATA
    assert extras["iteration"] == 4


def test_plain_detectron2_loads_it_and_checkpoints_without_it_load_here(tmp_path):
    source, loaded = nn.Linear(2, 2), nn.Linear(2, 2)
    StrictCheckpointer(source, str(tmp_path), metadata=METADATA).save("new")
    DetectionCheckpointer(loaded).load(str(tmp_path / "new.pth"))
    assert torch.equal(loaded.weight, source.weight)
    DetectionCheckpointer(source, str(tmp_path)).save("old")
    loaded = nn.Linear(2, 2)
    extras = StrictCheckpointer(loaded, require_all=True).load(str(tmp_path / "old.pth"))
    assert torch.equal(loaded.weight, source.weight)
    assert "metadata" not in extras
