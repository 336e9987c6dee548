import json
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from d2_seesaw.evaluation.predictions.results_file import PredictionRecord, ResultsFile
from d2_seesaw.evaluation.predictions.score_origin import ScoreOrigin
from d2_seesaw.inference.output_folder import ResultsWriter

NAMES, IDS = ["cat", "dog", "owl"], [7, 90, 3]


def detections():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = masks[1, 4:, :3] = True
    return Instances(
        (6, 8),
        pred_boxes=Boxes([[2.0, 1, 7, 3], [0, 4, 3, 6]]),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([2, 0]),
        pred_masks=masks,
    )


def written(folder):
    return json.loads((folder / "results.json").read_text())


def test_detections_are_detectron2s_results_with_ids_of_the_dataset_and_mask_scores(tmp_path):
    found = detections()
    found.mask_scores = torch.tensor([0.25, 0.125])
    with ResultsWriter(tmp_path / "new/folder", NAMES, IDS) as results:
        results.add_instances(results.add_image("a.jpg", (6, 8)), found)
    host = instances_to_coco_json(found, 1)
    expected = [
        r | {"category_id": IDS[r["category_id"]], "mask_score": score}
        for r, score in zip(host, [0.25, 0.125], strict=True)
    ]
    text = ",\n".join(json.dumps(result) for result in expected)
    assert (tmp_path / "new/folder/results.json").read_text() == f"[\n{text}\n]\n"
    first, second = expected
    assert (first["image_id"], first["category_id"], first["score"]) == (1, 3, 0.75)
    assert (second["category_id"], second["bbox"]) == (7, [0, 4, 3, 2])
    for result, mask in zip((first, second), found.pred_masks, strict=True):
        assert np.array_equal(mask_api.decode(result["segmentation"]), mask.numpy())


def test_pycocotools_reads_both_files_and_finds_the_pictures_and_names(tmp_path):
    with ResultsWriter(tmp_path, NAMES, IDS) as results:
        results.add_instances(results.add_image("a.jpg", (6, 8)), detections())
        results.add_image("clip.mp4", (6, 8), frame=0)
        results.add_instances(results.add_image("clip.mp4", (6, 8), frame=1), detections())
    coco = COCO(str(tmp_path / "images.json"))
    assert coco.imgs[1] == {"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}
    clip = [(coco.imgs[i]["file_name"], coco.imgs[i].get("frame")) for i in (2, 3)]
    assert clip == [("clip.mp4", 0), ("clip.mp4", 1)]
    assert {i: c["name"] for i, c in coco.cats.items()} == {7: "cat", 90: "dog", 3: "owl"}
    loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert [a["image_id"] for a in loaded.anns.values()] == [1, 1, 3, 3]


def test_the_info_of_the_images_says_what_the_results_lack(tmp_path):
    origin = ScoreOrigin("m.pth", "ab12", False, False)
    record = PredictionRecord(0, "best-f1", 0.125, 0.75, 300, origin)
    with ResultsWriter(tmp_path, NAMES, IDS, record) as results:
        results.add_instances(results.add_image("ü.jpg", (6, 8)), detections())
    size = (tmp_path / "results.json").stat().st_size
    content: Any = COCO(str(tmp_path / "images.json")).dataset
    assert content["info"]["d2_seesaw_predict"] == {
        "results_bytes": size, "threshold": "best-f1", "lowest_threshold": 0.125,
        "highest_threshold": 0.75, "max_detections": 300,
        "scores": {
            "checkpoint": "m.pth", "sha256": "ab12", "tta": False, "without_calibration": False,
            "changed": False,
        },
    }  # fmt: skip
    found = ResultsFile.find(tmp_path / "results.json")
    assert found.record == PredictionRecord(size, "best-f1", 0.125, 0.75, 300, origin)
    text = (tmp_path / "images.json").read_text()
    (tmp_path / "images.json").write_text(text.replace("0.75", '"high"'))
    with pytest.raises(ValueError, match=r"info of .*images\.json is damaged: Expected `float`"):
        ResultsFile.find(tmp_path / "results.json")


def test_a_label_map_can_be_restored_from_its_regions(tmp_path):
    labels = np.array([[0, 0, 2], [2, 2, 0]])
    with ResultsWriter(tmp_path, NAMES, IDS) as results:
        results.add_label_map(5, labels)
    found = np.full(labels.shape, -1)
    for result in written(tmp_path):
        assert result["image_id"] == 5
        found[mask_api.decode(result["segmentation"]) > 0] = IDS.index(result["category_id"])
    assert np.array_equal(found, labels)


def write_and_stop(folder):
    with ResultsWriter(folder, NAMES, IDS) as results:
        results.add_instances(results.add_image("a.jpg", (6, 8)), detections())
        assert written(folder) == []  # the earlier file stays until the new one is complete
        raise KeyboardInterrupt


def test_no_predictions_and_an_interruption_leave_complete_files(tmp_path):
    with ResultsWriter(tmp_path, NAMES, IDS):
        pass
    assert written(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path)
    assert len(written(tmp_path)) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.json", "results.json"]
    assert len(COCO(str(tmp_path / "images.json")).imgs) == 1
