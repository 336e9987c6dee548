"""Semantic segmentation through train_net.py: short real trainings."""

import csv

import pytest
import torch

from d2_seesaw.synthetic.street import SemanticSpec, generate_semantic_dataset

STEPS = 12
SMALL = [
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=2",
    "model.backbone.out_channels=16",
    "model.sem_seg_head.conv_dims=16",
]


@pytest.fixture(scope="module")
def scenes(datasets, tmp_path_factory):
    """Generate a few small scenes for the configs, with a cache of their own for pixel counts."""
    spec = SemanticSpec(num_train_images=12, num_val_images=6, image_size=(64, 96))
    generate_semantic_dataset(datasets / "semantic_quickstart", spec, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield datasets


@pytest.fixture(scope="module")
def train_semantic(train_net, scenes):
    """Return a function that runs train_net.py on the quickstart config of a loss."""

    def run(loss, output, *arguments):
        config = f"configs/quickstart/semantic_{loss}.py"
        return train_net(output, *SMALL, *arguments, config=config)

    return run


@pytest.fixture(scope="module")
def trained(train_semantic, tmp_path_factory):
    """Train with Seesaw Loss, which has counts, for a few steps."""
    output = tmp_path_factory.mktemp("semantic")
    run = train_semantic("seesaw", output, f"train.max_iter={STEPS}")
    run.output = output
    return run


def test_metrics_of_all_classes_and_of_groups_are_written(trained):
    names = set().union(*trained.metrics)
    assert {
        "total_loss",
        "sem_seg/mIoU",
        "sem_seg/mACC",
        "sem_seg/mACCr",
        "sem_seg/IoU-road",
    } <= names
    with open(trained.output / "inference/per_category_sem_seg.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert sum(int(row["train_pixels"]) for row in rows) <= 12 * 64 * 96
    assert "Long-tail results" in trained.text


def test_pixels_are_counted_and_saved_with_the_model(trained):
    state = torch.load(trained.output / "model_final.pth")["model"]
    counts = state["sem_seg_head.loss.class_counts"]
    assert counts.dtype == torch.int64
    assert 0.8 * STEPS * 2 * 64 * 96 < counts.sum() <= STEPS * 2 * 64 * 96


def test_evaluating_again_gives_the_same_numbers(trained, train_semantic, tmp_path):
    checkpoint = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    again = train_semantic("seesaw", tmp_path, "--eval-only", checkpoint)
    rows = [
        [line for line in run.text.splitlines() if line.startswith("| sem_seg |")][-1]
        for run in (trained, again)
    ]
    assert rows[0] == rows[1]


def test_a_resumed_training_continues_counting(trained, train_semantic):
    more = f"train.max_iter={STEPS + 4}"
    before = torch.load(trained.output / "model_final.pth")["model"]
    train_semantic("seesaw", trained.output, "--resume", more)
    after = torch.load(trained.output / "model_final.pth")["model"]
    key = "sem_seg_head.loss.class_counts"
    assert 0 < (after[key] - before[key]).sum() <= 4 * 2 * 64 * 96


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param("cross_entropy", marks=pytest.mark.slow),
        "recall",
        pytest.param("inverse_frequency", marks=pytest.mark.slow),
    ],
)
def test_every_loss_trains_with_any_sampling(loss, train_semantic, tmp_path):
    sampling = {
        "cross_entropy": [],
        "recall": ["frequency=image", "threshold=0.5"],
        "inverse_frequency": ["frequency=pixel", "threshold=0.05"],
    }[loss]
    if sampling:
        target = "d2_seesaw.data.SemanticRepeatFactorSampling"
        sampling = [
            f"dataloader.train.sampling._target_={target}",
            "dataloader.train.sampling.num_classes=12",
            *(f"dataloader.train.sampling.{option}" for option in sampling),
        ]
    run = train_semantic(loss, tmp_path, "train.max_iter=3", *sampling)
    assert [m for m in run.metrics if m.get("total_loss", 0) > 0]
    if sampling:
        assert "Repeat factor sampling" in run.text


@pytest.mark.slow  # the losses, the evaluator and the launch have tests on ranks of their own
def test_two_ranks_train_and_score_as_one(train_semantic, tmp_path):
    run = train_semantic("recall", tmp_path, "--num-gpus=2", "train.max_iter=3")
    assert any("sem_seg/mIoU" in m for m in run.metrics)
