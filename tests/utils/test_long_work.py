"""Tests that all work that takes minutes on real data reports its progress."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.data.check.images import ImageFile, check_images
from d2_seesaw.data.semantic.pixel_counts import class_pixel_counts
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.files import read_results, write_results
from d2_seesaw.evaluation.scoring import ENGINES, LVISScoring
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE
from d2_seesaw.synthetic.street import SemanticSpec, generate_semantic_dataset
from d2_seesaw.utils import progress
from tests.data import own_data
from tests.evaluation.federated_cases import federated_case

DATA, RESULTS = federated_case(0)


def size(text):
    return tqdm.format_sizeof(len(text), "B")


def read_images(folder):
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    check_images([ImageFile(str(folder / "a.png"), "a.png", 1, 4, 4)])


def count_pixels(folder):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(folder / "a.png")}
    class_pixel_counts([record | {"height": 4, "width": 4}], 2, cache_folder=folder)


def draw_scenes(folder):
    spec = SemanticSpec(num_train_images=1, num_val_images=1)
    generate_semantic_dataset(folder / "scenes", spec)


def lay_out_glyphs(folder):
    sizes = {"num_train_images": 120, "num_val_images": 24, "min_val_images": 2}
    tail = replace(DEMO_PROFILE, full_scale_images=1000)
    spec = LongTailSpec(**sizes, profile=tail, write_images=False)
    generate_longtail_dataset(folder / "glyphs", spec, processes=1)


def read_annotation_file(folder):
    read_annotations(own_data.write(folder, own_data.content()))


def make_records(folder):
    read_annotations(own_data.write(folder, own_data.content())).records(str).to_list()


def write_and_read_results(folder):
    path = str(folder / "results.json")
    write_results(path, Detections.from_results(RESULTS))
    read_results(path)


def score(folder, engine):
    ground_truth = GroundTruthColumns.from_dataset(DATA)
    LVISScoring(engine).score_task(ground_truth, Detections.from_results(RESULTS), "bbox")


@pytest.mark.parametrize(
    ("work", "description"),
    [
        (read_images, "reading images: 1 image in"),
        (count_pixels, "counting pixels of label maps: 1 image in"),
        (draw_scenes, "drawing val images: 1 image in"),
        (lay_out_glyphs, "laying out train images: 120 images in"),
        (read_annotation_file, "reading train.json: 7 annotations in"),
        (make_records, "making records: 4 images in"),
        (write_and_read_results, f"writing results.json: {len(RESULTS)} detections in"),
        (write_and_read_results, f"reading results.json: {size(json.dumps(RESULTS))} in"),
        (
            lambda folder: score(folder, "sparse"),
            "comparing with the ground truth (bbox): 68 overlaps in",
        ),
        (lambda folder: score(folder, "lvis"), "evaluating bbox: 150 pairs in"),
    ],
)
def test_long_work_reports_its_progress(tmp_path, monkeypatch, caplog, work, description):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level(logging.INFO):
        work(tmp_path)
    assert any(message.startswith(description) for message in caplog.messages), caplog.messages


def test_every_engine_is_tested():
    assert set(ENGINES) == {"sparse", "lvis"}
