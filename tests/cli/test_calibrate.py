"""`d2-seesaw calibrate`: what it writes, what later commands make of it, and what it refuses."""

import hashlib
import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances

from d2_seesaw.cli import calibrate, export_weights
from d2_seesaw.data import register_longtail_instances
from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.engine import load_config
from d2_seesaw.evaluation.predictions.limits import DetectionLimits
from d2_seesaw.evaluation.predictions.results_file import PredictionRecord, ResultsFile
from d2_seesaw.evaluation.predictions.score_origin import KnownOrigin, ScoreOrigin
from d2_seesaw.inference import calibration_of, load_predictor
from d2_seesaw.inference.sources import read_picture
from d2_seesaw.inference.tta.merging import box_predictions
from tests.inference.models import mask_rcnn, picture
from tests.inference.test_predictor import METADATA, save_run

C = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write two splits of random pictures and a checkpoint whose config names them."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 2)):
        torch.manual_seed(number)
        images, annotations = [], []
        for i in range(1, number + 1):
            record = picture(folder / f"{split}_{i}.png", 96, 128)
            record["id"] = i
            images.append({**record, "file_name": f"{split}_{i}.png"})
            for category in range(5, 5 + 3 * i):
                x, y, w, h = rng.integers(5, 40, 4).tolist()
                annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
                annotation |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                annotations.append(annotation)
        names = zip(METADATA["category_ids"], METADATA["class_names"], strict=True)
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": i, "name": name} for i, name in names]
        (folder / f"{split}.json").write_text(json.dumps(content))
        register_longtail_instances(
            f"calibrated_{split}", json_file=folder / f"{split}.json", image_root=folder
        )
    torch.manual_seed(0)
    names = [f"dataloader.{s}.dataset.names=calibrated_{s}" for s in ("train", "val")]
    names[1] = names[1].replace("dataloader.val", "dataloader.test")
    save_run(folder, mask_rcnn(), METADATA, "quickstart/seesaw", *names)
    yield folder
    for split in ("train", "val"):
        DatasetCatalog.remove(f"calibrated_{split}")
        MetadataCatalog.remove(f"calibrated_{split}")


