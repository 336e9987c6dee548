import collections
import contextlib
import copy
import csv
import io
import itertools
import json
import logging
import math
import re
import time
from types import SimpleNamespace

import lvis
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import (
    LVISEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage, JSONWriter
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_seesaw.data.annotations import reader
from d2_seesaw.evaluation import LongTailLVISEvaluator, drop_absent
from d2_seesaw.evaluation.lvis import mask_overlaps
from d2_seesaw.evaluation.lvis.rules import METRICS
from d2_seesaw.evaluation.predictions.files import read_results
from d2_seesaw.report import write_evaluation_report
from tests.evaluation.lvis_data import (
    SIZE,
    ImageDetections,
    add_object,
    dataset,
    official_evaluation,
    official_metrics,
    perfect_detections,
    random_data,
    run_evaluator,
    write_images,
    write_json,
    written_files,
)
from tests.evaluation.ranks import evaluate_on_ranks


def one_object_per_group(present):
    """Build one category each of r, c and f, with objects for the groups in ``present``."""
    data = dataset("rcf")
    # Does not count; without it, the file might have no annotations.
    add_object(data, 1, 1, [100, 100, 50, 50], ignore=1)
    for i, group in enumerate("rcf", start=1):
        if group in present:
            add_object(data, 1, i, [0, 40 * i, 35, 35])
    return data


@pytest.fixture
def evaluator_of(register):
    """Return a function that builds an evaluator of some data in a single process."""

    def build(data, metadata=None, **options):
        return LongTailLVISEvaluator(
            register(data, **(metadata or {})), distributed=False, **options
        )

    return build


PRESENCE = ["".join(g) for n in range(4) for g in itertools.combinations("rcf", n)]


@pytest.mark.parametrize("present", PRESENCE)
def test_perfect_predictions_score_100_or_are_absent(present, evaluator_of):
    data = one_object_per_group(present)
    results = run_evaluator(evaluator_of(data), perfect_detections(data))
    expected = dict.fromkeys(METRICS, 100.0 if present else math.nan)
    expected |= {f"{m}{g}": math.nan for m in ("AP", "AR") for g in "rcf" if g not in present}
    # 35 x 35 is medium.
    expected |= dict.fromkeys(("APs", "APl", "ARs", "ARl"), math.nan)
    for task in ("bbox", "segm"):
        scores = {m: results[task][m] for m in METRICS}
        assert scores == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("present", PRESENCE)
def test_the_log_has_the_groups_that_were_scored_and_no_negative_number(
    present, evaluator_of, caplog
):
    data = one_object_per_group(present)
    with caplog.at_level(logging.INFO):
        run_evaluator(evaluator_of(data, tasks=["bbox"]), [ImageDetections(1)])
    counts = ", ".join(f"{g}: {int(g in present)}/1" for g in "rcf")
    assert f"Categories with ground truth: {counts}" in caplog.text
    assert not re.search(r"-\d", caplog.text)


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_official_numbers_on_random_predictions(seed, register, tmp_path, monkeypatch):
    data, detections = random_data(seed=20 + seed)
    name = register(data)
    results = run_evaluator(LongTailLVISEvaluator(name, distributed=False), detections)
    for task in ("bbox", "segm"):
        official = official_evaluation(tmp_path / f"{name}.json", detections, task, monkeypatch)
        ours = {m: results[task][m] for m in METRICS}
        expected = official_metrics(official, METRICS)
        assert ours == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def test_categories_average_to_the_reported_ap(evaluator_of, tmp_path):
    data, detections = random_data(seed=30, groups="rrrccccfffff", num_images=20)
    results = run_evaluator(evaluator_of(data, output_dir=str(tmp_path)), detections)
    for task in ("bbox", "segm"):
        with open(tmp_path / f"per_category_{task}.csv") as file:
            rows = [r for r in csv.DictReader(file) if r["AP"]]
        for metric, groups in {"AP": "rcf", "APr": "r", "APc": "c", "APf": "f"}.items():
            column = [float(r["AP"]) for r in rows if r["frequency"] in groups]
            assert np.mean(column) == pytest.approx(results[task][metric], rel=0, abs=1e-9)
        column = [float(r["AP50"]) for r in rows]
        assert np.mean(column) == pytest.approx(results[task]["AP50"], rel=0, abs=1e-9)


@pytest.mark.parametrize(("masks", "tasks"), [(True, {"bbox", "segm"}), (False, {"bbox"})])
def test_a_model_that_finds_nothing_scores_zero_in_its_tasks(masks, tasks, evaluator_of):
    data = one_object_per_group("rf")
    results = run_evaluator(evaluator_of(data), [ImageDetections(1)], masks=masks)
    assert results.keys() == tasks
    for scores in results.values():
        assert (scores["AP"], scores["APr"], scores["APf"]) == (0.0, 0.0, 0.0)
        assert math.isnan(scores["APc"])


def test_a_model_without_masks_is_scored_on_boxes(evaluator_of):
    data = one_object_per_group("rcf")
    results = run_evaluator(evaluator_of(data), perfect_detections(data), masks=False)
    assert results.keys() == {"bbox"}


def test_evaluating_twice_gives_the_same_results(evaluator_of):
    data, detections = random_data(seed=31)
    evaluator = evaluator_of(data)
    first = run_evaluator(evaluator, detections)
    again = evaluator.evaluate()
    assert again.keys() == first.keys()
    for task in first:
        assert again[task] == pytest.approx(first[task], nan_ok=True)


def test_reset_forgets_predictions(evaluator_of):
    data = one_object_per_group("r")
    evaluator = evaluator_of(data)
    run_evaluator(evaluator, perfect_detections(data))
    assert run_evaluator(evaluator, [ImageDetections(1)])["bbox"]["AP"] == 0.0


def test_the_limit_of_detections_is_passed_on(evaluator_of):
    data = one_object_per_group("r")
    better_but_wrong = ImageDetections(1).add(2, [0, 0, 9, 9], 0.95).add(1, [0, 40, 35, 35], 0.9)
    assert run_evaluator(evaluator_of(data), [better_but_wrong])["bbox"]["AP"] == pytest.approx(100)
    limited = evaluator_of(data, max_dets_per_image=1)
    assert run_evaluator(limited, [better_but_wrong])["bbox"]["AP"] == 0.0


@pytest.mark.parametrize(("engine", "ap", "warned"), [("sparse", 100, False), ("lvis", 0, True)])
def test_an_annotation_with_id_zero_is_found_by_our_engine(
    engine, ap, warned, evaluator_of, caplog
):
    data = one_object_per_group("r")
    data["annotations"][1]["id"] = 0
    evaluator = evaluator_of(data, engine=engine)
    assert ("annotation with id 0" in caplog.text) == warned
    assert run_evaluator(evaluator, perfect_detections(data))["segm"]["AP"] == pytest.approx(ap)


def test_categories_may_have_any_ids_if_they_are_mapped(evaluator_of):
    data = dataset("f")
    data["categories"][0]["id"] = 900
    add_object(data, 1, 900, [0, 0, 40, 40])
    evaluator = evaluator_of(data, {"thing_dataset_id_to_contiguous_id": {900: 0}})
    found = [ImageDetections(1).add(1, [0, 0, 40, 40])]  # class 0 of the model
    assert run_evaluator(evaluator, found)["bbox"]["AP"] == pytest.approx(100)


def test_a_test_split_is_not_scored_but_saved(evaluator_of, tmp_path):
    results = run_evaluator(
        evaluator_of(dataset("rcf"), output_dir=str(tmp_path / "out")),
        [ImageDetections(1).add(1, [0, 0, 9, 9])],
    )
    assert results == {}
    saved = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert [d["category_id"] for d in saved] == [1]


def test_writes_detectron2s_files_and_ours_only_below_output_dir(evaluator_of, tmp_path):
    data = one_object_per_group("rcf")
    written = {"output_dir": str(tmp_path / "out"), "report": write_evaluation_report}
    run_evaluator(evaluator_of(data, **written), perfect_detections(data))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("instances_predictions.npz", "lvis_instances_results.json"),
        *(f"per_category_{t}.{e}" for t in ("bbox", "segm") for e in ("csv", "json")),
        *(f"thresholds_{t}.{e}" for t in ("bbox", "segm") for e in ("csv", "json")),
        *("confusion_bbox.csv", "confusion_segm.csv"),
        *("longtail.html", "longtail_bbox.json", "longtail_segm.json"),
    }
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ["", ".json"]  # out, the annotations


