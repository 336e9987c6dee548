"""A user's own data in COCO format, from the check of the files to the report of the model."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_utils

from d2_seesaw.cli import main
from d2_seesaw.cli.train import argument_parser, read_config
from tests.e2e.conftest import ROOT

SIDE = 96
# By category id: color, number of images in each split, and name in the file.
CATEGORIES = {
    7: ((220, 40, 40), {"train": 40, "val": 8}, 12),
    40: ((40, 200, 60), {"train": 16, "val": 4}, 2.5),
    1000: ((50, 80, 230), {"train": 5, "val": 3}, 2024),
}
STEPS = 40

CONFIG = """
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.engine import load_config

register_longtail_instances("own_things", {{}}, "{folder}/train.json", "{folder}/images")
register_longtail_instances(
    "other_things", {{}}, "{folder}/val.json", "{folder}/images", counts_from="own_things"
)
_cfg = load_config("{root}/configs/quickstart/seesaw.py")
dataloader, lr_multiplier, model = _cfg.dataloader, _cfg.lr_multiplier, _cfg.model
optimizer, train, tta = _cfg.optimizer, _cfg.train, _cfg.tta

model.roi_heads.num_classes = 3
dataloader.train.dataset.names = "own_things"
dataloader.train.total_batch_size = 4
dataloader.test.dataset.names = "other_things"
lr_multiplier.warmup_iters = 5
"""


def encoded(x, y, w, h):
    """Encode a rectangle as RLE."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    rle = mask_utils.encode(mask)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def write_split(folder, split, rng):
    """Write images with a rectangle in the color of its category, and their annotations."""
    images, annotations = [], []
    for category_id, (color, pictures, _) in CATEGORIES.items():
        for _ in range(pictures[split]):
            image_id = 10 * len(images) + 3
            x, y = rng.integers(4, SIDE - 60, 2).tolist()
            w, h = rng.integers(30, 50, 2).tolist()
            picture = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
            picture[y : y + h, x : x + w] = color
            name = f"{split}_{image_id}.png"
            Image.fromarray(picture).save(folder / "images" / name)
            images.append({"id": image_id, "file_name": name, "height": SIDE, "width": SIDE})
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
                | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            )
            if len(annotations) % 4 == 0:  # polygons and encodings in one file
                annotations[-1]["segmentation"] = encoded(x, y, w, h)
    categories = [{"id": i, "name": name} for i, (_, _, name) in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        write_split(folder, split, rng)
    (folder / "own.py").write_text(CONFIG.format(folder=folder, root=ROOT))
    yield folder
    for name in ("own_things", "other_things"):  # registered by reading the config in this process
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def call(capsys):
    """Return a function that runs a command and returns its output."""

    def call(*arguments):
        assert not main([*map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.mark.slow
def test_numeric_names_and_any_ids_work_from_the_check_to_the_report(
    own_data, train_net, call, tmp_path
):
    report = own_data / "train.html"
    checked = call("check", own_data / "train.json", own_data / "images", "--report", report)
    assert "found: 2 x information" in checked  # the names that are numbers
    assert ">2024<" in report.read_text()

    config = str(own_data / "own.py")
    run = train_net(tmp_path, f"train.max_iter={STEPS}", config=config, report=True)
    losses = [m["total_loss"] for m in run.metrics if "total_loss" in m]
    assert len(losses) >= STEPS - 1
    assert losses[-1] < 0.9 * losses[0]  # each is the median of the last 20 steps
    found = tmp_path / "inference"
    rows = json.loads((found / "per_category_segm.json").read_text())
    assert [(r["category_id"], r["name"], r["frequency"], r["train_images"]) for r in rows] == [
        (7, "12", "c", 40),
        (40, "2.5", "c", 16),
        (1000, "2024", "r", 5),
    ]
    assert rows[0]["AP50"] > 30  # it has learned the most frequent color
    scores = run.metrics[-1]
    assert {"segm/APr", "segm/APc"} <= scores.keys()
    assert "segm/APf" not in scores  # no category is frequent
    results = json.loads((found / "lvis_instances_results.json").read_text())
    assert {r["category_id"] for r in results} <= set(CATEGORIES)

    page = (found / "longtail.html").read_text()
    assert "2.5" in page
    assert "2024" in page
    assert "n/a" in page
    figures = tmp_path / "figures"
    call("report", found, "--output", tmp_path / "again.html", "--figures", figures)
    assert list(figures.glob("*.png"))


def read(folder, *arguments):
    config = ["--config-file", str(folder / "own.py")]
    return read_config(argument_parser().parse_args([*config, *arguments]))


@pytest.mark.parametrize("number", [2, 20])
def test_another_number_of_classes_is_refused_with_the_config(own_data, number):
    message = "dataset 'own_things' has 3 categories, .* set model.roi_heads.num_classes=3"
    with pytest.raises(ValueError, match=message):
        read(own_data, f"model.roi_heads.num_classes={number}")


def test_a_missing_checkpoint_is_refused_with_the_config(own_data):
    with pytest.raises(FileNotFoundError, match=r"init_checkpoint 'missing.pth' does not exist"):
        read(own_data, "--eval-only", "train.init_checkpoint=missing.pth")
