"""Fixture of a folder with the files that the pages mention."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_seesaw.evaluation.analysis import write_analysis
from tests.data import own_data
from tests.evaluation.analysis.test_more_frequent import FREQUENT, RARE, analysis
from tests.evaluation.analysis_data import lvis_like


def _label_maps(folder):
    for split in ("train", "val"):
        for kind, shape in (("images", (64, 96, 3)), ("labels", (64, 96))):
            target = folder / kind / split
            target.mkdir(parents=True)
            values = np.resize(np.array([7, 11, 40, 3], np.uint8), shape)
            Image.fromarray(values).save(target / "a.png")


def _evaluations(folder):
    runs = [folder / "output" / name / "inference" for name in ("run", "softmax", "seesaw")]
    for seed, run in enumerate(runs):
        run.mkdir(parents=True)
        write_analysis(run, lvis_like(40, seed=seed, task="segm"))
    write_analysis(runs[0], analysis([(RARE, FREQUENT, 2), (RARE, RARE, 3)], task="segm"))

    truth = json.loads((folder / "val.json").read_text())["annotations"]
    for number, name in enumerate(("softmax_1", "softmax_2", "seesaw_1", "seesaw_2"), start=5):
        run = folder / "output" / name
        run.mkdir()
        found = [
            {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": number / 10}
            for a in truth
        ]
        (run / "lvis_instances_results.json").write_text(json.dumps(found))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Set up a working folder with annotations, images, label maps and evaluations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("train.json", "val.json"):
        own_data.write(tmp_path, name=name)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / name).write_bytes((tmp_path / name).read_bytes())
    found = [{"image_id": 12, "category_id": 7, "bbox": [4, 4, 8, 8], "score": 0.9}]
    (tmp_path / "results.json").write_text(json.dumps(found))
    _label_maps(tmp_path)
    _evaluations(tmp_path)
    Image.new("RGB", (40, 30)).save("image.jpg")
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