@pytest.fixture
def call(folder, capsys):
    """Return a function that calibrates the checkpoint and returns what was printed."""

    def call(*arguments, checkpoint="model_final.pth"):
        calibrate.main([str(folder / checkpoint), "--device", "cpu", *map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def fails(call):
    """Return a function that calibrates and returns the error message."""

    def fails(*arguments, **options):
        with pytest.raises(SystemExit) as error:
            call(*arguments, **options)
        return str(error.value.code)

    return fails


def image_counts(folder):
    """Count the training images of each class by hand."""
    content = json.loads((folder / "train.json").read_text())
    pairs = {(a["category_id"], a["image_id"]) for a in content["annotations"]}
    return [sum(c == i for c, _ in pairs) for i in METADATA["category_ids"]]


@pytest.fixture
def register(folder, tmp_path):
    """Return a function that registers the training images with a changed annotation file."""
    names = []

    def register(name, change):
        content = json.loads((folder / "train.json").read_text())
        change(content)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        register_longtail_instances(name, json_file=tmp_path / f"{name}.json", image_root=folder)
        names.append(name)
        return f"dataloader.train.dataset.names={name}"

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def reverse_ids(content):
    for annotation in content["annotations"]:
        annotation["category_id"] = 29 - annotation["category_id"]
    for category in content["categories"]:
        category["id"] = 29 - category["id"]


def other_classes(content):
    for category in content["categories"]:
        category["name"] += " of others"


def config_of(folder, path, *overrides):
    """Write the config of the run with changes."""
    cfg = load_config(str(folder / "config.yaml"), list(overrides))
    LazyConfig.save(cfg, str(path))
    return path


def test_classes_of_the_training_split_and_of_the_dataset_are_found_by_name(
    folder, call, fails, register, tmp_path
):
    config = config_of(folder, tmp_path / "config.yaml", register("reversed", reverse_ids))
    output = tmp_path / "calibrated.pth"
    to = ("--output", output, "--overwrite")
    given = ("--method", "norcal", "--gamma", "0.5")
    printed = call(*given, "--config-file", config, *to)
    message = "dataset 'reversed' numbers its classes in another order than checkpoint"
    assert printed.startswith(message)
    assert torch.load(output)["calibration"]["class_counts"] == image_counts(folder)

    fit = ("--method", "temperature", "--fraction", "0.5", "--max-rois", "60")
    fitted = []
    for changes in ([], ["--config-file", config]):
        assert (message in call(*fit, *changes, *to)) == bool(changes)
        entry = torch.load(output)["calibration"]
        fitted.append((entry["parameters"], entry["groups"]))
    assert fitted[0] == fitted[1]

    register("other", other_classes)
    refused = "dataset 'other' has other classes than checkpoint"
    assert refused in fails(*fit, "--dataset", "other", *to)


@torch.no_grad()
def by_hand(checkpoint, path, gamma, counts):
    """Calibrate the scores of the plain model by the equation, then detect."""
    predictor = load_predictor(checkpoint, device="cpu", calibrated=False)
    model = predictor.model
    pixels = read_picture(path, "RGB")
    image = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    proposals: list[Instances] = model.proposal_generator(images, features, None)[0]
    boxes, (scores,) = box_predictions(model.roi_heads, features, proposals)
    classes = scores[:, :-1] / torch.tensor(counts).clamp(min=1) ** gamma
    classes = classes / classes.sum(dim=1, keepdim=True) * scores[:, :-1].sum(dim=1, keepdim=True)
    scores = torch.cat([classes, scores[:, -1:]], dim=1)
    settings = model.roi_heads.box_predictor
    (found,), _ = fast_rcnn_inference(
        boxes,
        [scores],
        [tuple(image.shape[1:])],
        settings.test_score_thresh,
        settings.test_nms_thresh,
        settings.test_topk_per_image,
    )
    return found


def test_a_calibrated_checkpoint_predicts_what_scores_calibrated_by_hand_give(
    folder, call, tmp_path
):
    output = folder / "norcal.pth"
    printed = call("--method", "norcal", "--gamma", "0.7", "--output", output)
    assert f"scores: foreground\n{output}: NorCal, gamma 0.7 (given)" in printed
    plain, written = (torch.load(p) for p in (folder / "model_final.pth", output))
    assert written["model"].keys() == plain["model"].keys()
    assert all(torch.equal(written["model"][k], plain["model"][k]) for k in plain["model"])
    assert written["metadata"] == plain["metadata"]
    counts = image_counts(folder)
    assert written["calibration"]["class_counts"] == counts

    path = folder / "val_1.png"
    expected = by_hand(output, path, 0.7, counts)
    export_weights.main([str(output), "--output", str(tmp_path / "shared")])
    assert "| calibration | NorCal" in (tmp_path / "shared/README.md").read_text()
    for checkpoint in (output, tmp_path / "shared/model.safetensors"):
        predictor = load_predictor(checkpoint, device="cpu")
        found = predictor(path)["instances"]
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.pred_classes, expected.pred_classes)

    before = load_predictor(folder / "model_final.pth", device="cpu")(path)["instances"]
    without = load_predictor(output, device="cpu", calibrated=False)
    assert without.origin.without_calibration
    assert not load_predictor(output, device="cpu").origin.without_calibration
    switched_off = without(path)["instances"]
    assert torch.equal(before.scores, switched_off.scores)
    assert not torch.equal(before.scores, expected.scores)


def test_a_checkpoint_and_results_are_not_both_accepted(call, capsys):
    with pytest.raises(SystemExit):
        call("--results", "r.json", "--method", "norcal")
    assert "give a CHECKPOINT or --results FILE, not both" in capsys.readouterr().err


def test_a_structure_that_contradicts_the_loss_is_named(call, tmp_path):
    given = ("--method", "norcal", "--gamma", "0.5", "--output", tmp_path / "a.pth")
    printed = call(*given, "--structure", "independent")
    warning = "--structure independent contradicts the loss, whose scores are foreground"
    assert printed.startswith(f"warning: {warning}\nscores: independent\n")


def test_the_default_output_is_beside_the_checkpoint_and_not_replaced(folder, call, fails):
    given = ("--method", "norcal", "--gamma", "0.5")
    default = folder / "model_final_calibrated.pth"
    assert f"{default}: NorCal" in call(*given)
    assert "exists; --overwrite replaces it" in fails(*given)
    call(*given, "--overwrite")
    again = call("--method", "norcal", "--gamma", "1", checkpoint=default.name)
    assert "replaced: NorCal, gamma 0.5 (given)" in again
    assert "is the input" in fails(*given, "--output", folder / "model_final.pth", "--overwrite")


@pytest.mark.parametrize("method", ["norcal", "temperature"])
def test_parameters_are_fitted_on_a_part_of_the_training_split(folder, call, method):
    output = folder / f"fitted_{method}.safetensors"
    grid = ("--grid", "0.5", "1") if method == "norcal" else ()
    fit = ("--method", method, "--fraction", "0.5", "--seed", "3", *grid)
    printed = call(*fit, "--output", output)
    origin = "fitted on 3 of 6 images of calibrated_train, seed 3"
    assert printed.startswith(f"{origin}\ncriterion: ")
    fitted = calibration_of(load_predictor(output, device="cpu").model)
    assert (fitted.method, fitted.origin) == (method, origin)
    assert (fitted.groups == "") == (method == "norcal")


def test_an_evaluated_split_is_refused(fails, tmp_path):
    asked = ("--method", "norcal", "--dataset", "calibrated_val", "--output", tmp_path / "a.pth")
    assert "calibrated_val is the test split of the config" in fails(*asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "platt"], "unknown --method 'platt', expected one of ['norcal'"),
        (["--method", "norcal", "--tau", "1"], "tau is not a parameter of norcal"),
        (["--method", "tau-norm", "--tau", "1"], "no effect on a normalized classifier"),
        (["--method", "tau-norm"], "no effect on a normalized classifier"),
        (
            ["--method", "norcal", "--gamma", "1", "--seed", "0", "--dataset", "a"],
            "--dataset, --seed have no effect with given parameters",
        ),
        (
            ["--method", "temperature", "--grid", "1"],
            "--grid has no effect with --method temperature",
        ),
        (
            ["--method", "norcal", "--train-annotations", "a.json"],
            "--train-annotations has no effect with a checkpoint",
        ),
        (["--method", "norcal", "--output", "."], "--output . is a folder"),
        (
            ["--method", "norcal", "--output", "a.pt"],
            "--output must end with .pth or .safetensors, got a.pt",
        ),
        (["--method", "norcal", "--gamma", "nan"], "must be a finite number, got nan"),
        (["--method", "norcal", "--dataset", "unknown"], "'unknown' is not registered"),
        (["--method", "temperature", "--temperatures", "1", "0", "1"], "must be a number above 0"),
    ],
)
def test_wrong_options_are_errors_in_one_line(fails, tmp_path, arguments, message):
    text = fails("--output", tmp_path / "a.pth", *arguments)
    assert text.startswith("d2-seesaw calibrate: ")
    assert message in text
    assert "\n" not in text
    assert not list(tmp_path.iterdir())


