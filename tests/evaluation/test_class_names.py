"""An evaluated split with the same names in another numbering gives the same numbers."""

import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.evaluation import (
    LongTailLVISEvaluator,
    MaskScoringCOCOEvaluator,
    evaluate_results_file,
)
from d2_seesaw.inference.class_names import (
    check_class_names_of_splits,
    check_initial_classes,
    set_class_names,
    trained_classes,
)
from tests.evaluation.small_results import BOXES, HEIGHT, WIDTH, annotations, results, write

MODEL = ["cat", "dog", "emu"]
RENUMBERED = {1: 3, 2: 1, 3: 2}


@pytest.fixture
def register(tmp_path):
    """Registers annotations; returns the name."""
    names = []

    def register_data(data):
        name = f"tests_class_names_{len(names)}"
        register_longtail_instances(
            name, json_file=write(tmp_path / f"{name}.json", data), image_root=tmp_path
        )
        names.append(name)
        return name

    yield register_data
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def outputs(missing=()):
    """Return what a model with the classes cat, dog and emu predicts for each image."""
    found = {image: [] for image in range(1, 5)}
    for result in results():
        if result["category_id"] not in missing:
            found[result["image_id"]].append(result)
    for image, of_image in found.items():
        instances = Instances((HEIGHT, WIDTH), scores=torch.full((len(of_image),), 0.9))
        corners = np.array([r["bbox"] for r in of_image], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        instances.pred_boxes = Boxes(torch.from_numpy(corners))
        instances.pred_classes = torch.tensor([r["category_id"] - 1 for r in of_image])
        yield {"image_id": image}, {"instances": instances}


def ap_of(evaluator):
    evaluator.reset()
    for image, output in outputs():
        evaluator.process([image], [output])
    return evaluator.evaluate()["bbox"]["AP"]


def reordered():
    data = annotations()
    data["categories"].reverse()
    return data


def two_of_three():
    data = annotations({1: 1, 2: 2, 3: 3})
    data["categories"] = data["categories"][1:]
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] != 1]
    return data


@pytest.mark.parametrize("evaluator", [LongTailLVISEvaluator, MaskScoringCOCOEvaluator])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (annotations(), ""),
        (reordered(), ""),
        (annotations(RENUMBERED), "in another order than the model: mapped by name"),
        (annotations({1: 900, 2: 7, 3: 40}), "in another order than the model: mapped by name"),
        (two_of_three(), "has 2 of the 3 classes of the model, mapped by name; it lacks 'cat'"),
    ],
)
def test_any_numbering_of_the_names_gives_the_same_ap(evaluator, data, said, register, caplog):
    with caplog.at_level(logging.INFO):
        made = evaluator(register(data), tasks=("bbox",), distributed=False)
        made.set_class_names(MODEL)
    assert ap_of(made) == pytest.approx(100)
    assert ("mapped by name" in caplog.text) == bool(said)
    assert said in caplog.text


def test_dropped_predictions_are_counted(register, caplog):
    evaluator = LongTailLVISEvaluator(
        register(two_of_three()), tasks=("bbox",), distributed=False, class_names=MODEL
    )
    ap_of(evaluator)
    assert "4 of 10 detections are of classes that dataset" in caplog.text


@pytest.mark.parametrize("evaluator", [LongTailLVISEvaluator, MaskScoringCOCOEvaluator])
def test_other_names_are_refused(evaluator, register):
    name = register(annotations(names={1: "xcat", 2: "dog", 3: "emu"}))
    made = evaluator(name, tasks=("bbox",), distributed=False)
    with pytest.raises(ValueError, match=r"only the former has 'xcat' .* did you mean 'cat'"):
        made.set_class_names(MODEL)


def test_without_names_of_the_model_a_class_too_many_names_those_of_the_dataset(register):
    evaluator = LongTailLVISEvaluator(register(two_of_three()), ("bbox",), distributed=False)
    with pytest.raises(
        ValueError, match=r"class 2, but .* 2 classes \('dog', 'emu' .* class_names"
    ):
        ap_of(evaluator)


# Configs and checkpoints


