"""Image classification through train_net.py on generated files: both phases, resumed exactly."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from d2_seesaw.cli import main
from d2_seesaw.data.classification import image_lists
from d2_seesaw.synthetic import ClassificationSpec, generate_classification_dataset

CONFIGS = "configs/quickstart/classification"
SIZES = [
    "train.epochs=null",
    "train.max_iter=12",
    "train.eval_period=6",
    "train.checkpointer.period=5",
    "dataloader.train.total_batch_size=8",
    "dataloader.train.num_workers=0",
]


@pytest.fixture(scope="module")
def pictures(datasets):
    """Generate a small dataset with the 20 classes of the config."""
    spec = ClassificationSpec(most_images=20, fewest_images=2, val_images_per_class=2)
    generate_classification_dataset(datasets / "classification_quickstart", spec, progress=False)
    image_lists._read_once.cache_clear()
    return datasets


@pytest.fixture
def run(train_net, pictures, tmp_path):
    def call(name, *arguments, loss="softmax", **options):
        config = f"{CONFIGS}_{loss}.py"
        return train_net(tmp_path / name, *SIZES, *arguments, config=config, **options)

    return call


def model_of(folder, name="model_final"):
    return torch.load(folder / f"{name}.pth", weights_only=True)["model"]


def differences(one, other):
    assert one.keys() == other.keys()
    return {key for key in one if not torch.equal(one[key], other[key])}


def interrupted(folder, copy):
    """Copy what a training had saved after five steps, as if it had been stopped there."""
    copy.mkdir()
    shutil.copy(folder / "model_0000004.pth", copy)
    (copy / "last_checkpoint").write_text("model_0000004.pth")
    return copy


def evaluations(folder):
    return [json.loads(x) for x in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_one_command_trains_evaluates_and_resumes_exactly(run, tmp_path):
    straight, folder = run("straight", loss="seesaw"), tmp_path / "straight"
    with (folder / "inference/per_category_classification.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images"]) for row in rows] == [2] * 20
    mean = sum(float(row["accuracy"]) for row in rows) / 20
    assert evaluations(folder)[-1]["results"]["classification/accuracy"] == pytest.approx(mean)
    assert straight.metrics[-1]["classification/accuracy"] == pytest.approx(mean)
    assert (folder / "model_best.pth").exists()
    assert int(model_of(folder)["loss.class_counts"].sum()) == 12 * 8

    parts = interrupted(folder, tmp_path / "parts")
    run("parts", "--resume", loss="seesaw")
    assert differences(model_of(parts), model_of(folder)) == set()
    assert evaluations(parts)[-1]["results"] == evaluations(folder)[-1]["results"]

    save_file(model_of(folder), tmp_path / "shared.safetensors")
    for path in (folder / "model_final.pth", tmp_path / "shared.safetensors"):
        path = f"train.init_checkpoint={path}"
        evaluated = run(f"eval_{path[-3:]}", "--eval-only", path, loss="seesaw")
        assert f"{mean:.3f}" in evaluated.text


def test_a_second_phase_starts_from_the_first_and_resumes_exactly(run, tmp_path):
    run("first", "train.max_iter=3")
    first = f"train.init_checkpoint={tmp_path / 'first/model_final.pth'}"
    run("crt", first, "train.ema.enabled=True", loss="crt")
    before, after = model_of(tmp_path / "first"), model_of(tmp_path / "crt")
    assert after.pop("second_phase") == 1
    assert differences(before, after) == {"classifier.weight", "classifier.bias"}
    averaged = model_of(tmp_path / "crt", "model_final_ema")
    assert differences(averaged, model_of(tmp_path / "crt")) == {
        "classifier.weight",
        "classifier.bias",
    }
    parts = interrupted(tmp_path / "crt", tmp_path / "parts")
    run("parts", first, "train.ema.enabled=True", "--resume", loss="crt")
    assert differences(model_of(parts), model_of(tmp_path / "crt")) == set()


@pytest.mark.slow
def test_scales_are_learned_by_a_command_of_their_own(run, tmp_path):
    run("first", "train.max_iter=3")
    first = f"train.init_checkpoint={tmp_path / 'first/model_final.pth'}"
    run("lws", first, loss="lws")
    before, after = model_of(tmp_path / "first"), model_of(tmp_path / "lws")
    assert (after["classifier.class_scales.scales"] != 1).any()
    assert {k for k in before if not torch.equal(before[k], after[k])} == set()
    lws = f"train.init_checkpoint={tmp_path / 'lws/model_final.pth'}"
    assert "accuracy_few" in run("eval", "--eval-only", lws, loss="lws").text
    refused = run("plain", "--eval-only", lws, fails=True).text
    assert "classifier.class_scales.scales: in the checkpoint, missing in the model" in refused
    assert "is already of the second phase" in run("again", lws, loss="lws", fails=True).text


@pytest.mark.slow
def test_a_detector_learns_a_new_classifier_and_resumes_exactly(train_net, tmp_path):
    sizes = ["train.max_iter=6", "train.checkpointer.period=3"]
    softmax, crt = "configs/quickstart/softmax.py", "configs/quickstart/decoupled_seesaw.py"
    train_net(tmp_path / "first", "train.max_iter=2", config=softmax)
    first = f"train.init_checkpoint={tmp_path / 'first/model_final.pth'}"
    run = train_net(tmp_path / "second", first, *sizes, config=crt)
    losses = {k for m in run.metrics for k in m if k.startswith("loss")}
    assert losses == {"loss_cls_classes", "loss_cls_objectness"}
    before, after = model_of(tmp_path / "first"), model_of(tmp_path / "second")
    predictor = "roi_heads.box_predictor"
    trained = (f"{predictor}.cls_score.", f"{predictor}.cls_loss.")
    assert {k for k in after if k not in before} == {
        "second_phase",
        f"{predictor}.cls_loss.class_counts",
    }
    frozen = [k for k in before if not k.startswith(trained)]
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(tmp_path / "second/model_0000002.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000002.pth")
    train_net(parts, first, *sizes, "--resume", config=crt)
    assert differences(model_of(parts), after) == set()


def test_a_classifier_is_shared_but_not_predicted_with(run, tmp_path, capsys):
    run("short", "train.max_iter=1")
    checkpoint = str(tmp_path / "short/model_final.pth")
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["predict", str(picture), "--checkpoint", checkpoint, "--output", str(tmp_path / "o")])
    assert "is an image classifier" in capsys.readouterr().err
    assert main(["export-weights", checkpoint, "--output", str(tmp_path / "shared")]) in (None, 0)
    card = (tmp_path / "shared/README.md").read_text()
    assert "Image classification with 20 classes" in card
    assert "pipeline_tag: image-classification" in card
    assert "d2-seesaw predict" not in card
    arguments = [f"train.init_checkpoint={tmp_path / 'shared/model.safetensors'}", "--eval-only"]
    assert "accuracy_few" in run("eval", *arguments).text


def test_a_wrong_number_of_classes_and_a_missing_list_are_named_before_anything_is_built(
    run, pictures
):
    failed = run("wrong", "model.num_classes=19", fails=True)
    assert "has 20 categories, the model 19 classes: set model.num_classes=20" in failed.text
    failed = run("missing", "dataloader.train.dataset.names=imagenet_lt_train", fails=True)
    assert "ImageNet_LT_train.txt" in failed.text
    assert "lists: https://github.com/zhmiao/OpenLongTailRecognition-OLTR" in failed.text
