import csv
import itertools
import json
import logging
import math
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from d2_seesaw.evaluation import LongTailSemSegEvaluator, drop_absent
from tests.evaluation import sem_seg_data
from tests.evaluation.sem_seg_data import NAMES, Picture, pictures, run
from tests.support.ranks import run_on_ranks

_numbers = itertools.count()


@pytest.fixture
def register(tmp_path):
    """Return a function that registers pictures for the test and returns their unique name."""
    names = []

    def register_pictures(data, **fields):
        name = f"sem_seg_eval_test_{next(_numbers)}"
        sem_seg_data.register(tmp_path, name, data, **fields)
        names.append(name)
        return name

    yield register_pictures
    for name in names:
        sem_seg_data.unregister(name)


@pytest.fixture
def data():
    return pictures()


@pytest.fixture
def name(register, data):
    return register(data)


def evaluator(name, **options):
    return LongTailSemSegEvaluator(name, distributed=False, **options)


def results_of(name, data, **options):
    return run(evaluator(name, **options), data)["sem_seg"]


def pixel_sets(data, c):
    """Return the true and the predicted pixels of class ``c`` as (image, row, column)."""
    true, found = set(), set()
    for i, picture in enumerate(data):
        for at, label in np.ndenumerate(picture.labels):
            if label != 255:
                true |= {(i, *at)} if label == c else set()
                found |= {(i, *at)} if picture.predicted[at] == c else set()
    return true, found


def labels_in_file(file_name, dtype):
    return np.asarray(Image.open(file_name), dtype=dtype)


def detectron2_evaluator(name, **options):
    """Return Detectron2's evaluator with a label reader that works with NumPy 2."""
    return SemSegEvaluator(name, distributed=False, sem_seg_loading_fn=labels_in_file, **options)


def test_metrics_match_detectron2(name, data):
    found = results_of(name, data)
    expected = run(detectron2_evaluator(name), data)["sem_seg"]
    shared = {k: v for k, v in expected.items() if "B-Iou" not in k and "Boundary" not in k}
    assert len(shared) == 4 + 2 * len(NAMES)
    assert {k: found[k] for k in shared} == pytest.approx(shared, nan_ok=True)
    assert math.isnan(found["IoU-rider"])


def test_scores_equal_those_of_sets_of_pixels(name, data):
    found = results_of(name, data)
    ious, recalls = [], []
    for c, class_name in enumerate(NAMES[:3]):  # there are no riders
        true, claimed = pixel_sets(data, c)
        ious.append(100 * len(true & claimed) / len(true | claimed))
        recalls.append(100 * len(true & claimed) / len(true))
        assert found[f"IoU-{class_name}"] == pytest.approx(ious[-1])
        assert found[f"ACC-{class_name}"] == pytest.approx(recalls[-1])
    assert found["mIoU"] == pytest.approx(sum(ious) / 3)
    assert found["mACC"] == pytest.approx(sum(recalls) / 3)
    # Groups follow the ground truth, with the default bounds of 2.5% and 25%.
    assert found["mIoUf"] == pytest.approx(ious[0])
    assert found["mIoUc"] == pytest.approx((ious[1] + ious[2]) / 2)
    assert found["mACCc"] == pytest.approx((recalls[1] + recalls[2]) / 2)
    assert math.isnan(found["mIoUr"])
    assert [found[f"evaluated-{g}"] for g in "rcf"] == [0, 2, 1]
    assert [found[f"categories-{g}"] for g in "rcf"] == [1, 2, 1]


def test_a_class_without_ground_truth_has_no_score(name, data):
    found = results_of(name, data, boundary_iou=True)
    rider = {k: v for k, v in found.items() if k.endswith("-rider")}
    assert set(rider) == {
        *("IoU-rider", "ACC-rider", "BoundaryIoU-rider", "min(IoU, B-Iou)-rider"),
    }
    assert all(math.isnan(v) for v in rider.values())
    assert not rider.keys() & drop_absent({"sem_seg": found})["sem_seg"].keys()


@pytest.mark.parametrize("as_function", [False, True])
def test_groups_follow_the_pixels_of_the_training_split(name, data, as_function):
    pixels = [10, 500, 40, 450]
    counts = (lambda: pixels) if as_function else pixels
    found = results_of(name, data, pixel_counts=counts, group_bounds=(0.02, 0.2))
    assert found["mIoUr"] == found["IoU-road"]
    assert found["mACCc"] == found["ACC-train"]
    assert found["mIoUf"] == found["IoU-car"]
    assert [found[f"evaluated-{g}"] for g in "rcf"] == [1, 1, 1]
    assert [found[f"categories-{g}"] for g in "rcf"] == [1, 1, 2]


def test_the_counting_function_is_called_once_and_only_when_needed(name, data):
    calls = []
    built = evaluator(name, pixel_counts=lambda: calls.append(1) or [1, 2, 3, 4])
    assert not calls
    assert run(built, data) is not None
    run(built, data)
    assert calls == [1]


