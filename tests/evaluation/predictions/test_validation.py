"""No value that is not finite or not known reaches a metric: it is refused by name, or defined."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from d2_seesaw.data.rle import MaskColumns, compressed_rle
from d2_seesaw.evaluation import LVISScoring, evaluate_results_file
from d2_seesaw.evaluation.lvis.ground_truth import GroundTruthColumns
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.entries import first_invalid_mask
from d2_seesaw.evaluation.predictions.files import read_results, save_columns
from d2_seesaw.evaluation.predictions.validation import check_detections
from tests.evaluation.federated_cases import TRAITS, federated_case
from tests.evaluation.small_results import (
    BOXES,
    HEIGHT,
    WIDTH,
    annotations,
    changed,
    encoded,
    polygon,
    results,
    write,
)


@pytest.fixture
def evaluate(tmp_path):
    """Returns a function that scores results against annotations, both written to files."""

    def evaluate(found, data=None, **options):
        truth = write(tmp_path / "gt.json", data or annotations())
        return evaluate_results_file(write(tmp_path / "results.json", found), truth, **options)

    return evaluate


def test_unchanged_results_are_perfect(evaluate):
    scores = evaluate(results())
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": float("nan")}, r"score that is not finite, .* detection 3 \(image 2\): nan"),
        ({"score": float("inf")}, r"score that is not finite, .* detection 3 \(image 2\): inf"),
        ({"score": 87.5}, r"score outside of \[0, 1\].* 87\.5; .* --any-scores"),
        ({"score": "0.9"}, r"detection 3 \(image 2\) has the score '0\.9', expected a number"),
        ({"score": True}, "score True, expected a number"),
        ({"score": 10**400}, "score 1000.*expected numbers of 64 bits"),
        ({"bbox": [5, 5, float("nan"), 20]}, r"not four finite .*: \[5\.0, 5\.0, nan, 20\.0\]"),
        ({"bbox": [5, 5, -20, 20]}, "negative width or height.*left, top, width, height"),
        ({"bbox": [5, 5, 20]}, r"bbox \[5, 5, 20\], expected four numbers"),
        ({"bbox": [5, 5, 20, "20"]}, "bbox .*expected four numbers"),
        ({"bbox": None}, "bbox None, expected four numbers"),
        ({"category_id": 1.5}, r"detection 3 \(image 2\) has the category_id 1\.5, expected a w"),
        ({"category_id": True}, "category_id True, expected a whole number or text"),
        ({"category_id": None}, "category_id None, expected a whole number or text"),
        ({"category_id": "1"}, r"category_id is a number in detection 0 .* text in detection 3"),
        ({"category_id": 2**70}, "category_id 1180591620717411303424, expected a whole number of"),
        ({"category_id": 9}, r"Category id 9 of a detection is not .* model of other classes"),
        ({"image_id": 77}, "Image id 77 of a detection is not .* another split"),
        ({"image_id": [1]}, r"image_id \[1\], expected a whole number or text"),
        ({"segmentation": "x"}, "segmentation 'x', expected a run-length encoding or polygons"),
        ({"segmentation": {"size": [80, 96]}}, "invalid segmentation: 'counts' is missing"),
        ({"segmentation": {"counts": "a"}}, "invalid segmentation: 'size' is missing"),
        (
            {"segmentation": {"size": [80, 96], "counts": [[3, 5], [9, 2]]}},
            r"invalid segmentation: counts must be whole numbers, got \[3, 5\]",
        ),
        ({"segmentation": {"size": [80, 96], "counts": [5, 7]}}, "add up to 80 x 96, got 12"),
        ({"segmentation": {"size": [80, 96], "counts": "e<"}}, "add up to 80 x 96, got"),
        ({"segmentation": {"size": [80, 96], "counts": "\ud800"}}, "invalid segmentation: 'ascii'"),
        ({"segmentation": {"size": [80.5, 96], "counts": "e"}}, "two positive whole numbers"),
        ({"segmentation": {"size": [2**40, 96], "counts": "0"}}, "size must be that of an image"),
        ({"segmentation": {"size": [2**33, 1], "counts": "PPPPPP8"}}, "segmentation"),
        ({"segmentation": [5, 5, 25, 5, 25, 25]}, "polygons must be a list of lists"),
        ({"segmentation": [[5, 5, 25, 5]]}, "must have three points or more"),
        ({"segmentation": [[5, 5, 25, 5, float("nan"), 25]]}, "has the coordinate nan"),
        ({"segmentation": [[5, 5, 25, 5, 2.08e8, 25]]}, "has the coordinate 208000000.0"),
    ],
)
def test_a_wrong_value_is_named(fields, message, evaluate):
    with pytest.raises(ValueError, match=message):
        evaluate(changed(**fields))


def shifted(field, by):
    return [{**r, field: by(r[field])} for r in results()]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (shifted("category_id", lambda i: i - 1), "all category ids are one less than the annot"),
        (shifted("category_id", lambda i: i + 1), "all category ids are one more than the annot"),
        (shifted("category_id", str), "category ids are text in the results and numbers in the"),
        (shifted("image_id", lambda i: i - 1), "all image ids are one less than the annotations'"),
        (shifted("image_id", str), "image ids are text in the results and numbers in the annot"),
        (shifted("image_id", lambda i: f"{i:06}"), "names of the image files; '000001' has the id"),
        (shifted("image_id", lambda i: f"{i:06}.jpg"), "names of the image files; '000001.jpg' h"),
        (shifted("image_id", lambda i: f"val/{i:06}.jpg"), "files; 'val/000001.jpg' has the id 1 "),
    ],
)
def test_patterns_of_wrong_ids_are_recognized(found, message, evaluate):
    with pytest.raises(ValueError, match=message):
        evaluate(found)


@pytest.mark.parametrize("start", [0, 1])
def test_contiguous_numbers_for_other_ids_are_recognized(start, evaluate):
    data = annotations({1: 7, 2: 40, 3: 1000})
    with pytest.raises(ValueError, match=f"number the 3 categories from {start} without gaps"):
        evaluate(shifted("category_id", lambda i: i - 1 + start), data)


@pytest.mark.parametrize(
    ("given", "listed", "message"),
    [
        (range(80), "coco", "number COCO's 80 categories from 0"),
        (range(1, 81), "coco", "number COCO's 80 categories from 1"),
        ("coco", range(80), "the results have COCO's own ids, .* number the 80 categories from 0"),
    ],
)
def test_the_two_numberings_of_coco_are_recognized(given, listed, message):
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    coco = [c["id"] for c in COCO_CATEGORIES if c["isthing"]]
    given, listed = (coco if ids == "coco" else list(ids) for ids in (given, listed))
    data = annotations()
    data["categories"] = [{"id": i, "name": f"class {i}", "frequency": "f"} for i in listed]
    data["annotations"] = []
    found = [{**results()[0], "category_id": i} for i in given]
    with pytest.raises(ValueError, match=message):
        check_detections(
            Detections.from_results(found), GroundTruthColumns.from_dataset(data), ["bbox"]
        )


@pytest.mark.parametrize(
    ("by", "name"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "x1, y1, x2, y2, and are read as x, y, width"),
        (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT], "shares of the image"),
    ],
)
def test_boxes_of_another_format_are_a_warning(by, name, evaluate, caplog):
    evaluate([{**r, "bbox": by(*r["bbox"])} for r in results()], tasks=["segm"])
    evaluate(results())
    assert "look like" not in caplog.text
    evaluate([{**r, "bbox": by(*r["bbox"])} for r in results()])
    assert name in caplog.text


def test_transposed_images_are_named(evaluate):
    data = annotations()
    for image in data["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    message = "10 of 10 .* width and height are swapped.* is 80 x 96, the annotations say 96 x 80"
    with pytest.raises(ValueError, match=message):
        evaluate(results(), data)
    assert evaluate(results(), data, tasks=["bbox"])["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("empty", [[], None])
def test_a_detection_without_a_mask_is_scored_as_a_box_and_does_not_exist_as_a_mask(
    empty, evaluate
):
    without = evaluate([r for i, r in enumerate(results()) if i != 3], tasks=["segm"])
    scores = evaluate(changed(segmentation=empty))
    assert scores["bbox"]["AP"] == pytest.approx(100)
    assert scores["segm"] == pytest.approx(without["segm"], nan_ok=True)
    assert scores["segm"]["AP"] < 99
    boxes_only = [{**r, "segmentation": empty} for r in results()]
    assert evaluate(boxes_only).keys() == {"bbox"}
    with pytest.raises(ValueError, match=r"has detections for \('bbox',\), not for \['segm'\]"):
        evaluate(boxes_only, tasks=["segm"])


def test_a_detection_without_a_mask_takes_no_place_among_the_limited_ones(evaluate):
    first = [{**results()[0], "score": 0.95, "segmentation": []} for _ in range(300)]
    assert evaluate(first + results(), tasks=["segm"])["segm"]["AP"] == pytest.approx(100)


def test_polygons_are_the_masks_of_pycocotools(tmp_path):
    coco = COCO()
    coco.dataset = annotations() | {"info": {}}
    coco.createIndex()
    shape = [[5.5, 5.2, 25.1, 7, 20, 30.4], [40, 40, 60, 40, 60, 60, 40, 60]]
    expected = coco.annToRLE({"image_id": 1, "segmentation": shape})
    found = Detections.from_results(
        changed(segmentation=shape), image_size=lambda image_id: (HEIGHT, WIDTH)
    )
    assert found.masks.rles(slice(3, 4)) == [expected]


def test_polygons_score_as_their_encodings(evaluate):
    found = [{**r, "segmentation": polygon(r["bbox"])} for r in results()]
    assert evaluate(found)["segm"]["AP"] == pytest.approx(100)


def test_other_scores_need_the_option(evaluate):
    found = [{**r, "score": 3.0 - i} for i, r in enumerate(results())]
    scores = evaluate(found, scoring=LVISScoring(any_scores=True))
    assert scores["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(changed(score=float("nan")), scoring=LVISScoring(any_scores=True))


def test_unknown_fields_whole_floats_and_an_empty_list_are_fine(evaluate):
    odd = changed(image_id=2.0, category_id=1.0, note={"a": [1]}, area="large")
    assert evaluate(odd)["segm"]["AP"] == pytest.approx(100)
    assert evaluate([])["bbox"]["AP"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(results())[:-9], "results.json is not a file of results: "),
        (json.dumps(results()) + "[]", r"the list ends, but the file goes on with '\[\]'"),
        ('{"annotations": []}', r"expected a JSON list .* \(annotations are another"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"image_id": ' + "[" * 100_000, "nested too deeply"),
        ('[{"image_id": "\\ud800"}]', "have no 'category_id'"),
    ],
)
def test_a_file_that_is_no_list_of_results_is_one_line(text, message, evaluate):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(text)
    assert "\n" not in str(error.value)


def test_utf_16_is_named_and_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(json.dumps(results()).encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16"):
        read_results(path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(results()).encode())
    assert len(read_results(path)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array(["a"] * 10)}, "scores of 10 detections must be numbers"),
        ({"boxes": np.zeros((10, 3))}, r"boxes .* of shape \(10, 4\), got float64 of shape"),
        ({"image_ids": np.zeros(10)}, "image_ids .* whole numbers or text"),
        ({"category_ids": np.zeros(9, int)}, r"of shape \(10,\), got int64 of shape \(9,\)"),
        ({"scores": np.array(0.5)}, r"image_ids of 1 detections .* of shape \(1,\), got int64"),
        ({"scores": np.ones((10, 1))}, r"scores .* of shape \(10,\), got float64 of shape"),
        ({"keypoints": np.zeros((9, 3))}, r"keypoints of 10 detections have the shape \(9, 3\)"),
        ({"masks_counts": np.zeros((1, 10), np.uint8)}, "the counts of masks have"),
        ({"masks_lengths": np.ones(10, int)}, "the counts of masks have"),
        ({"masks_sizes": np.ones((10, 2), int)}, r"detection 0 \(image 1\) has a run-length"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message, tmp_path):
    np.savez(tmp_path / "x.npz", **Detections.from_results(results()).arrays() | change)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "x.npz")


def test_a_damaged_archive_is_one_line(tmp_path):
    path = tmp_path / "x.npz"
    save_columns(str(path), Detections.from_results(results()))
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        b"",
        b"PK\x03\x04",
        content[:50] + content[60:],
        b"a",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.npz is not a file of results: it is damaged"):
            read_results(path)


# Run-length encodings


def reference_is_valid(size, counts):
    try:
        compressed_rle({"size": size, "counts": counts})
    except (KeyError, TypeError, ValueError):
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_check_of_all_masks_is_that_of_each(seed):
    rng = np.random.default_rng(seed)
    rles = []
    for _ in range(rng.integers(1, 12)):
        mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.random()
        rle = compressed_rle({"size": list(mask.shape), "counts": runs_of(mask)})
        text = list(rle["counts"])
        if rng.random() < 0.3:
            text[rng.integers(len(text))] = chr(rng.integers(48, 114))
        if rng.random() < 0.1:
            text = text[:-1] or ["0"]
        rles.append({"size": rle["size"], "counts": "".join(text)})
    valid = [reference_is_valid(rle["size"], rle["counts"]) for rle in rles]
    expected = valid.index(False) if False in valid else None
    assert first_invalid_mask(MaskColumns.from_rles(rles)) == expected


def runs_of(mask):
    flat = np.concatenate([[0], mask.reshape(-1, order="F").astype(int)])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


@pytest.mark.parametrize("trait", TRAITS)
def test_valid_detections_of_every_kind_pass(trait):
    if trait == "unknown category":
        return
    data, found = federated_case(1, trait)
    truth = GroundTruthColumns.from_dataset(data)
    check_detections(Detections.from_results(found), truth, ("bbox", "segm"))


# Any value in any field

FOREIGN = st.one_of(
    st.sampled_from(
        [float("nan"), float("inf"), -float("inf"), 1e308, -1, 0, 2**63, 2**64, 10**40]
    ),
    st.sampled_from([None, True, False, "", "1", "cat", "\ud800", "1\0", [], {}, [[]], [None]]),
    st.floats(allow_nan=True),
    st.integers(),
    st.text(max_size=4),
    st.lists(st.floats(width=32), min_size=3, max_size=5),
    st.lists(st.lists(st.floats(-300, 300), max_size=8), max_size=2),
    st.fixed_dictionaries(
        {"size": st.lists(st.integers(-2, 2**33), max_size=3), "counts": st.text(max_size=9)}
    ),
    st.fixed_dictionaries(
        {"size": st.just([HEIGHT, WIDTH]), "counts": st.lists(st.integers(-9, 7680), max_size=4)}
    ),
)
FIELDS = ("image_id", "category_id", "bbox", "score", "segmentation", "mask_score", "keypoints")
TRUTH = GroundTruthColumns.from_dataset(
    {
        **annotations(),
        "categories": [{"id": i, "name": f"c{i}", "frequency": "f"} for i in BOXES],
        "images": [
            {**i, "neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": []}
            for i in annotations()["images"]
        ],
    }
)


def metrics_of(found):
    detections = Detections.from_results(found, image_size=lambda image_id: (HEIGHT, WIDTH))
    result = LVISScoring().score(
        TRUTH, detections, ("bbox", "segm"), train_images={}, analyze=False
    )
    return {task: scores["AP"] for task, scores in result.metrics.items()}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), FOREIGN, st.integers(0, 9))
def test_a_foreign_value_in_any_field_is_refused_or_scored_as_the_rules_say(field, value, row):
    found = changed(row, **{field: value})
    try:
        scores = metrics_of(found)
    except ValueError as error:
        message = str(error)
    else:
        check_accepted(found, row, field, scores)
        return
    assert "detection" in message
    assert "\n" not in message


def check_accepted(found, row, field, scores):
    accepted = found[row]
    assert 0 <= scores["bbox"] <= 100
    for key, ids in (("image_id", range(1, 5)), ("category_id", BOXES)):
        assert not isinstance(accepted[key], (bool, str))
        assert accepted[key] in ids
    assert 0 <= accepted["score"] <= 1 + 1e-6
    assert np.isfinite(accepted["bbox"]).all()
    if field == "segmentation" and not accepted[field]:
        without = copy.deepcopy(found)
        del without[row]
        assert scores["segm"] == metrics_of(without)["segm"]
        assert scores["bbox"] == metrics_of(results())["bbox"]


def test_an_encoding_is_written_as_it_was_read(tmp_path):
    found = changed(segmentation=[])
    again = list(Detections.from_results(found).results())
    assert again[3]["segmentation"] == []
    assert again[0]["segmentation"] == encoded(BOXES[1])