def config(train, test, classes=3, checkpoint=""):
    splits = {s: {"dataset": {"names": name}} for s, name in (("train", train), ("test", test))}
    return OmegaConf.create(
        {
            "dataloader": splits,
            "model": {"roi_heads": {"num_classes": classes}},
            "train": {"init_checkpoint": checkpoint},
        }
    )


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a model with the classes cat, dog and emu."""
    metadata = {"dataset": "d", "class_names": MODEL, "category_ids": [1, 2, 3]}
    model = torch.nn.Linear(2, 2)
    StrictCheckpointer(model, str(tmp_path), metadata=metadata).save("m")
    return str(tmp_path / "m.pth")


def test_splits_are_compared_by_name_before_anything_is_built(register):
    train, lacking = register(annotations()), register(two_of_three())
    other = register(annotations(names={1: "xcat", 2: "dog", 3: "emu"}))
    for test in (train, lacking, register(annotations(RENUMBERED))):
        check_class_names_of_splits(config(train, test), eval_only=False)
    advice = r"than training split .* only the former has 'xcat' .* remove them and their objects"
    with pytest.raises(ValueError, match=advice):
        check_class_names_of_splits(config(train, other), eval_only=False)
    with pytest.raises(
        ValueError, match=r"has 3 categories, .* set model\.roi_heads\.num_classes=3"
    ):
        check_class_names_of_splits(config(train, other, classes=2), eval_only=False)


def test_the_names_of_the_checkpoint_count_in_an_evaluation(register, checkpoint):
    lacking = register(two_of_three())
    check_class_names_of_splits(config("gone", lacking, checkpoint=checkpoint), eval_only=True)
    other = register(annotations(names={1: "xcat", 2: "dog", 3: "emu"}))
    with pytest.raises(ValueError, match=r"than checkpoint .*m\.pth: only the former has 'xcat'"):
        check_class_names_of_splits(config("gone", other, checkpoint=checkpoint), eval_only=True)
    with pytest.raises(ValueError, match="has 2 categories, the model 3 classes"):
        check_class_names_of_splits(config("gone", lacking, checkpoint="x.pth"), eval_only=True)
    train = register(annotations())
    check_class_names_of_splits(config(train, lacking, checkpoint="x.pth"), eval_only=True)
    with pytest.raises(ValueError, match=r"than training split .*: only the former has 'xcat'"):
        check_class_names_of_splits(config(train, other, checkpoint="x.pth"), eval_only=True)


def test_an_evaluator_gets_the_names_of_the_checkpoint_or_else_of_the_training_split(
    register, checkpoint
):
    train, test = register(annotations()), register(annotations(RENUMBERED))
    cfg = config(train, test, checkpoint=checkpoint)
    loaded = StrictCheckpointer(torch.nn.Linear(2, 2), require_all=True).load(checkpoint)
    for extras in (loaded, {}):
        evaluator = LongTailLVISEvaluator(test, ("bbox",), distributed=False)
        set_class_names(evaluator, trained_classes(cfg, torch.nn.Linear(2, 2), extras), cfg)
        assert ap_of(evaluator) == pytest.approx(100)
    with pytest.raises(ValueError, match="object cannot do: use an evaluator of d2_seesaw"):
        set_class_names(object(), {"class_names": MODEL}, cfg)


def test_a_training_is_resumed_with_its_own_classes_only(caplog):
    loaded, other = (
        {"metadata": {"class_names": MODEL}},
        {"dataset": "d", "class_names": MODEL[::-1]},
    )
    with pytest.raises(ValueError, match="class 0 is 'cat' there and 'emu' here"):
        check_initial_classes(loaded, other, "m.pth", resumed=True)
    check_initial_classes(loaded, other, "m.pth", resumed=False)
    assert "start from the weights of these classes" in caplog.text
    caplog.clear()
    check_initial_classes(loaded, {**other, "class_names": MODEL}, "m.pth", resumed=True)
    assert not caplog.text


# Results files


def test_training_annotations_of_other_names_are_refused_and_of_another_numbering_mapped(tmp_path):
    found, truth = write(tmp_path / "r.json", results()), write(tmp_path / "gt.json", annotations())
    train = annotations(RENUMBERED)
    train["annotations"] = [a for a in train["annotations"] if a["category_id"] != RENUMBERED[2]]
    scores = evaluate_results_file(
        found,
        truth,
        train_image_counts=write(tmp_path / "train.json", train),
        output_dir=str(tmp_path / "out"),
    )
    rows = (tmp_path / "out" / "per_category_bbox.csv").read_text().splitlines()
    assert [row.split(",")[1:4:2] for row in rows[1:]] == [["cat", "4"], ["dog", "0"], ["emu", "3"]]
    assert scores["bbox"]["categories-r"] == 3
    other = annotations(names={i: f"x{name}" for i, name in enumerate(MODEL, start=1)})
    with pytest.raises(ValueError, match="only the former has 'cat', 'dog', 'emu'"):
        evaluate_results_file(found, truth, train_image_counts=write(tmp_path / "x.json", other))


def test_results_of_prediction_are_mapped_by_the_names_in_images_json(tmp_path):
    found = write(tmp_path / "r.json", results())
    images = copy.deepcopy(annotations())
    truth = write(tmp_path / "gt.json", annotations(RENUMBERED))
    scores = evaluate_results_file(
        found, truth, predicted_images=write(tmp_path / "images.json", images)
    )
    assert scores["segm"]["AP"] == pytest.approx(100)
    lacking = write(tmp_path / "two.json", two_of_three())
    scores = evaluate_results_file(found, lacking, predicted_images=tmp_path / "images.json")
    assert scores["bbox"]["AP"] == pytest.approx(100)
    assert len(BOXES) == 3