def test_the_report_has_masks_before_boxes(evaluator_of, tmp_path):
    data = one_object_per_group("rcf")
    page = report_of(evaluator_of, data, perfect_detections(data), tmp_path)
    assert 0 < page.index("Masks: metrics") < page.index("Boxes: metrics")


def test_saved_predictions_equal_those_of_the_results_file(evaluator_of, tmp_path):
    data, detections = random_data(seed=32)
    run_evaluator(evaluator_of(data, output_dir=str(tmp_path)), detections)
    saved = read_results(tmp_path / "instances_predictions.npz")
    text = (tmp_path / "lvis_instances_results.json").read_text()
    assert list(saved.results()) == json.loads(text)
    found = [r for d in detections for r in d.as_lvis("bbox")]
    assert [r["category_id"] for r in saved.results()] == [r["category_id"] for r in found]
    assert [r["bbox"] for r in saved.results()] == [r["bbox"] for r in found]


@pytest.mark.parametrize(("groups", "logged"), [("r" * 30, True), ("r" * 31, False)])
def test_categories_are_logged_if_they_are_few(groups, logged, evaluator_of, caplog):
    data = dataset(groups)
    add_object(data, 1, 1, [0, 0, 40, 40])
    with caplog.at_level(logging.INFO):
        run_evaluator(evaluator_of(data), perfect_detections(data))
    assert ("class30" in caplog.text) == logged


