"""Files that people reported: checking, loading and evaluating give the same answer."""

import json
import logging
import time

import pytest

from d2_seesaw.data import (
    InstanceDatasetMapper,
    check_dataset,
    load_dataset,
    load_longtail_json,
    register_longtail_instances,
)
from d2_seesaw.data.annotations import reader
from d2_seesaw.evaluation.lvis.annotations import read_evaluation_table
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.scoring import LVISScoring
from tests.data import own_data

SIZE = [own_data.H, own_data.W]


def errors(json_file):
    """Errors of a check without images, by rule."""
    images = json_file.parent / "images"
    found = check_dataset(json_file, images, read_images=False, progress=False)
    return {issue.kind: issue for issue in found.issues if issue.severity == "error"}


def changed(**change):
    data = own_data.content()
    data["annotations"][0].update(change)
    return data


def polygon(*numbers):
    return changed(segmentation=[list(numbers)])


def start_and_length():
    runs = [(x * own_data.H + 4, 8) for x in range(4, 12)]
    return changed(segmentation={"size": SIZE, "counts": [n for run in runs for n in run]})


def swapped():
    data = own_data.content()
    for image in data["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    return data


def ids_as_text():
    data = own_data.content()
    for image in data["images"]:
        image["id"] = str(image["id"])
    return data


def negatives_as_text():
    data = own_data.content()
    for image in data["images"]:
        image |= {"neg_category_ids": ["7"], "not_exhaustive_category_ids": []}
    return data


ZIGZAG = [n for i in range(90_000) for n in (i % 2 * own_data.W, i % own_data.H)]

REFUSED = {
    "rle_as_start_and_length": (start_and_length, "invalid_rle", "pairs of start and length"),
    "polygon_with_nan": (lambda: polygon(1, 1, float("nan"), 1, 5, 5), "not_finite", "is nan"),
    "polygon_far_outside": (lambda: polygon(1, 1, 2.08e8, 1, 5, 5), "far_outside_image", "far"),
    "polygon_that_takes_gigabytes": (lambda: polygon(*ZIGZAG), "excessive_polygon", "outline"),
    "polygon_as_flat_list": (
        lambda: changed(segmentation=[1, 1, 5, 1, 5, 5]),
        "invalid_segmentation",
        "list of polygons",
    ),
    "odd_polygon": (lambda: polygon(1, 1, 5, 1, 5, 5, 2), "odd_polygon", "3.5 points"),
    "iscrowd_as_text": (lambda: changed(iscrowd="0"), "invalid_type", "must be 0 or 1, got '0'"),
    "ignore_as_text": (lambda: changed(ignore="0"), "invalid_type", "must be 0 or 1, got '0'"),
    "box_as_text": (lambda: changed(bbox=["4", 4, 8, 8]), "invalid_type", "'4', not a number"),
    "negative_box": (lambda: changed(bbox=[4, 4, -8, 8]), "negative_box", "negative"),
    "box_far_outside": (lambda: changed(bbox=[0, 0, 1e9, 8]), "far_outside_image", "far"),
    "negative_area": (lambda: changed(area=-1), "invalid_area", "-1"),
    "endless_area": (lambda: changed(area=1e11), "invalid_area", "100000000000"),
    "size_of_swapped_sides": (swapped, "invalid_rle", "height and width are swapped"),
    "image_ids_as_text": (ids_as_text, "unknown_image", "text in one section and numbers in the"),
    "negatives_as_text": (negatives_as_text, "unknown_category", "text in one section and numb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_error_of_checking_loading_and_evaluating(tmp_path, case):
    make, rule, words = REFUSED[case]
    json_file = own_data.write(tmp_path, make())
    start = time.monotonic()
    found = errors(json_file)
    assert list(found) == [rule]
    assert words in found[rule].message
    messages = []
    for read in (
        lambda: load_longtail_json(json_file, tmp_path / "images"),
        lambda: read_evaluation_table(str(json_file), with_masks=True),
        lambda: read_evaluation_table(str(json_file), with_masks=False),
    ):
        with pytest.raises(ValueError, match=r"train\.json cannot be used: \d problem") as error:
            read()
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    assert words in messages[0]
    assert time.monotonic() - start < 5


def two_points():
    data = own_data.content()
    data["annotations"][0]["segmentation"].append([1, 1, 5, 5])
    return data


def null_negatives():
    data = own_data.content()
    for image in data["images"]:
        image |= {"neg_category_ids": [7], "not_exhaustive_category_ids": []}
    data["images"][0]["neg_category_ids"] = None
    return data


def unused_category():
    data = own_data.content()
    data["categories"].append({"id": 0, "name": "kerb"})
    return data


ALLOWED = {
    "null_negatives": (null_negatives, "incomplete_federated_sets"),
    "unused_category_of_the_same_name": (unused_category, "unused_duplicate_name"),
    "zero_area_box": (lambda: changed(bbox=[4, 4, 0, 8]), "zero_area_box"),
    "box_beyond_image": (lambda: changed(bbox=[-3, 4, 8, 8]), "box_beyond_image"),
    "two_points": (two_points, "invalid_polygon"),
    "polygon_beyond_image": (lambda: polygon(-3, 1, 5, 1, 5, 5), "polygon_beyond_image"),
    "polygon_on_a_line": (lambda: polygon(1, 1, 5, 1, 9, 1), "zero_area_polygon"),
    "no_mask": (lambda: changed(segmentation=None), "empty_segmentation"),
    "no_pixel": (
        lambda: changed(segmentation={"size": SIZE, "counts": [SIZE[0] * SIZE[1]]}),
        "empty_mask",
    ),
    "no_area": (lambda: changed(area=None), "missing_area"),
    "area_of_0": (lambda: changed(area=0), "zero_area"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_coco_and_lvis_contain_is_a_warning_of_checking_loading_and_evaluating(
    tmp_path, case, caplog
):
    make, rule = ALLOWED[case]
    json_file = own_data.write(tmp_path, make())
    images = tmp_path / "images"
    issues = check_dataset(json_file, images, read_images=False, progress=False).issues
    assert next(i.kind for i in issues if i.severity == "warning") == rule
    assert errors(json_file) == {}
    for read in (
        lambda: load_longtail_json(json_file, images).to_list(),
        lambda: read_evaluation_table(str(json_file), with_masks=True),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read()
        (line,) = caplog.messages
        assert line.startswith(f"{json_file}: 1 x ")
        assert f"({rule}), for example " in line


def test_a_set_that_is_null_is_empty(tmp_path):
    table = read_evaluation_table(str(own_data.write(tmp_path, null_negatives())), with_masks=True)
    assert [image["neg_category_ids"] for image in table.images] == [[7], [7], [], [7]]


def test_an_unused_category_of_the_same_name_is_called_by_its_id(tmp_path):
    table = own_data.table(unused_category())
    assert [c["name"] for c in table.categories] == ["kerb (id 0)", *own_data.NAMES]
    data = unused_category()
    data["categories"].append({"id": 1, "name": "kerb (id 0)"})
    names = [c["name"] for c in own_data.table(data).categories]
    assert names == ["kerb (id 0)'", "kerb (id 0)", *own_data.NAMES]


def test_a_missing_area_is_that_of_the_mask_or_else_of_the_box():
    data = own_data.content()
    mask = own_data.mask_of(4, 4, 6)
    data["annotations"][2] |= {"segmentation": own_data.compressed(mask)}
    data["annotations"][3] |= {"segmentation": None, "bbox": [1, 1, 3, 5]}
    for annotation in data["annotations"]:
        del annotation["area"]
    assert own_data.table(data).area.tolist() == [64, 64, 36, 15, 144, 25, 100]


def test_crowds_alone_are_nothing_to_train_on_but_can_be_evaluated(tmp_path):
    data = own_data.content()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    json_file = own_data.write(tmp_path, data)
    (issue,) = errors(json_file).values()
    expected = "none of 7 annotations is an object to train on, 7 are crowds"
    assert (issue.kind, issue.message) == ("nothing_to_train_on", expected)
    register_longtail_instances("crowds_alone", {}, json_file, tmp_path / "images")
    with pytest.raises(ValueError, match=rf"train\.json cannot be used: 1 problem: {expected}"):
        load_dataset("crowds_alone")
    assert len(load_dataset("crowds_alone", filter_empty=False)) == 4
    assert len(read_evaluation_table(str(json_file), with_masks=True).images) == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_unicode_encodings_are_read_with_a_warning(tmp_path, encoding, caplog):
    data = own_data.content()
    data["categories"][0]["name"] = "Straßenschild"
    json_file = own_data.write(tmp_path, data)
    json_file.write_text(json.dumps(data, ensure_ascii=False), encoding=encoding)
    assert errors(json_file) == {}
    table = read_evaluation_table(str(json_file), with_masks=True)
    assert table.categories[-1]["name"] == "Straßenschild"
    assert "(text_encoding), for example the file is UTF" in caplog.text


@pytest.mark.parametrize("before", ["", '{"info": '], ids=["at the top", "in a field"])
def test_deep_nesting_is_one_error(tmp_path, before):
    path = tmp_path / "a.json"
    path.write_text(before + "[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is nested too deeply"):
        read_evaluation_table(str(path), with_masks=True)


def test_a_kept_copy_says_the_warnings_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reader, "_LEAST_BYTES_KEPT", 0)
    json_file = own_data.write(tmp_path, changed(area=None))
    first = reader.read_annotations(json_file)
    said = caplog.messages[:]
    monkeypatch.setattr(reader, "parse_file", None)
    caplog.clear()
    assert reader.read_annotations(json_file).area.tolist() == first.area.tolist()
    assert caplog.messages == said
    assert len(said) == 1


@pytest.mark.parametrize("box", [[4, 4, 0, 8], [4, 4, 8, 0]])
def test_a_box_without_an_area_is_not_trained_on(tmp_path, box):
    data = own_data.content()
    data["annotations"][0]["bbox"] = box
    data["annotations"][5]["bbox"] = box  # the other annotation of its image is encoded
    mapper = InstanceDatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    records = load_longtail_json(own_data.write(tmp_path, data), tmp_path / "images")
    assert [len(mapper(record)["instances"]) for record in records] == [1, 2, 1, 1]


@pytest.mark.parametrize("engine", ["sparse", "lvis"])
def test_an_object_without_a_mask_neither_counts_nor_makes_detections_wrong(tmp_path, engine):
    with_it, without_it = own_data.content(), own_data.content()
    for data in (with_it, without_it):
        data["annotations"].append(own_data.annotation(8, 3, 1000, x=20, y=12))
    with_it["annotations"][6]["segmentation"] = None
    del without_it["annotations"][6]
    in_its_image = {"image_id": 90, "category_id": 1000, "bbox": [5, 5, 9, 9], "score": 0.9}
    others = [dict(a, score=0.8) for a in without_it["annotations"]]
    mask = own_data.compressed(own_data.mask_of(20, 12, 8))

    def score(data, results):
        json_file = str(own_data.write(tmp_path, data))
        truth = GroundTruthColumns.from_table(read_evaluation_table(json_file, with_masks=True))
        found = Detections.from_results([d | {"segmentation": mask} for d in results])
        return LVISScoring(engine).score_task(truth, found, "segm").metrics["AP"]

    assert score(with_it, [in_its_image, *others]) == score(without_it, others)
    assert score(without_it, [in_its_image, *others]) < score(without_it, others)