def test_a_second_run_forgets_the_first(name, data):
    built = evaluator(name, boundary_iou=True)
    first = run(built, data)
    run(built, data[:1])
    assert run(built, data)["sem_seg"] == pytest.approx(first["sem_seg"], nan_ok=True)


def test_boundary_iou_is_an_option(name, data):
    plain = results_of(name, data)
    with_boundaries = results_of(name, data, boundary_iou=True)
    assert not [k for k in plain if "oundary" in k]
    assert {k: with_boundaries[k] for k in plain} == pytest.approx(plain, nan_ok=True)
    mean = sum(with_boundaries[f"BoundaryIoU-{n}"] for n in NAMES[:3]) / 3
    assert with_boundaries["mBoundaryIoU"] == pytest.approx(mean)
    assert 0 < mean < plain["mIoU"]


def test_per_class_files_have_empty_values_for_unknown_scores(name, data, tmp_path):
    folder = tmp_path / "new" / "folder"
    found = results_of(name, data, output_dir=str(folder), pixel_counts=[9, 0, 2, 4])
    assert sorted(p.name for p in folder.iterdir()) == [
        *("metrics_sem_seg.json", "per_category_sem_seg.csv", "per_category_sem_seg.json"),
    ]
    written = json.loads((folder / "metrics_sem_seg.json").read_text())
    assert written == {k: None if math.isnan(v) else v for k, v in found.items()}
    assert None in written.values()
    rows = json.loads((folder / "per_category_sem_seg.json").read_text())
    assert [row["name"] for row in rows] == list(NAMES)
    assert [row["train_pixels"] for row in rows] == [9, 0, 2, 4]
    assert [row["gt_pixels"] for row in rows] == [len(pixel_sets(data, c)[0]) for c in range(4)]
    assert rows[1]["IoU"] == pytest.approx(found["IoU-car"])
    assert rows[1]["recall"] == pytest.approx(found["ACC-car"])
    true, claimed = pixel_sets(data, 1)
    assert rows[1]["precision"] == pytest.approx(100 * len(true & claimed) / len(claimed))
    assert rows[3]["IoU"] is rows[1]["BoundaryIoU"] is None
    with (folder / "per_category_sem_seg.csv").open() as file:
        assert [row["frequency"] for row in csv.DictReader(file)] == list("frcf")


def test_predictions_are_written_on_demand_as_detectron2_does(name, data, tmp_path):
    results_of(name, data, output_dir=str(tmp_path / "ours"), save_predictions=True)
    run(detectron2_evaluator(name, output_dir=str(tmp_path / "theirs")), data)
    ours, theirs = (
        json.loads((tmp_path / folder / "sem_seg_predictions.json").read_text())
        for folder in ("ours", "theirs")
    )
    assert ours == theirs
    assert {p["file_name"] for p in ours} == {picture.name for picture in data}
    results_of(name, data, output_dir=str(tmp_path / "ours"))  # they would be of another evaluation
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        *("per_category_sem_seg.csv", "per_category_sem_seg.json", "metrics_sem_seg.json")
    }


def test_predictions_that_are_not_saved_are_not_encoded(name, data, monkeypatch):
    monkeypatch.setattr(
        SemSegEvaluator, "encode_json_sem_seg", lambda *_: pytest.fail("costs time and memory")
    )
    results_of(name, data)


def test_logs_a_table_with_absent_metrics(name, data, caplog):
    with caplog.at_level(logging.INFO):
        found = results_of(name, data)
    assert f"| {found['mIoU']:.3f} |" in caplog.text
    assert "Categories with ground truth: r: 0/1, c: 2/2, f: 1/1" in caplog.text
    assert "|  rider  |" in caplog.text
    assert "n/a" in caplog.text


def test_labels_may_be_read_by_a_function_of_the_record(register, data):
    name = register(data, sem_seg_label_ids={7: 0})
    labels = {picture.name: picture.labels for picture in data}
    seen = []

    def read(record):
        seen.append((record["sem_seg_label_ids"], record["file_name"]))
        return (labels[record["file_name"]] + 1) % 4  # 255 becomes 0: no pixel is ignored

    relabeled = [Picture(p.name, p.labels, (p.labels.astype(int) + 1) % 4) for p in data]
    found = results_of(name, relabeled, read_labels=read)
    assert seen == [({7: 0}, picture.name) for picture in data]
    assert found["mIoU"] == found["pACC"] == 100.0


def test_labels_other_than_classes_need_a_function(register, data):
    name = register(data, sem_seg_label_ids={7: 0})
    with pytest.raises(ValueError, match=r"sem_seg_label_ids.*read_labels"):
        evaluator(name)


def test_without_ground_truth_pixels_all_scores_are_absent(register):
    empty = Picture("a.jpg", np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.int64))
    name = register([empty])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = results_of(name, [empty], boundary_iou=True)
        nothing = results_of(name, [])
    kept = drop_absent({"sem_seg": found})["sem_seg"]
    assert set(kept) == {f"{k}-{g}" for k in ("evaluated", "categories") for g in "rcf"}
    assert {k for k, v in nothing.items() if not math.isnan(v)} == set(kept)