def test_a_damaged_calibration_or_another_number_of_classes_is_refused(folder, tmp_path, call):
    call("--method", "norcal", "--gamma", "1", "--output", folder / "good.pth", "--overwrite")
    content = torch.load(folder / "good.pth")
    for changes, message in (
        ({"class_counts": []}, "the calibration cannot be used: norcal needs the counts"),
        ({"num_classes": 3, "class_counts": [1, 2, 3]}, "is of 3 classes, the model has 20"),
    ):
        broken = {**content, "calibration": {**content["calibration"], **changes}}
        torch.save(broken, folder / "broken.pth")
        with pytest.raises(ValueError, match=message):
            load_predictor(folder / "broken.pth", device="cpu")


def test_saved_results_are_calibrated_approximately(folder, tmp_path, capsys):
    result = {"image_id": 1, "bbox": [1, 2, 3, 4]}
    results = [{**result, "category_id": c, "score": s} for c, s in ((5, 0.8), (22, 0.8), (7, 1))]
    (tmp_path / "results.json").write_text(json.dumps(results))
    command = ["--results", tmp_path / "results.json", "--output", tmp_path / "new.json"]
    counts = ["--train-annotations", folder / "train.json"]

    def run(*arguments):
        calibrate.main([*map(str, [*command, *arguments])])
        return capsys.readouterr().out

    printed = run(*counts, "--method", "norcal", "--gamma", "0.5")
    assert printed.startswith("approximation: saved results have only the scores above")
    found = json.loads((tmp_path / "new.json").read_text())
    images = dict(zip(METADATA["category_ids"], image_counts(folder), strict=True))
    assert (images[5], images[22]) == (6, 1)
    odds = [4 / 6**0.5, 4.0, np.inf]
    expected = [1 - 1 / (1 + o) for o in odds]
    assert [r["score"] for r in found] == pytest.approx(expected)
    assert [r["bbox"] for r in found] == [[1, 2, 3, 4]] * 3

    content = json.loads((folder / "train.json").read_text())
    next(a for a in content["annotations"] if a["category_id"] == 5)["iscrowd"] = 1
    (tmp_path / "crowd.json").write_text(json.dumps(content))
    instances = ("--counts", "instances", "--train-annotations", tmp_path / "crowd.json")
    run("--overwrite", *instances, "--method", "norcal", "--gamma", "0.5")
    first = json.loads((tmp_path / "new.json").read_text())[0]
    assert first["score"] == pytest.approx(1 - 1 / (1 + 4 / 5**0.5))

    for arguments, message in (
        ([*counts, "--method", "tau-norm", "--tau", "1"], "results do not have"),
        ([*counts, "--method", "norcal"], "cannot be fitted on results"),
        (["--method", "norcal", "--gamma", "1"], "needs --train-annotations"),
        (
            ["--method", "norcal", "--gamma", "1", "--grid", "1", "--structure", "foreground"],
            "--grid, --structure have no effect with --results",
        ),
    ):
        with pytest.raises(SystemExit) as error:
            run("--overwrite", *arguments)
        assert message in str(error.value.code)


