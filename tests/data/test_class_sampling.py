"""Sampling by classes: frequencies in closed form, and those of the authors' code."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_seesaw.data import (
    ClassBalancedSampling,
    ClassSampling,
    ProgressivelyBalancedSampling,
    RandomSampling,
    SquareRootSampling,
    build_train_loader,
)
from d2_seesaw.data.batch_order import BatchOrder, Section

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/decoupling_reference.json").read_text())
KINDS = {
    "class": ClassBalancedSampling,
    "root": SquareRootSampling,
    "progressive": lambda **options: ProgressivelyBalancedSampling(4, **options),
}


def records(counts, more=()):
    """Make records with one label each, class 0 first, then others with given labels."""
    labels = [[c] for c, count in enumerate(counts) for _ in range(count)]
    return [
        {"image_id": i, "annotations": [{"category_id": c} for c in own]}
        for i, own in enumerate([*labels, *more])
    ]


def epochs(sampling, data, number, seed=7):
    stream = iter(sampling.sampler(data, seed))
    return [list(itertools.islice(stream, len(data))) for _ in range(number)]


def draws(indices, data):
    return Counter(data[i]["annotations"][0]["category_id"] for i in indices)


@pytest.mark.parametrize("q", [0, 0.25, 0.5, 1])
def test_a_class_is_drawn_by_the_power_of_its_images(q):
    counts = [60, 25, 10, 0, 5]
    data = records(counts)
    expected = np.array([n**q if n else 0 for n in counts])
    expected = expected * len(data) / expected.sum()
    total = np.zeros(5)
    for indices in epochs(ClassSampling(q), data, 300):
        drawn = np.array([draws(indices, data)[c] for c in range(5)])
        assert (abs(drawn - expected) < 1 + 1e-9).all()  # rounded up or down in each epoch
        total += drawn
    np.testing.assert_allclose(total / 300, expected, atol=0.1)  # without bias


def test_class_balanced_and_square_root_sampling_are_its_special_cases():
    counts = np.array([60, 25, 10, 5])
    np.testing.assert_allclose(ClassBalancedSampling().probabilities(counts, 3), 1 / 4)
    root = np.sqrt(counts)
    np.testing.assert_allclose(SquareRootSampling().probabilities(counts, 3), root / root.sum())


def test_probabilities_are_those_of_the_authors_code():
    counts, expected = np.array(GOLDEN["counts"]), GOLDEN["sampling"]
    for epoch, wanted in enumerate(expected["progressive_7_epochs"]):
        found = ProgressivelyBalancedSampling(7).probabilities(counts, epoch)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    found = SquareRootSampling().probabilities(counts, 0)
    np.testing.assert_allclose(found, expected["square_root"], rtol=1e-12)
    found = ClassBalancedSampling().probabilities(counts, 0)
    np.testing.assert_allclose(found, expected["balanced"], rtol=1e-12)


def test_progressively_balanced_sampling_goes_from_images_to_classes():
    data = records([60, 25, 10, 5])
    first, middle, last, later = epochs(ProgressivelyBalancedSampling(3), data, 4)
    assert sorted(first) == list(range(100))  # every image once
    assert draws(last, data) == draws(later, data) == dict.fromkeys(range(4), 25)
    wanted = {0: 42.5, 1: 25, 2: 17.5, 3: 15}
    assert all(abs(draws(middle, data)[c] - n) < 1 for c, n in wanted.items())


def test_images_of_a_class_are_all_shown_before_one_is_repeated():
    data = records([60, 25, 10, 5])
    for indices in epochs(ClassBalancedSampling(), data, 20):
        times = Counter(indices)
        for start, stop in ((0, 60), (60, 85), (85, 95), (95, 100)):
            shown = [times[i] for i in range(start, stop)]
            assert max(shown) - min(shown) <= 1
    orders = epochs(ClassBalancedSampling(), data, 2)
    assert orders[0] != orders[1]


def test_an_image_with_several_classes_is_drawn_for_each_of_them():
    # n = (10, 2, 1): image 10 shows classes 1 and 2, image 11 class 1 twice.
    data = records([10], more=[[1, 2], [1, 1]])
    times = Counter(itertools.chain(*epochs(ClassBalancedSampling(), data, 500)))
    per_epoch = 12 / 3
    assert times[10] / 500 == pytest.approx(per_epoch / 2 + per_epoch, abs=0.1)
    assert times[11] / 500 == pytest.approx(per_epoch / 2, abs=0.1)
    assert times[0] / 500 == pytest.approx(per_epoch / 10, abs=0.1)


def test_images_without_objects_are_never_drawn():
    data = records([3, 1], more=[[], []])
    assert not {4, 5} & set(itertools.chain(*epochs(SquareRootSampling(), data, 20)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_depends_on_the_seed_alone(kind):
    data = records([20, 5, 2])
    assert epochs(KINDS[kind](), data, 3) == epochs(KINDS[kind](), data, 3)
    assert epochs(KINDS[kind](), data, 3) != epochs(KINDS[kind](), data, 3, seed=8)


class Mapper:
    def __call__(self, record):
        draw = torch.rand(1)
        return {"image": torch.zeros(1), "x": (record["image_id"], float(draw))}


def loader(kind, data, **options):
    fixed = {"mapper": Mapper(), "sampling": KINDS[kind](seed=3), "seed": 4, "num_workers": 0}
    return build_train_loader(
        data, **fixed | options, total_batch_size=4, aspect_ratio_grouping=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_continues_at_any_position(kind):
    data = records([20, 5, 2])

    def shown(batches):
        return [[image["x"] for image in batch] for batch in batches]

    straight = shown(itertools.islice(loader(kind, data), 15))
    started = loader(kind, data)
    stream = iter(started)
    shown(itertools.islice(stream, 9))  # into the second epoch
    resumed = loader(kind, data, sampling=KINDS[kind]())
    assert resumed.load_state_dict(started.state_dict()) == []
    assert shown(itertools.islice(resumed, 6)) == straight[9:]


def test_another_length_of_progressive_sampling_is_another_sampling():
    data = records([20, 5, 2])
    state = loader("progressive", data).state_dict()
    other = loader("progressive", data, sampling=ProgressivelyBalancedSampling(5))
    assert other.load_state_dict(state) == ["another sampling"]
    assert loader("class", data).load_state_dict(state) == ["another sampling"]


def test_ranks_share_the_draws():
    data = records([20, 5, 2])

    def indices(seed):
        return iter(ClassBalancedSampling().sampler(data, seed))

    parts = [
        list(itertools.islice(BatchOrder(indices, 1, Section(2, 3), rank, None), 5))
        for rank in range(2)
    ]
    found = [sample for batches in zip(*parts, strict=True) for b in batches for sample in b]
    expected = list(enumerate(itertools.islice(indices(1), 30)))
    assert sorted(found) == expected


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClassSampling(1.5), r"exponent must be in \[0, 1\], got 1.5"),
        (lambda: ProgressivelyBalancedSampling(0), "epochs must be at least 1, got 0"),
        (
            lambda: ClassBalancedSampling().images_per_epoch([{"file_name": "a.jpg"}]),
            "sampling by classes needs images with annotations",
        ),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_epoch_has_as_many_images_as_the_dataset():
    data = records([20, 5, 2])
    assert ClassBalancedSampling().images_per_epoch(data) == 27
    assert RandomSampling().images_per_epoch(data) == 27
