"""Classification example, on data so small that it trains in a second."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from d2_seesaw.layers import NormedLinear
from d2_seesaw.losses import RecallLoss, SeesawCrossEntropyLoss

SCRIPT = Path("examples/longtail_classification.py")
SPEC = importlib.util.spec_from_file_location("longtail_classification", SCRIPT)
example = importlib.util.module_from_spec(SPEC)
sys.modules["longtail_classification"] = example  # dataclasses look up their own module
SPEC.loader.exec_module(example)

SMALL = ["--classes", "4", "--most-images", "30", "--test-images", "6", "--epochs", "1"]


def options(*arguments):
    return example.argument_parser().parse_args([*SMALL, "--device", "cpu", *arguments])


def run_main(output, *arguments):
    example.main([*SMALL, "--device", "cpu", "--output", str(output), *arguments])
    return json.loads(output.read_text())


def rows_of(printed):
    """Return the cells of the printed table by the title of their row."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {title: values for title, *values in cells}


def test_counts_fall_by_the_same_factor_from_class_to_class():
    counts = example.training_counts(61, 100_000, 100)
    assert (counts[0], counts[-1]) == (100_000, 1_000)
    torch.testing.assert_close(
        counts[1:] / counts[:-1], np.full(60, 100 ** (-1 / 60)), rtol=1e-3, atol=0
    )


def test_every_class_has_an_image_at_any_imbalance():
    assert example.training_counts(5, 10, 1e6).tolist() == [10, 1, 1, 1, 1]


def test_no_imbalance_gives_equal_counts():
    assert example.training_counts(3, 7, 1).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("count", "group"),
    [(1, "few"), (19, "few"), (20, "medium"), (100, "medium"), (101, "many"), (300, "many")],
)
def test_groups_have_the_bounds_of_imagenet_lt(count, group):
    assert example.group_of(count) == group


def test_training_images_follow_the_profile_and_test_images_are_balanced():
    args = options("--imbalance", "10")
    data = example.generate(args, seed=1)
    assert sorted(data.counts) == sorted(example.training_counts(4, 30, 10))
    (images, labels), (test_images, test_labels) = data.train, data.test
    assert labels.bincount().tolist() == data.counts.tolist()
    assert test_labels.bincount().tolist() == [6, 6, 6, 6]
    assert images.shape == (len(labels), 1, 28, 28)
    assert test_images.shape == (24, 1, 28, 28)
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0.3


def test_a_seed_determines_the_images_and_the_rare_classes():
    args = options("--classes", "12", "--test-images", "1")
    first, again, other = (example.generate(args, seed) for seed in (1, 1, 2))
    assert first.counts.tolist() == again.counts.tolist() != other.counts.tolist()
    torch.testing.assert_close(first.train, again.train, rtol=0, atol=0)
    torch.testing.assert_close(first.test, again.test, rtol=0, atol=0)
    assert not torch.equal(first.test[0], other.test[0])


def test_no_test_image_is_a_training_image():
    data = example.generate(options(), seed=1)
    distances = torch.cdist(data.train[0].flatten(1), data.test[0].flatten(1))
    assert distances.min() > 1


@pytest.mark.slow
def test_a_class_looks_alike_under_all_seeds():
    args = options("--classes", "10", "--imbalance", "1", "--test-images", "20")
    (images, labels), (others, truth) = (example.generate(args, s).test for s in (1, 2))
    # Ink may be darker or brighter than paper, so it is detected by its distance to the median.
    ink, other_ink = (
        (i - i.flatten(1).median(1).values[:, None, None, None]).abs().flatten(1)
        for i in (images, others)
    )
    means = torch.stack([ink[labels == c].mean(0) for c in range(10)])
    nearest = torch.cosine_similarity(other_ink[:, None], means[None], dim=2).argmax(1)
    assert (nearest == truth).float().mean() > 0.5  # chance is 0.1


def test_images_are_noisy():
    out_of_sight = np.full((example.STROKES, 3, 2), 9.0)
    image = example.draw(out_of_sight, np.random.default_rng(0))
    assert len(np.unique(image)) > 15  # without noise there would be fewer


@pytest.mark.parametrize("name", example.LOSSES)
def test_losses_take_logits_and_labels_and_know_no_ignored_class(name):
    logits = torch.randn(6, 300, requires_grad=True)
    loss_function = example.build_loss(name, 300)
    loss_function(logits, torch.tensor([255] * 6)).backward()
    assert logits.grad.abs().sum() > 0