def test_numpy_is_unchanged_after_an_exception_in_the_evaluation(evaluator_of, monkeypatch):
    data = one_object_per_group("rcf")
    evaluator = evaluator_of(data, engine="lvis")
    monkeypatch.setattr(lvis.LVISEval, "summarize", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_evaluator(evaluator, perfect_detections(data))
    assert lvis.eval.np is np
    assert "float" not in vars(np)


@pytest.mark.parametrize("options", [{}, {"class_agnostic": True}, {"fixed_ap": True}])
def test_both_engines_give_the_same(options, evaluator_of, tmp_path):
    data, detections = random_data(seed=33)
    results = {}
    for engine in ("sparse", "lvis"):
        folder = str(tmp_path / engine)
        evaluator = evaluator_of(data, engine=engine, output_dir=folder, **options)
        results[engine] = run_evaluator(evaluator, detections)
    for task in ("bbox", "segm"):
        assert 5 < results["lvis"][task]["AP"] < 95
        assert results["sparse"][task] == pytest.approx(
            results["lvis"][task], rel=0, abs=1e-9, nan_ok=True
        )
    written = [sorted(p.name for p in (tmp_path / e).iterdir()) for e in results]
    assert written[0] == written[1]
    for file in ("per_category_segm.csv", "longtail_segm.json"):
        assert (file in written[0]) == ("class_agnostic" not in options)


def test_fixed_ap_lifts_the_limit_per_image(evaluator_of):
    data = one_object_per_group("r")
    crowd = ImageDetections(1)
    for _ in range(300):
        crowd.add(2, [0, 0, 9, 9], 0.95)
    crowd.add(1, [0, 40, 35, 35], 0.9)
    assert run_evaluator(evaluator_of(data), [crowd], masks=False)["bbox"]["AP"] == 0.0
    fixed = run_evaluator(evaluator_of(data, fixed_ap=True), [crowd], masks=False)
    assert fixed["bbox"]["AP"] == pytest.approx(100)


def test_class_agnostic_lets_any_category_find_an_object(evaluator_of):
    data = one_object_per_group("rcf")
    found = ImageDetections(1).add(2, [0, 40, 35, 35])  # the object there is of category 1
    assert run_evaluator(evaluator_of(data), [found])["bbox"]["AP"] == 0.0
    results = run_evaluator(evaluator_of(data, class_agnostic=True), [found])
    assert results["bbox"]["AP"] == pytest.approx(100 * 34 / 101)  # a third of the objects
    assert "evaluated-r" not in results["bbox"]
    assert math.isnan(results["bbox"]["APr"])


# Pictures


@pytest.fixture
def tail_confusion(tmp_path):
    """Return data with a rare object, its detection as a frequent category, and the images."""
    data = dataset("rcf")
    add_object(data, 1, 1, [0, 40, 35, 35])
    write_images(tmp_path / "images", data)
    return data, [ImageDetections(1).add(3, [0, 40, 35, 35])], tmp_path / "images"


def report_of(evaluator_of, data, detections, folder, **metadata):
    written = {"output_dir": str(folder), "report": write_evaluation_report}
    run_evaluator(evaluator_of(data, metadata, **written), detections)
    return (folder / "longtail.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_charts")
def test_the_report_has_pictures_where_the_images_are_known(tail_confusion, evaluator_of, tmp_path):
    data, detections, images = tail_confusion
    text = report_of(evaluator_of, data, detections, tmp_path / "a", image_root=str(images))
    assert text.count("data:image/jpeg") == 2  # a mask and a box
    assert re.search(r"class1 .*rare.* labeled as class3 .*frequent.* 0\.90", text)
    examples = json.loads((tmp_path / "a" / "longtail_segm.json").read_text())["examples"]
    assert [(e["image_id"], e["box"]) for e in examples] == [(1, [0, 40, 35, 35])]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("root", [None, "no/such/folder", "a.jpg"])
def test_without_a_folder_of_images_the_report_has_no_pictures(
    root, tail_confusion, evaluator_of, tmp_path, caplog
):
    data, detections, images = tail_confusion
    metadata = {} if root is None else {"image_root": str(images / "val" / root)}
    (images / "val" / "a.jpg").write_bytes(b"")
    text = report_of(evaluator_of, data, detections, tmp_path / "a", **metadata)
    assert "pictures of" not in text
    assert "could not be drawn" not in caplog.text


@pytest.mark.usefixtures("no_charts")
def test_unreadable_images_are_one_warning_and_do_not_stop_the_evaluation(
    tail_confusion, evaluator_of, tmp_path, caplog
):
    data, detections, images = tail_confusion
    (images / "val" / "1.jpg").write_bytes(b"broken")
    text = report_of(evaluator_of, data, detections, tmp_path / "a", image_root=str(images))
    assert text.count("1 of 1 images could not be read or drawn") == 2
    warnings = [r.getMessage() for r in caplog.records if "could not be drawn" in r.getMessage()]
    assert len(warnings) == 1
    assert re.match(r"2 pictures of .*, the first: .*1\.jpg: UnidentifiedImage", warnings[0])


# Annotations in COCO's format


def as_coco(data, ids):
    """Remove the fields that only LVIS has, and change the category ids."""
    for category in data["categories"]:
        category["id"] = ids[category["id"] - 1]
        del category["frequency"], category["image_count"]
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for annotation in data["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"] - 1]
        annotation["iscrowd"] = 0
    return data


