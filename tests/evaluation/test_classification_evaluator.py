"""Accuracies of image classifiers. Oracles: literal counting, and the code of Kang et al."""

import csv
import itertools
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import register_image_list
from d2_seesaw.evaluation import LongTailClassificationEvaluator, drop_absent
from d2_seesaw.evaluation.classification_scores import shot_group
from tests.support.ranks import run_on_ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/decoupling_reference.json").read_text())
CASE = GOLDEN["accuracy"]
COUNTS = GOLDEN["counts"]  # 300, 100, 21, 20, 19, 5: one class on each bound
_numbers = itertools.count()


def listed(split, labels):
    folders = "abcdef"
    return "".join(f"{split}/{folders[c]}/{i}.jpg {c}\n" for i, c in enumerate(labels))


def register_splits(folder, labels, counts=COUNTS):
    """Register a training and an evaluated split; return the name of the second."""
    name = f"classification_eval_test_{next(_numbers)}"
    train = np.repeat(np.arange(len(counts)), counts)
    (folder / f"{name}_train.txt").write_text(listed("train", train))
    (folder / f"{name}.txt").write_text(listed("val", labels))
    register_image_list(f"{name}_train", folder / f"{name}_train.txt", folder)
    register_image_list(name, folder / f"{name}.txt", folder, counts_from=f"{name}_train")
    return name


@pytest.fixture
def register(tmp_path):
    names = []

    def call(labels, **options):
        names.append(register_splits(tmp_path, labels, **options))
        return names[-1]

    yield call
    for name in [n for own in names for n in (own, f"{own}_train")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def outputs(labels, predicted, classes=6):
    """Return inputs and outputs of a model, whose score of the predicted class is the largest."""
    torch.manual_seed(1)
    pairs = []
    for i, (label, found) in enumerate(zip(labels, predicted, strict=True)):
        scores = torch.rand(classes)
        scores[found] += 1
        image = {"image_id": i, "file_name": f"{i}.jpg", "label": label}
        pairs.append((image, {"scores": scores / scores.sum()}))
    return pairs


def evaluate(name, pairs, **options):
    evaluator = LongTailClassificationEvaluator(name, distributed=False, **options)
    for start in range(0, len(pairs), 4):  # batches
        images, found = zip(*pairs[start : start + 4], strict=True)
        evaluator.process(list(images), list(found))
    return evaluator.evaluate()["classification"]


def test_accuracies_are_those_of_the_authors_code(register, tmp_path):
    name = register(CASE["labels"])
    pairs = outputs(CASE["labels"], CASE["predicted"])
    found = evaluate(name, pairs, output_dir=str(tmp_path / "out"))
    assert found["accuracy"] == pytest.approx(100 * CASE["overall"])
    assert found["accuracy_many"] == pytest.approx(100 * CASE["many"])
    assert found["accuracy_medium"] == pytest.approx(100 * CASE["medium"])
    assert found["accuracy_few"] == pytest.approx(100 * CASE["few"])
    assert found["mean_class_accuracy"] == pytest.approx(100 * np.mean(CASE["classes"]))
    counts = {"many": 1, "medium": 3, "few": 2}
    assert {g: found[f"categories-{g}"] for g in counts} == counts
    assert json.loads((tmp_path / "out/metrics_classification.json").read_text()) == found
    with (tmp_path / "out/per_category_classification.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(
        [100 * value for value in CASE["classes"]]
    )
    assert [row["name"] for row in rows] == list("abcdef")
    assert [int(row["train_images"]) for row in rows] == COUNTS


def test_groups_of_imagenet_lt_have_their_bounds():
    groups = [shot_group(count) for count in (101, 100, 20, 19, 0)]
    assert groups == ["many", "medium", "medium", "few", "few"]


def test_a_class_has_recall_and_precision_by_counting(register, tmp_path):
    labels, predicted = [0, 0, 0, 1, 1, 2, 5], [0, 1, 0, 1, 0, 3, 5]
    evaluate(register(labels), outputs(labels, predicted), output_dir=str(tmp_path))
    rows = json.loads((tmp_path / "per_category_classification.json").read_text())
    recall, precision = [200 / 3, 50, 0, None, None, 100], [200 / 3, 50, None, None, None, 100]
    assert [r["accuracy"] for r in rows] == pytest.approx(recall)
    assert [r["precision"] for r in rows] == pytest.approx(precision)
    saved = json.loads((tmp_path / "classification_predictions.json").read_text())
    assert [p["predicted"] for p in saved] == predicted
    scores = [o["scores"].max().item() for _, o in outputs(labels, predicted)]
    assert [p["score"] for p in saved] == pytest.approx(scores)


def test_groups_without_images_are_not_scored(register, caplog):
    caplog.set_level(logging.INFO)
    found = evaluate(register([0, 1]), outputs([0, 1], [0, 0]))
    assert math.isnan(found["accuracy_few"])
    assert found["evaluated-few"] == 0
    assert "accuracy_few" not in drop_absent({"x": found})["x"]
    assert "many: 1/1, medium: 1/3, few: 0/2" in caplog.text


def test_bad_inputs_are_refused(register):
    name = register([0, 1])
    evaluator = LongTailClassificationEvaluator(name, distributed=False)
    with pytest.raises(ValueError, match=r"no image of .* was evaluated"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match=r"0\.jpg: expected scores of the 6 classes of .*\(4,\)"):
        evaluator.process(*map(list, zip(*outputs([0], [0], classes=4), strict=True)))
    with pytest.raises(ValueError, match="'no_such_data' is not registered"):
        LongTailClassificationEvaluator("no_such_data")
    with pytest.raises(ValueError, match="is not for classification"):
        LongTailClassificationEvaluator("coco_2017_val")


def test_class_names_of_the_model_must_be_those_of_the_dataset(register):
    evaluator = LongTailClassificationEvaluator(register([0]), distributed=False)
    evaluator.set_class_names(list("abcdef"))
    with pytest.raises(ValueError, match="not possible for labels"):
        evaluator.set_class_names(list("bacdef"))
    with pytest.raises(ValueError, match="x"):
        evaluator.set_class_names(list("xbcdef"))


def _on_rank(folder):
    name = register_splits(folder / str(dist.get_rank()), CASE["labels"])
    pairs = outputs(CASE["labels"], CASE["predicted"])
    evaluator = LongTailClassificationEvaluator(name)
    own = pairs[:10] if dist.get_rank() == 0 else pairs[10:]
    evaluator.process(*map(list, zip(*own, strict=True)))
    return dict(evaluator.evaluate())


@pytest.mark.slow
@pytest.mark.dist
def test_ranks_give_the_results_of_one_process(register, tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    expected = evaluate(register(CASE["labels"]), outputs(CASE["labels"], CASE["predicted"]))
    first, other = run_on_ranks(_on_rank, tmp_path, world_size=2)
    assert first["classification"] == expected
    assert other == {}