def test_losses_equal_those_of_the_library_with_the_papers_q_for_classification():
    seesaw = example.build_loss("seesaw", 5)
    assert isinstance(seesaw, SeesawCrossEntropyLoss)
    assert (seesaw.p, seesaw.q) == (0.8, 1.0)
    assert isinstance(example.build_loss("recall", 5), RecallLoss)
    assert isinstance(example.build_loss("cross_entropy", 5), nn.CrossEntropyLoss)


def test_the_classifier_is_normalized_on_request_only():
    assert type(example.build_model(5, normed=False)[-1]) is nn.Linear
    assert type(example.build_model(5, normed=True)[-1]) is NormedLinear


class FirstPixel(nn.Module):
    """Model that predicts the class in the first pixel; in training mode it predicts no class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        named = nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()
        return named * (not self.training)


def test_accuracies_are_computed_over_the_classes_of_each_group():
    # More images than one batch of predictions.
    labels = torch.arange(3).repeat_interleave(400)
    predicted = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 0]).repeat_interleave(100)
    images = predicted[:, None, None, None].expand(1200, 1, 2, 2).float()
    data = example.Data(np.array([500, 5, 101]), train=None, test=(images, labels))
    result = example.accuracies(FirstPixel(), data)
    assert result == {"overall": pytest.approx(500 / 12), "many": 37.5, "medium": None, "few": 50.0}


def test_runs_of_two_losses_differ_only_in_the_loss(monkeypatch):
    monkeypatch.setattr(example, "build_loss", lambda name, num_classes: nn.CrossEntropyLoss())
    data, args = example.generate(options(), seed=1), options()
    models = [example.train(data, loss, 1, args).state_dict() for loss in example.LOSSES]
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)
    torch.testing.assert_close(models[0], models[2], rtol=0, atol=0)


def test_losses_train_different_models():
    data, args = example.generate(options(), seed=1), options()
    weights = [example.train(data, loss, 1, args)[-1].weight for loss in example.LOSSES]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.slow
def test_training_learns_the_classes():
    args = options("--imbalance", "1", "--epochs", "8", "--batch-size", "16")
    data = example.generate(args, seed=1)
    for loss in example.LOSSES:
        # Chance is 25 %, with a standard deviation of 9 % over the 24 images.
        assert example.accuracies(example.train(data, loss, 1, args), data)["overall"] > 50


def test_no_batch_is_a_single_image():
    # A batch norm cannot train on one row.
    args = options("--classes", "2", "--imbalance", "1", "--most-images", "5", "--batch-size", "3")
    example.train(example.generate(args, seed=1), "cross_entropy", 1, args)


def test_prints_the_table_and_writes_the_runs(tmp_path, capsys):
    written = run_main(tmp_path / "new" / "runs.json", "--seeds", "1", "2")
    assert [(run["seed"], run["loss"]) for run in written["runs"]] == [
        (seed, loss) for seed in (1, 2) for loss in example.LOSSES
    ]
    assert written["options"]["seeds"] == [1, 2]
    assert written["versions"]["torch"] == torch.__version__
    rows = rows_of(capsys.readouterr().out)
    assert rows["loss"] == ["overall", "many", "medium", "few"]
    recall = [run["overall"] for run in written["runs"] if run["loss"] == "recall"]
    assert rows["recall"][0] == f"{np.mean(recall):.1f} ± {np.std(recall, ddof=1):.1f}"
    assert rows["recall"][1] == "n/a"  # the most frequent class has 30 images


def test_every_loss_is_trained_with_every_seed_on_the_data_of_that_seed(tmp_path, monkeypatch):
    result = dict.fromkeys(example.COLUMNS, 1.0)
    monkeypatch.setattr(example, "generate", lambda args, seed: f"data of {seed}")
    monkeypatch.setattr(example, "train", lambda data, loss, seed, args: (data, loss, seed))
    monkeypatch.setattr(
        example, "accuracies", lambda model, data: result | {"trained": model, "tested": data}
    )
    for run in run_main(tmp_path / "runs.json", "--seeds", "2", "3")["runs"]:
        data = f"data of {run['seed']}"
        assert run["trained"] == [data, run["loss"], run["seed"]]
        assert run["tested"] == data


def test_differences_to_cross_entropy_are_taken_seed_by_seed():
    runs = [
        {"loss": loss, "seed": seed, "overall": value, "many": value, "medium": value, "few": few}
        for loss, values in {"cross_entropy": (10.0, 50.0), "seesaw": (13.0, 54.0)}.items()
        for seed, (value, few) in enumerate(zip(values, (None, values[1]), strict=True))
    ]
    rows = rows_of(example.table(runs))
    assert rows["seesaw"][0] == "33.5 ± 29.0"
    assert rows["seesaw - cross_entropy"][0] == "+3.5 ± 0.7"
    assert rows["seesaw - cross_entropy"][3] == "+4.0"
    assert list(rows)[2:] == ["cross_entropy", "seesaw", "seesaw - cross_entropy"]


def test_one_loss_alone_is_a_table_without_differences(tmp_path, capsys):
    written = run_main(tmp_path / "runs.json", "--loss", "seesaw", "--seeds", "3")
    assert [run["loss"] for run in written["runs"]] == ["seesaw"]
    rows = rows_of(capsys.readouterr().out)
    assert set(rows) == {"loss", "---", "seesaw"}
    assert "±" not in rows["seesaw"][0]


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    first, second = (run_main(tmp_path / "runs.json", "--seeds", "5")["runs"] for _ in range(2))
    for run in first + second:
        del run["seconds"]
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "1"], r"--classes must be at least 2, got 1"),
        (["--batch-size", "2"], r"--batch-size must be at least 3, got 2"),
        (["--imbalance", "0.5"], r"--imbalance must be at least 1, got 0.5"),
        (["--imbalance", "nan"], r"--imbalance must be at least 1, got nan"),
        (["--epochs", "0"], r"--epochs must be at least 1, got 0"),
        (["--most-images", "0"], r"--most-images must be at least 1, got 0"),
        (["--test-images", "0"], r"--test-images must be at least 1, got 0"),
        (["--lr", "0"], r"--lr must be above 0, got 0.0"),
        (["--seeds", "1", "1"], r"--seeds must be different and 0 or more, got \[1, 1\]"),
        (["--seeds", "-1"], r"--seeds must be different and 0 or more, got \[-1\]"),
    ],
)
def test_wrong_arguments_are_one_line_errors(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        run_main(tmp_path / "runs.json", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_loss_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_main(tmp_path / "runs.json", "--loss", "focal")
    assert "'cross_entropy', 'seesaw', 'recall', 'all'" in re.sub(
        "[()]", "", capsys.readouterr().err
    )


@pytest.mark.slow
def test_runs_as_a_script_with_torch_numpy_and_opencv_alone(tmp_path):
    arguments = [str(SCRIPT), *SMALL, "--seeds", "1", "--output", str(tmp_path / "runs.json")]
    code = (
        "import runpy, sys; "  # importing a module that is None fails
        "sys.modules |= dict.fromkeys(['detectron2', 'fvcore', 'torchvision', 'tabulate']); "
        f"sys.argv = {arguments}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == 3


def test_the_readme_names_every_option_and_the_defaults_it_measured():
    readme = Path("examples/README.md").read_text()
    parser = example.argument_parser()
    named = set(re.findall(r"`(--[a-z-]+)`", readme))
    assert named == {action.option_strings[-1] for action in parser._actions} - {"--help"}
    args = parser.parse_args([])
    counts = example.training_counts(args.classes, args.most_images, args.imbalance)
    sizes = [[example.group_of(count) for count in counts].count(g) for g in example.GROUPS]
    for fact in (
        f"{args.classes} characters",
        f"{counts[0]} training images, the rarest {counts[-1]},",
        f"{sizes[0]} classes with many",
        f"{sizes[1]} with a medium",
        f"{sizes[2]} with few",
        f"{counts.sum():,} in all",
        f"{args.test_images} test images",
        f"{args.epochs} epochs",
        f"batches of {args.batch_size}",
        f"rate of {args.lr} that falls",
    ):
        assert fact in " ".join(readme.split()), fact


@pytest.mark.slow
def test_seesaw_raises_few_shot_accuracy_over_cross_entropy(tmp_path):
    output = tmp_path / "runs.json"
    example.main(["--seeds", "1", "--device", "cpu", "--output", str(output)])
    few = {run["loss"]: run["few"] for run in json.loads(output.read_text())["runs"]}
    assert few["seesaw"] > few["cross_entropy"] + 5
