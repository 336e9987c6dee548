import functools
import itertools

from detectron2.config import LazyCall, instantiate

from d2_seesaw.data import RandomSampling, RepeatFactorSampling, build_train_loader


def dataset(count=6):
    return [
        {"width": 10, "height": 20, "index": i, "annotations": [{"category_id": min(i, 1)}]}
        for i in range(count)
    ]


def mapped(record):
    return dict(record, seen=True)


def test_batches_have_the_total_size_and_pass_through_the_mapper():
    loader = build_train_loader(
        dataset(), mapper=mapped, sampling=RandomSampling(), total_batch_size=2, num_workers=0
    )
    batches = list(itertools.islice(loader, 6))
    assert all(len(batch) == 2 for batch in batches)
    images = [image for batch in batches for image in batch]
    assert all(image["seen"] for image in images)
    assert sorted(image["index"] for image in images) == sorted([*range(6)] * 2)


def test_the_dataset_is_loaded_once_with_any_sampling():
    loads = []

    def load():
        loads.append(1)
        return dataset()

    node = LazyCall(build_train_loader)(
        dataset=LazyCall(load)(),
        mapper=mapped,
        sampling=LazyCall(RepeatFactorSampling)(threshold=1.0),
        total_batch_size=2,
        num_workers=0,
    )
    assert instantiate(node).images_per_epoch > 6
    assert len(loads) == 1


def test_the_loader_knows_the_length_of_an_epoch_with_repeats():
    sampling = RepeatFactorSampling(threshold=1.0, rounding="ceil")
    loader = build_train_loader(
        dataset(), mapper=mapped, sampling=sampling, total_batch_size=2, num_workers=0
    )
    # Category 0 is in 1 of 6 images: ceil(sqrt(6)) = 3 copies. Category 1 in 5: ceil(1.095) = 2.
    assert loader.images_per_epoch == 3 + 5 * 2
    assert loader.total_batch_size == 2


def test_images_of_different_orientation_do_not_share_a_batch():
    images = [{"width": 10, "height": 20}, {"width": 20, "height": 10}] * 4
    loader = build_train_loader(
        images, mapper=mapped, sampling=RandomSampling(), total_batch_size=4, num_workers=0
    )
    for batch in itertools.islice(loader, 4):
        assert len({image["width"] for image in batch}) == 1


def test_worker_options_are_passed_on_only_if_there_are_workers():
    build = functools.partial(
        build_train_loader,
        [{"width": 1, "height": 1}],
        mapper=dict,
        sampling=RandomSampling(),
        total_batch_size=1,
        prefetch_factor=3,
        persistent_workers=True,
    )
    with_workers = build(num_workers=2).batches
    assert (with_workers.prefetch_factor, with_workers.persistent_workers) == (3, True)
    assert not build(num_workers=0).batches.persistent_workers