def test_coco_annotations_with_any_ids_give_cocos_numbers(evaluator_of):
    data, detections = random_data(seed=34)
    ids = [7, 900, 901, 902, 903, 904, 1000]
    results = run_evaluator(evaluator_of(as_coco(data, ids)), detections)
    found = [
        r | {"category_id": ids[r["category_id"] - 1]}
        for d in detections
        for r in d.as_lvis("bbox")
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
        official = COCOeval(coco, coco.loadRes(found), "bbox")
        for step in ("evaluate", "accumulate", "summarize"):
            getattr(official, step)()
    expected = [100 * s for s in official.stats[:6]]
    ours = [results["bbox"][m] for m in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
    assert ours == pytest.approx(expected, rel=0, abs=1e-9)
    assert all(math.isnan(results["bbox"][f"AP{g}"]) for g in "rcf")
    assert results["bbox"]["categories-r"] == 0


COUNTS = {7: 10, 900: 11, 901: 100, 902: 101}


@pytest.mark.parametrize("source", ["argument", "file", "metadata"])
def test_groups_come_from_the_training_image_counts(source, evaluator_of, tmp_path):
    data = as_coco(dataset("rrrrr"), [7, 900, 901, 902, 903])
    add_object(data, 1, 7, [0, 0, 40, 40])
    options, metadata = {}, {}
    if source == "argument":
        options["train_image_counts"] = COUNTS
    elif source == "file":
        shown = as_coco(dataset("rrrrr", range(101)), [7, 900, 901, 902, 903])
        for category, n in COUNTS.items():
            for image in [*range(n), *range(n)]:
                add_object(shown, image, category, [0, 0, 9, 9])
        training = write_json(tmp_path / "training.json", shown)
        options["train_image_counts"] = str(training)
    else:
        counts = [{"id": c, "image_count": n} for c, n in COUNTS.items()]
        metadata["class_image_count"] = counts
    evaluator = evaluator_of(data, metadata, output_dir=str(tmp_path / "out"), **options)
    results = run_evaluator(evaluator, [ImageDetections(1).add(1, [0, 0, 40, 40])])
    assert [results["bbox"][f"categories-{g}"] for g in "rcf"] == [
        2,
        2,
        1,
    ]  # 903 has no images
    assert results["bbox"]["APr"] == pytest.approx(100)
    with open(tmp_path / "out" / "per_category_bbox.csv") as file:
        assert [r["train_images"] for r in csv.DictReader(file)] == ["10", "11", "100", "101", "0"]


# Refused on construction


def test_a_broken_lvis_is_reported_on_construction(evaluator_of, monkeypatch):
    monkeypatch.setattr(lvis.LVISEval, "accumulate", lambda self: np.no_such_name)
    with pytest.raises(RuntimeError, match=r"packages cannot evaluate LVIS.*no_such_name"):
        evaluator_of(one_object_per_group("rcf"), engine="lvis")
    evaluator_of(one_object_per_group("rcf"))


def test_a_broken_pycocotools_is_reported_on_construction(evaluator_of, monkeypatch):
    monkeypatch.setattr(mask_overlaps, "compiled_functions", lambda masks=0: None)
    monkeypatch.setattr(mask_utils, "iou", lambda found, there, crowd: np.zeros((1, 1)))
    with pytest.raises(RuntimeError, match=r"task 'segm' computes .* is right"):
        evaluator_of(one_object_per_group("rcf"))


def test_construction_is_cheap(evaluator_of):
    start = time.perf_counter()
    evaluator_of(one_object_per_group("rcf"))
    assert time.perf_counter() - start < 1


def test_a_file_with_a_part_of_the_fields_is_refused_naming_them(evaluator_of):
    data = one_object_per_group("rcf")
    del data["categories"][0]["frequency"]
    with pytest.raises(ValueError, match="1 of 3 categories have no 'frequency'"):
        evaluator_of(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images": []}, "cannot be used: .*the file has no list of 'annotations'"),
        ([], "must hold an object with images, annotations and categories, got a list"),
    ],
)
def test_a_file_of_another_kind_is_refused(data, message, evaluator_of):
    with pytest.raises(ValueError, match=rf"\.json {message}"):
        evaluator_of(data)


def test_the_annotations_are_read_once(register, monkeypatch):
    """Use the reader of training data; lvis must not parse or index anything."""
    data = one_object_per_group("rcf")
    name, parsed = register(data), []
    parse = reader.parse_file
    monkeypatch.setattr(reader, "parse_file", lambda file: parsed.append(file) or parse(file))
    monkeypatch.setattr(json, "load", None)
    evaluator = LongTailLVISEvaluator(name, distributed=False)
    monkeypatch.setattr(lvis, "LVIS", None)
    assert run_evaluator(evaluator, perfect_detections(data))["segm"]["AP"] == pytest.approx(100)
    assert len(parsed) == 1


def test_a_file_that_is_not_json_is_reported(register, tmp_path):
    name = register({})
    (tmp_path / f"{name}.json").write_text("<html>")
    with pytest.raises(ValueError, match=rf"{name}\.json is not valid JSON: Expecting value"):
        LongTailLVISEvaluator(name, distributed=False)


def test_an_unregistered_dataset_is_refused():
    with pytest.raises(ValueError, match="registered as 'no_such_dataset'"):
        LongTailLVISEvaluator("no_such_dataset", distributed=False)
    assert "no_such_dataset" not in MetadataCatalog.list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["box"]}, r"tasks must be among \('bbox', 'segm'\), got \['box'\]"),
        ({"max_dets_per_image": 0}, "must be at least 1, got 0"),
        ({"engine": "lvsi"}, r"engine must be among \('sparse', 'lvis'\), got 'lvsi'"),
        ({"max_dets_per_image": 9, "fixed_ap": True}, "no limit per image.*got 9 and True"),
    ],
)
def test_wrong_options_are_refused(options, message, evaluator_of):
    with pytest.raises(ValueError, match=message):
        evaluator_of(one_object_per_group("rcf"), **options)