def test_half_precision_logits_are_accepted(name, data):
    built = evaluator(name)
    built.reset()
    for picture in data:
        output = {"sem_seg": picture.as_output()["sem_seg"].bfloat16()}
        built.process([picture.as_input()], [output])
    assert built.evaluate()["sem_seg"] == pytest.approx(results_of(name, data), nan_ok=True)


def with_labels(labels):
    return Picture("a.jpg", labels, np.zeros((6, 6), np.int64))


@pytest.mark.parametrize(
    ("value", "message"),
    [(4, r"a.jpg must lie in \[0, 3\] or be 255, got 4"), (254, "got 254")],
)
def test_a_label_that_is_not_a_class_is_refused(register, value, message):
    picture = with_labels(np.zeros((6, 6), np.uint8))
    picture.labels[2, 3] = value
    with pytest.raises(ValueError, match=message):
        results_of(register([picture]), [picture])


def test_a_colored_label_image_is_refused(register):
    picture = with_labels(np.zeros((6, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a.jpg must have shape \(H, W\).*got \(6, 6, 3\)"):
        results_of(register([picture]), [picture])


@pytest.mark.parametrize("shape", [(5, 6, 6), (4, 6, 7), (3, 6, 6)])
def test_predictions_of_other_classes_or_size_are_refused(register, shape):
    picture = with_labels(np.zeros((6, 6), np.uint8))
    built = evaluator(register([picture]))
    built.reset()
    with pytest.raises(ValueError, match=r"must have shape \(4, 6, 6\)"):
        built.process([picture.as_input()], [{"sem_seg": torch.zeros(shape)}])


def test_an_image_of_another_dataset_is_refused(name):
    with pytest.raises(ValueError, match=r"other.jpg is not in .*\['0.jpg'"):
        evaluator(name).process([{"file_name": "other.jpg"}], [{"sem_seg": torch.zeros(4, 6, 6)}])


@pytest.mark.parametrize("key", ["stuff_classes", "ignore_label"])
def test_incomplete_metadata_are_refused(name, key):
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.remove(name)
    del metadata["name"], metadata[key]
    MetadataCatalog.get(name).set(**metadata)
    with pytest.raises(ValueError, match=f"metadata of '{name}' must have {key}"):
        evaluator(name)


def test_a_dataset_without_label_files_is_refused(register, data):
    name = register(data)
    del DatasetCatalog.get(name)[0]["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"0.jpg of .* has no sem_seg_file_name"):
        evaluator(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_counts": [1, 2]}, "one number for each of the 4 classes"),
        ({"group_bounds": (0.5, 0.1)}, "two ascending shares"),
        ({"save_predictions": True}, "needs an output_dir"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(name, options, message):
    with pytest.raises(ValueError, match=message):
        evaluator(name, **options)


def test_palette_images_hold_classes(register, tmp_path):
    picture = Picture(
        "a.jpg", np.arange(4, dtype=np.uint8).reshape(2, 2), np.array([[0, 1], [2, 3]])
    )
    name = register([picture])
    image = Image.fromarray(picture.labels)
    image.putpalette([9, 9, 9, 1, 1, 1, 7, 7, 7, 3, 3, 3])
    image.save(DatasetCatalog.get(name)[0]["sem_seg_file_name"])
    assert results_of(name, [picture])["mIoU"] == 100.0


SHARES = {"uneven": ([0, 3], [1, 2, 4]), "all on one": ([0, 1, 2, 3, 4], [])}
OPTIONS = {"boundary_iou": True, "save_predictions": True}


def evaluate_own_shares(folder):
    """Return the results of the rank's own images, and the error that rank 1 causes."""
    rank = dist.get_rank()
    data = pictures()
    name = "sem_seg_eval_test_ranks"
    (folder / str(rank)).mkdir()
    sem_seg_data.register(folder / str(rank), name, data)
    found = {}
    for share, images in SHARES.items():
        built = LongTailSemSegEvaluator(name, output_dir=str(folder / share), **OPTIONS)
        found[share] = dict(run(built, [data[i] for i in images[rank]]))
    with pytest.raises(Exception, match="not_registered") as error:
        LongTailSemSegEvaluator("not_registered" if rank == 1 else name)
    return found, str(error.value)


@pytest.mark.dist
def test_ranks_agree_with_one_process_and_raise_together(name, data, tmp_path):
    alone = results_of(name, data, output_dir=str(tmp_path / "alone"), **OPTIONS)
    main, other = run_on_ranks(evaluate_own_shares, tmp_path, world_size=2)
    assert "rank 1" in main[1]
    for share in SHARES:
        assert main[0][share]["sem_seg"] == pytest.approx(alone, nan_ok=True)
        assert other[0][share] == {}
        for file in ("per_category_sem_seg.csv", "per_category_sem_seg.json"):
            written = (tmp_path / share / file).read_bytes()
            assert written == (tmp_path / "alone" / file).read_bytes()
        assert predictions(tmp_path / share) == predictions(tmp_path / "alone")


def predictions(folder):
    found = json.loads((folder / "sem_seg_predictions.json").read_text())
    return sorted(found, key=lambda p: (p["file_name"], p["category_id"]))
