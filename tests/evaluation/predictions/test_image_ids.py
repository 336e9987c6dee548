import json

import numpy as np
import pytest

from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.predicted_images import with_ids_of

ANNOTATED = [
    {"id": 70, "file_name": "a/1.jpg"},
    {"id": 10, "file_name": "b/1.jpg"},
    {"id": 30, "file_name": "Süd/a picture.jpg"},
    {"id": 20, "coco_url": "http://x/val2017/5.jpg"},
]


@pytest.fixture
def detections():
    def build(*ids):
        return Detections(
            np.array(ids), np.arange(len(ids)), np.linspace(1, 0, len(ids)), np.ones((len(ids), 4))
        )

    return build


@pytest.fixture
def images(tmp_path):
    def write(*names):
        entries = [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]
        path = tmp_path / "images.json"
        path.write_text(json.dumps({"images": entries}))
        return path

    return write


def test_ids_are_replaced_by_those_of_the_annotations_and_nothing_else_changes(detections, images):
    file = images("b/1.jpg", "a picture.jpg", "mine/a/1.jpg", "5.jpg")
    before = detections(3, 1, 1, 2, 4, 3)
    after = with_ids_of(before, file, ANNOTATED)
    assert after.image_ids.tolist() == [70, 10, 10, 30, 20, 70]
    assert after.scores is before.scores
    assert after.boxes is before.boxes


def test_an_equal_name_is_preferred_to_a_matching_end(detections, images):
    annotated = [{"id": 5, "file_name": "x/1.jpg"}, {"id": 6, "file_name": "1.jpg"}]
    assert with_ids_of(detections(1), images("1.jpg"), annotated).image_ids.tolist() == [6]


def test_ids_of_the_annotations_may_be_text(detections, images):
    annotated = [{"id": "first", "file_name": "1.jpg"}]
    assert with_ids_of(detections(1, 1), images("1.jpg"), annotated).image_ids.tolist() == (
        ["first"] * 2
    )


def test_no_detections_have_no_ids(detections, images):
    assert len(with_ids_of(detections(), images("a/1.jpg"), ANNOTATED)) == 0


def test_annotated_images_without_a_picture_are_named(detections, images, caplog):
    with_ids_of(detections(1), images("a/1.jpg", "b/1.jpg", "5.jpg"), ANNOTATED)
    assert "1 of 4 annotated images are not in" in caplog.text
    assert "image 30" in caplog.text
    caplog.clear()
    # The last two have no detections.
    every = images("a/1.jpg", "b/1.jpg", "5.jpg", "a picture.jpg")
    with_ids_of(detections(1), every, ANNOTATED)
    assert not caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["11.jpg"], "'11.jpg' has detections, but no image matches its name"),
        (["d/a picture.jpg"], "'d/a picture.jpg' has detections, but no image matches its name"),
        (["1.jpg"], "'1.jpg' has detections, but 2 images match its name"),
        ([], "has no image 1, which has detections"),
    ],
)
def test_images_without_exactly_one_match_are_refused(names, message, detections, images):
    with pytest.raises(ValueError, match=message):
        with_ids_of(detections(1), images(*names), ANNOTATED)


def test_frames_of_a_video_are_refused(detections, images):
    with pytest.raises(ValueError, match="both match the annotated image 20; frames"):
        with_ids_of(detections(1, 2), images("5.jpg", "5.jpg"), ANNOTATED)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [{"id": 1}]}', '{"images": 1}'])
def test_a_file_of_another_kind_is_refused(text, detections, tmp_path):
    (tmp_path / "images.json").write_text(text)
    with pytest.raises(ValueError, match=r"images\.json must contain 'images' with 'id' and"):
        with_ids_of(detections(1), tmp_path / "images.json", ANNOTATED)