def test_category_ids_that_start_at_zero_are_refused(evaluator_of):
    data = dataset("f")
    data["categories"][0]["id"] = 0
    with pytest.raises(ValueError, match=r"Category ids must be 1 to 0, got \[0\]"):
        evaluator_of(data)


# Refused at the first image


@pytest.mark.parametrize(
    ("detections", "masks", "message"),
    [
        (
            ImageDetections(2),
            True,
            r"Image id 2 is not in the annotations, whose ids start as \[1\]",
        ),
        (ImageDetections(1).add(4, [0, 0, 9, 9]), True, "predicts class 3, but .* 3 classes"),
        (ImageDetections(1).add(1, [0, 0, 9, 9]), False, "Task 'segm' needs masks"),
    ],
)
def test_predictions_that_could_not_be_scored_are_refused(detections, masks, message, evaluator_of):
    evaluator = evaluator_of(one_object_per_group("rcf"), tasks=("bbox", "segm"))
    image = {"image_id": detections.image_id}
    with pytest.raises(ValueError, match=message):
        evaluator.process([image], [detections.as_model_output(masks=masks)])


# Integration with Detectron2


@pytest.fixture
def results(evaluator_of):
    data = one_object_per_group("rf")
    return run_evaluator(evaluator_of(data), perfect_detections(data))


