"""Batches that are copied to the device ahead. The oracle is the stream without it."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from d2_seesaw.data import RandomSampling, build_train_loader
from d2_seesaw.data.bad_images import BadImageError
from d2_seesaw.data.prefetch import read_ahead

CPU, META = torch.device("cpu"), torch.device("meta")


def sample():
    masks = torch.rand(2, 4, 5) > 0.5
    return {
        "image": torch.randint(256, (3, 4, 5), dtype=torch.uint8),
        "sem_seg": torch.randint(9, (4, 5)),
        "file_name": "a.jpg",
        "instances": Instances(
            (4, 5),
            gt_boxes=Boxes(torch.rand(2, 4)),
            gt_classes=torch.tensor([3, 1]),
            gt_masks=BitMasks(masks),
            gt_outlines=PolygonMasks([[np.arange(6.0)]] * 2),
        ),
    }


def test_all_but_polygons_is_moved_and_the_samples_stay_as_they_are():
    given = sample()
    polygons = given["instances"].gt_outlines
    ((moved,),) = read_ahead([[given]], META)
    instances = moved["instances"]
    assert instances.image_size == (4, 5)
    assert instances.gt_outlines is polygons
    assert moved["file_name"] == "a.jpg"
    fields = {"image": given["image"], "sem_seg": given["sem_seg"]}
    fields |= given["instances"].get_fields()
    for name, before in fields.items():
        after = moved[name] if name in moved else instances.get(name)
        assert type(after) is type(before)
        if name != "gt_outlines":
            before, after = (getattr(each, "tensor", each) for each in (before, after))
            assert (before.device, after.device) == (CPU, META)
            assert (before.shape, before.dtype) == (after.shape, after.dtype)


def test_batches_come_in_order_each_after_the_next_one_was_started():
    seen = []

    def source():
        for number in range(4):
            seen.append(number)
            yield [{"x": torch.tensor(number)}]

    for number, (image,) in enumerate(read_ahead(source(), CPU)):
        assert int(image["x"]) == number
        assert seen[-1] == min(number + 1, 3)
    assert seen == [0, 1, 2, 3]
    assert list(read_ahead([], CPU)) == []


def test_an_error_is_raised_where_it_would_be_without_prefetching():
    def source():
        yield [{"x": 0}]
        yield [{"x": 1}]
        raise RuntimeError("mapping failed")

    stream = read_ahead(source(), CPU)
    assert [next(stream), next(stream)] == [[{"x": 0}], [{"x": 1}]]
    with pytest.raises(RuntimeError, match="mapping failed"):
        next(stream)
    assert next(stream, "end") == "end"


def records():
    return [{"image_id": i, "width": 4 + i % 2, "height": 5 - i % 2} for i in range(10)]


def mapper(record):
    if record["image_id"] == 3:
        raise ValueError("damaged")
    return {"x": torch.tensor([record["image_id"], *torch.rand(2).tolist()])}


def loader(*, prefetch, workers=0, limit=1):
    built = build_train_loader(
        records(),
        mapper=mapper,
        sampling=RandomSampling(2),
        total_batch_size=2,
        num_workers=workers,
        seed=1,
    )
    built.prefetch_device = CPU if prefetch else None
    built.bad_images.limit = limit
    return built


def read(stream, steps):
    return [
        torch.stack([image["x"] for image in batch]) for batch in itertools.islice(stream, steps)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_position_and_bad_images_are_those_of_the_batches_that_were_used(workers):
    plain, ahead = loader(prefetch=False), loader(prefetch=True, workers=workers)
    streams = iter(plain), iter(ahead)
    for _ in range(12):
        expected, found = (next(stream) for stream in streams)
        assert [list(image["x"]) for image in found] == [list(image["x"]) for image in expected]
        assert ahead.state_dict() == plain.state_dict()
        assert ahead.bad_images.found == plain.bad_images.found
    assert plain.bad_images.found
    ahead.close()


def test_reading_again_goes_on_after_the_last_batch_that_was_used():
    straight = read(loader(prefetch=False), 9)
    parted = loader(prefetch=True, workers=1)
    found = read(parted, 4)
    parted.close()
    resumed = loader(prefetch=True)
    assert resumed.load_state_dict(parted.state_dict()) == []
    found += read(resumed, 3)
    found += read(resumed, 2)  # the same loader again, as after an evaluation
    assert torch.equal(torch.stack(found), torch.stack(straight))


def used_before_a_bad_image(*, prefetch):
    stream, number = iter(loader(prefetch=prefetch, limit=0)), 0
    try:
        while True:
            next(stream)
            number += 1
    except BadImageError:
        return number


def test_a_bad_image_stops_at_the_batch_that_has_it():
    expected = used_before_a_bad_image(prefetch=False)
    assert used_before_a_bad_image(prefetch=True) == expected > 0


def test_a_stop_while_the_next_batch_loads_does_not_count_the_one_before():
    def stopping(record):
        if next(calls) == 4:  # the first image of the third batch
            raise SystemExit
        return mapper({"image_id": 0})

    calls = itertools.count()
    stopped = build_train_loader(
        records(), mapper=stopping, sampling=RandomSampling(2), total_batch_size=2, num_workers=0
    )
    stopped.prefetch_device = CPU
    stream = iter(stopped)
    next(stream)
    with pytest.raises(SystemExit):
        next(stream)
    assert stopped.order.images_read == 2
