"""Selection of images, objects and detections, and the outlines of their masks."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from d2_seesaw.evaluation.analysis.error_kinds import ERRORS, KINDS
from d2_seesaw.evaluation.analysis.judging import Entry, JudgedDataset
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.report.images.outlines import outlines, svg_path
from d2_seesaw.report.images.selection import (
    Selection,
    categories_named,
    images_named,
    order_images,
)
from d2_seesaw.report.images.styles import DASHES, DESCRIPTIONS, caption, class_color
from tests.evaluation.labeled_objects import confused_case


@pytest.fixture(scope="module")
def dataset():
    data, results = confused_case(3, "not exhaustive")
    for category in data["categories"]:
        category["name"] = f"name {category['id']}"
    for image in data["images"]:
        image["file_name"] = f"val/{image['id']}.jpg"
    known = {c["id"] for c in data["categories"]}
    table = GroundTruthColumns.from_dataset(data).table
    found = Detections.from_results([r for r in results if r["category_id"] in known])
    return JudgedDataset.judge(table, found, "bbox")


def every_entry(dataset, min_score):
    """Return image, whether it is an object, category and kind of each entry."""
    for image in range(len(dataset.table.images)):
        for entry in dataset.objects(image):
            label = entry.score if entry.score is not None else 1.0
            yield image, True, entry.category, entry.kind if label >= min_score else "missed"
        for entry in dataset.found(image):
            if entry.score >= min_score:
                yield image, False, entry.category, entry.kind


@pytest.mark.parametrize("min_score", [0.0, 0.6])
@pytest.mark.parametrize("kinds", [None, {"missed"}, {"background", "confused"}, {"not judged"}])
@pytest.mark.parametrize("categories", [None, {0}, {1, 4}])
def test_images_are_those_with_an_entry_of_the_class_kind_and_score(
    dataset, min_score, kinds, categories
):
    selection = Selection(categories, kinds, min_score)
    wanted, errors = set(), dict.fromkeys(range(len(dataset.table.images)), 0)
    for image, _, category, kind in every_entry(dataset, min_score):
        if (categories is None or category in categories) and (kinds is None or kind in kinds):
            wanted.add(image)
            errors[image] += kind in ERRORS
    if kinds is None and categories is None:
        wanted = set(errors)
    assert order_images(dataset, selection) == sorted(wanted)
    by_errors = order_images(dataset, selection, "errors")
    assert set(by_errors) == wanted
    assert [errors[i] for i in by_errors] == sorted((errors[i] for i in wanted), reverse=True)


def test_the_score_order_follows_the_best_selected_detection(dataset):
    selection = Selection(kinds={"background"})
    scores = {}
    for image in range(len(dataset.table.images)):
        if found := [d.score for d in dataset.found(image) if d.kind == "background"]:
            scores[image] = max(found)
    expected = sorted(scores, key=lambda i: -scores[i])
    assert order_images(dataset, selection, "score") == expected


def test_a_seed_gives_one_random_order(dataset):
    first, again, other = (order_images(dataset, Selection(), "random", seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == list(range(len(dataset.table.images)))


def test_names_groups_ids_and_files_are_found_or_named(dataset):
    name, image = dataset.names[2], dataset.table.images[1]
    assert categories_named(dataset, [name], None) == {2}
    rare = {i for i, group in enumerate(dataset.groups) if group == "r"}
    assert categories_named(dataset, None, ["r"]) == rare
    assert categories_named(dataset, [dataset.names[4]], ["r"]) == {4} & rare
    assert images_named(dataset, [str(image["id"])], None) == {1}
    assert images_named(dataset, None, [image["file_name"], f"{image['id']}.jpg"]) == {1}
    with pytest.raises(ValueError, match="no class is named 'nome 1'; did you mean"):
        categories_named(dataset, ["nome 1"], None)
    with pytest.raises(ValueError, match="no image has the id '1000'"):
        images_named(dataset, ["1000"], None)
    with pytest.raises(ValueError, match=r"no image has the file '00\.jpg'"):
        images_named(dataset, None, ["00.jpg"])


def test_captions_name_the_kind_and_the_other_class():
    names = ["cup", "mug"]
    cases = {
        "cup \u2192 mug": (Entry(0, "confused", [], score=0.5, other=1), True),
        "cup": (Entry(0, "right", [], score=0.5), True),
        "cup, missed": (Entry(0, "right", [], score=0.2), True),
        "cup, not judged, crowd": (Entry(0, "not judged", [], crowd=True), True),
        "mug 0.50, is cup": (Entry(1, "confused", [], score=0.5, other=0), False),
        "mug 0.91": (Entry(1, "right", [], score=0.91), False),
        "mug 0.91, duplicate": (Entry(1, "duplicate", [], score=0.91), False),
    }
    for text, (entry, is_object) in cases.items():
        assert caption(entry, names, 0.3, is_object=is_object) == text


def test_every_kind_has_its_own_line_and_near_classes_have_different_colors():
    assert set(DASHES) == set(DESCRIPTIONS) == set(KINDS)
    assert len(set(DASHES.values())) == len(KINDS)
    colors = [class_color(i) for i in range(200)]
    assert len(set(colors)) == 200
    assert colors[:7] == [class_color(i) for i in range(7)]


def test_outlines_enclose_the_mask_with_its_holes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((90, 120), np.uint8)
        center, axes = rng.integers(40, 50, 2).tolist(), rng.integers(10, 35, 2).tolist()
        cv2.ellipse(mask, center, axes, 20, 0, 360, 1, -1)
        cv2.circle(mask, center, 6, 0, -1)
        mask[80:86, 100:110] = 1
        rle = mask_utils.encode(np.asfortranarray(mask))
        rings = outlines({"size": rle["size"], "counts": rle["counts"].decode()})
        assert len(rings) == 3
        assert _iou(rings, mask) > 0.9
        # "nonzero" leaves a hole only if it runs the other way round than its outline.
        signs = [np.sign(cv2.contourArea(r.astype(np.float32), oriented=True)) for r in rings]
        assert sorted(signs).count(signs[0]) in (1, 2)


def _iou(rings, mask):
    fine = 8
    drawn = np.zeros([fine * side for side in mask.shape], np.uint8)
    cv2.fillPoly(drawn, [np.round(fine * ring - 0.5).astype(np.int32) for ring in rings], 1)
    large = mask.repeat(fine, 0).repeat(fine, 1)
    return (drawn & large).sum() / (drawn | large).sum()


def test_polygons_stay_and_their_paths_are_numbers_alone():
    square = [2, 2, 2, 10, 10, 10, 10, 2]
    (ring,) = outlines([square])
    assert {tuple(p) for p in ring.tolist()} == {(2, 2), (2, 10), (10, 10), (10, 2)}
    backwards = np.array(square).reshape(-1, 2)[::-1].reshape(-1).tolist()
    areas = [
        cv2.contourArea(r.astype(np.float32), oriented=True) for r in outlines([square, backwards])
    ]
    assert areas == [64, 64]
    assert svg_path([ring.astype(float)]).replace("L", " ").strip("MZ").replace(" ", "").isdigit()
    pixel = np.zeros((5, 5), np.uint8)
    pixel[2, 3] = 1
    (small,) = outlines(mask_utils.encode(np.asfortranarray(pixel)))
    assert ((small >= [3, 2]) & (small <= [4, 3])).all()
    empty = mask_utils.encode(np.zeros((5, 5), np.uint8, order="F"))
    assert outlines(empty) == []
    assert outlines([[0, 0, float("nan"), 3, 3, 3]]) == []