def test_runs_in_detectron2s_loop(evaluator_of):
    data = one_object_per_group("rcf")
    found = perfect_detections(data)
    outputs = {d.image_id: d.as_model_output() for d in found}
    loader = [[{"image_id": d.image_id}] for d in found]
    results = inference_on_dataset(
        lambda batch: [outputs[image["image_id"]] for image in batch], loader, evaluator_of(data)
    )
    assert results["segm"]["APr"] == pytest.approx(100)


def test_copypaste_lines_have_detectron2s_nine_metrics(results, caplog):
    with caplog.at_level(logging.INFO):
        print_csv_format(results)
    assert f"copypaste: {','.join(METRICS)}" in caplog.text


def test_results_can_be_verified(results):
    expected = [["bbox", "AP", 100.0, 0.1], ["segm", "APr", 100.0, 0.1]]
    assert verify_results(SimpleNamespace(TEST=SimpleNamespace(EXPECTED_RESULTS=expected)), results)


@pytest.mark.parametrize("keep", [lambda r: r, drop_absent], ids=["nan", "dropped"])
def test_eval_hook_stores_results_and_metrics_json_is_written(results, keep, tmp_path):
    hook = EvalHook(1, lambda: keep(results))
    with EventStorage(0) as storage:
        hook.trainer = SimpleNamespace(storage=storage, iter=0, max_iter=2)
        hook.after_step()
        writer = JSONWriter(str(tmp_path / "metrics.json"))
        writer.write()
        writer.close()
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text)["bbox/APr"] == pytest.approx(100)
    assert ("NaN" in text) == (keep is not drop_absent)


# Proposals


@pytest.mark.parametrize("image_ids", [(100, 101, 102), ("a", "image b", "c")])
def test_proposals_give_detectron2s_numbers_and_file(image_ids, register, tmp_path):
    data = dataset("rcf", image_ids)
    torch.manual_seed(0)
    outputs = []
    for i, image_id in enumerate(image_ids):
        for k in range(4 * i):
            add_object(data, image_id, 1 + k % 3, [9 * k, 30, 20 + 5 * k, 60])
        boxes = [BoxMode.convert(a["bbox"], 1, 0) for a in data["annotations"]]
        proposals = Instances((SIZE, SIZE))
        proposals.proposal_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4) + torch.randn(1))
        proposals.objectness_logits = torch.randn(len(boxes))
        outputs.append(({"image_id": image_id}, {"proposals": proposals}))
    name = register(data)
    results = []
    for evaluator_class in (LVISEvaluator, LongTailLVISEvaluator):
        folder = tmp_path / evaluator_class.__name__
        evaluator = evaluator_class(name, distributed=False, output_dir=str(folder))
        evaluator.reset()
        for image, output in outputs:
            evaluator.process([image], [output])
        results.append((evaluator.evaluate(), (folder / "box_proposals.pkl").read_bytes()))
    (theirs, their_file), (ours, our_file) = results
    assert 10 < theirs["box_proposals"]["AR@100"] < 100
    assert str(ours) == str(dict(theirs))  # with nan
    assert our_file == their_file