def test_results_of_a_prediction_are_calibrated_by_the_names_of_its_categories(tmp_path, capsys):
    boxes = [{"id": n, "image_id": n, "bbox": [0, 0, 9, 9], "area": 81} for n in (1, 2, 3, 4)]
    pictures = [{"id": n, "file_name": f"{n}.jpg", "height": 9, "width": 9} for n in (1, 2, 3, 4)]
    train = {
        "images": pictures,
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [{**box, "category_id": 8 if box["id"] == 1 else 7} for box in boxes],
    }
    (tmp_path / "train.json").write_text(json.dumps(train))
    predicted, other = tmp_path / "predicted", tmp_path / "other"
    predicted.mkdir()
    results = [
        {"image_id": 1, "category_id": c, "bbox": [0, 0, 9, 9], "score": 0.5} for c in (7, 8)
    ]
    (predicted / "results.json").write_text(json.dumps(results))
    record = PredictionRecord(
        *((predicted / "results.json").stat().st_size, "0.5", 0.5, 0.5),
        scores=ScoreOrigin(sha256=hashlib.sha256(b"weights").hexdigest(), tta=False),
    )
    (tmp_path / "m.pth").write_bytes(b"weights")
    before = KnownOrigin(predicted / "results.json", record.scores, "images.json")
    assert before.check(tmp_path / "m.pth", tta=False) == record.scores.sha256
    images = {
        "info": record.to_info(),
        "images": [{"id": 1, "file_name": "4.jpg", "height": 9, "width": 9}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}],
        "annotations": [],
    }
    (predicted / "images.json").write_text(json.dumps(images))

    def run(output, *more):
        source = ("--results", predicted / "results.json", "--output", output)
        counts = ("--method", "norcal", "--gamma", "1", "--train-annotations")
        calibrate.main([*map(str, [*source, *counts, tmp_path / "train.json", *more])])
        return capsys.readouterr().out

    printed = run(other / "new.json")
    scores = [result["score"] for result in json.loads((other / "new.json").read_text())]
    assert scores == pytest.approx([0.5, 0.25])  # odds of 1 over the one dog and the three cats
    assert f"{other / 'images.json'}: the images of its detections" in printed

    found = ResultsFile.find(other / "new.json")
    assert found.images == other / "images.json"
    with pytest.raises(ValueError, match="lacks the detections with a score below"):
        found.check_complete(DetectionLimits())
    with pytest.raises(ValueError, match=r"calibrated afterwards, says .*; .*m\.pth predicts"):
        found.origin().check(tmp_path / "m.pth", tta=False)
    table = read_annotations(str(tmp_path / "train.json"))
    moved = found.with_ids_of(found.read(), table)
    assert moved.image_ids.tolist() == [4, 4]
    assert moved.category_ids.tolist() == [8, 7]

    beside = run(predicted / "new.json")
    assert f"add --predicted-images {predicted / 'images.json'}" in beside
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "images.json").write_text("of the user")
    with pytest.raises(SystemExit) as error:
        run(tmp_path / "third" / "new.json")
    assert "images.json exists; --overwrite replaces it" in str(error.value.code)
    with pytest.raises(SystemExit) as error:
        run(tmp_path / "lvis_instances_results.json")
    assert "is taken for the results of an evaluation" in str(error.value.code)