def test_reset_forgets_proposals(register):
    data = dataset("rcf", (100,))
    add_object(data, 100, 1, [5, 5, 40, 40])
    evaluator = LongTailLVISEvaluator(register(data), distributed=False)
    evaluator.reset()
    proposals = Instances((SIZE, SIZE), proposal_boxes=Boxes(torch.tensor([[5.0, 5, 45, 45]])))
    proposals.objectness_logits = torch.ones(1)
    evaluator.process([{"image_id": 100}], [{"proposals": proposals}])
    assert evaluator.evaluate().keys() == {"box_proposals"}
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_reset_forgets_that_there_were_masks(register):
    data = dataset("rcf", (100,))
    add_object(data, 100, 1, [5, 5, 40, 40])
    evaluator = LongTailLVISEvaluator(register(data), distributed=False)
    found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.tensor([[5.0, 5, 45, 45]])))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    with_masks = copy.deepcopy(found)
    with_masks.pred_masks = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    tasks = []
    for output in (with_masks, found):
        evaluator.reset()
        evaluator.process([{"image_id": 100}], [{"instances": output}])
        tasks.append(set(evaluator.evaluate()))
    assert tasks == [{"bbox", "segm"}, {"bbox"}]


# With several processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return the folder, the results of one process, and the reports of the gloo ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, *evaluate_on_ranks(folder)


@pytest.mark.dist
@pytest.mark.parametrize("case", ["halves", "uneven", "mask scores", "fixed AP"])
def test_ranks_agree_with_one_process(case, ranks):
    folder, alone, from_ranks = ranks
    assert alone[case].keys() >= {"bbox", "segm"}
    assert ("box_proposals" in alone[case]) == (case == "uneven")
    assert from_ranks[case][0].keys() == alone[case].keys()
    for task, scores in alone[case].items():
        assert from_ranks[case][0][task] == pytest.approx(scores, rel=0, abs=0, nan_ok=True)
    written, from_ranks = (written_files(folder / case / which) for which in ("alone", "ranks"))
    if case == "uneven":
        assert b"data:image/jpeg" in written["longtail.html"]
        assert b"could not be read" not in written["longtail.html"]
    assert len(written) == 14 + 2 * (case == "uneven") + (case == "mask scores")
    assert from_ranks == written


@pytest.mark.dist
def test_other_ranks_get_an_empty_result(ranks):
    assert ranks[2]["halves"][1:] == [{}]
    assert ranks[2]["uneven"][1:] == [{}, {}]


@pytest.mark.dist
def test_masks_on_some_ranks_are_refused_by_all_of_them(ranks):
    for error in ranks[2]["some masks"]:
        assert "Only some of the detections have boxes, masks" in error


@pytest.mark.dist
def test_fixed_ap_saves_only_the_detections_that_count(ranks):
    saved = read_results(ranks[0] / "fixed AP" / "ranks" / "instances_predictions.npz")
    _, everything = random_data(seed=40)
    detection_counts = collections.Counter(k for d in everything for k in d.category_ids)
    assert max(detection_counts.values()) > 9
    expected = {category: min(n, 9) for category, n in detection_counts.items()}
    assert collections.Counter(saved.category_ids.tolist()) == expected


@pytest.mark.dist
def test_an_error_on_one_rank_is_raised_on_all(ranks):
    errors = ranks[2]["error"]
    assert "rank 1: ValueError: No dataset" in errors[0]
    assert "registered as 'only_here_missing'" in errors[1]
