"""Images that cannot be used in training: named, counted once, and replaced up to a limit."""

import itertools
import logging

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from d2_seesaw.data import InstanceDatasetMapper, RandomSampling, build_train_loader
from d2_seesaw.data.bad_images import (
    BadImageError,
    BadImages,
    MappedDataset,
    NamingMapper,
    check_files_exist,
)
from tests.support.ranks import run_on_ranks

H, W = 20, 30


def write(path, size=(W, H)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def records(folder, count=6, suffix="png"):
    return [
        {
            "file_name": str(write(folder / f"{i}.{suffix}")),
            "image_id": 100 + i,
            "height": H,
            "width": W,
            "annotations": [],
        }
        for i in range(count)
    ]


def cut(record, keep=0.5):
    with open(record["file_name"], "r+b") as file:
        file.truncate(int(file.seek(0, 2) * keep))


def flip(record):
    """Damage the pixels of a PNG, but not its end."""
    with open(record["file_name"], "r+b") as file:
        file.seek(file.seek(0, 2) // 2)
        file.write(b"\0\0\0\0")


def mapper():
    return DatasetMapper(is_train=True, augmentations=[], image_format="RGB")


def loader(dataset, limit=0, **options):
    options = {"total_batch_size": 2, "num_workers": 0, "sampling": RandomSampling(3), **options}
    built = build_train_loader(dataset, mapper=options.pop("mapper", mapper()), **options)
    built.bad_images.limit = limit
    return built


def test_missing_files_are_counted_and_the_first_five_named(tmp_path):
    files = [str(write(tmp_path / "a.png")), *(f"{tmp_path}/no{i}.png" for i in range(7))]
    with pytest.raises(FileNotFoundError) as error:
        check_files_exist([*files, files[1], "s3://bucket/far.png"])
    assert str(error.value) == f"7 of 8 image files do not exist: {', '.join(files[1:6])}, ..."
    check_files_exist(files[:1])


def test_a_missing_image_or_label_map_stops_before_the_first_step(tmp_path):
    given = records(tmp_path)
    given[2]["file_name"] += ".gone"
    given[3]["sem_seg_file_name"] = str(tmp_path / "labels.png")
    with pytest.raises(FileNotFoundError, match=r"2 of 7 files .*2\.png\.gone, .*labels\.png$"):
        loader(given)


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        ("jpg", cut, "truncated"),
        ("png", cut, "truncated"),
        ("png", flip, ""),
        ("png", lambda r: cut(r, 0), "cannot identify"),
        ("jpg", lambda r: write(r["file_name"], (H, W)), "mismatched image shape"),
    ],
)
def test_the_first_bad_image_is_one_line_with_its_file_and_id(tmp_path, suffix, damage, reason):
    given = records(tmp_path, suffix=suffix)
    damage(given[4])
    with pytest.raises(BadImageError) as error:
        list(itertools.islice(loader(given), 6))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"an image cannot be used: {given[4]['file_name']} (image id 104): ")
    assert reason in text.lower()
    assert "train.max_bad_images=N" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_up_to_the_limit_are_replaced_and_counted_once(tmp_path, workers, caplog):
    given = records(tmp_path)
    cut(given[1])
    cut(given[4])
    stream = loader(given, limit=2, num_workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = list(itertools.islice(stream, 12))  # each image is due four times
    images = [image for batch in batches for image in batch]
    assert {i["image_id"] for i in images} == {100, 102, 103, 105}
    assert all(tuple(i["image"].shape) == (3, H, W) for i in images)
    assert {n.rpartition(" ")[2] for n in stream.bad_images.found} == {"101)", "104)"}
    assert len([r for r in caplog.records if "Replaced a bad image" in r.message]) == 2


def test_one_more_than_the_limit_stops_and_names_all(tmp_path):
    given = records(tmp_path)
    cut(given[1])
    cut(given[4])
    with pytest.raises(BadImageError, match=r"2 images .* is 1: .*\(image id 10\d\).*; .*10\d\)"):
        list(itertools.islice(loader(given, limit=1), 6))


def test_replacements_depend_on_seed_and_position_alone(tmp_path):
    given = records(tmp_path, 8)
    cut(given[3])
    first = MappedDataset(given, mapper(), 7).replacement(40, 3, 1)
    cut(given[first])  # the first replacement is bad, too

    def sample(seed, position=40):
        np.random.seed(np.random.randint(1000))
        return MappedDataset(given, mapper(), seed)[position, 3]["image_id"]

    assert len({sample(7) for _ in range(5)}) == 1
    assert len({sample(seed) for seed in range(20)}) > 1
    assert len({sample(7, position) for position in range(20)}) > 1


def test_a_replacement_has_the_orientation_of_its_batch(tmp_path):
    is_wide = np.array([True, False] * 4)
    dataset = MappedDataset([{}] * 8, dict, 7, is_wide)
    found = {dataset.replacement(position, 3, 1) for position in range(100)}
    assert found == {1, 3, 5, 7}


def test_a_dataset_without_a_usable_image_stops_whatever_the_limit(tmp_path):
    given = records(tmp_path, 3)
    for record in given:
        cut(record)
    with pytest.raises(BadImageError, match="20 images in a row cannot be used"):
        next(iter(loader(given, limit=9)))


def test_an_image_that_the_mapper_leaves_out_is_replaced_without_being_counted(tmp_path):
    given = records(tmp_path)
    stream = loader(given, mapper=lambda r: None if r["image_id"] == 101 else dict(r))
    images = [i for batch in itertools.islice(stream, 6) for i in batch]
    assert {i["image_id"] for i in images} == {100, 102, 103, 104, 105}
    assert stream.bad_images.found == {}


def test_a_fault_of_the_mapper_is_no_bad_image_but_names_it(tmp_path):
    def faulty(record):
        return record["nothing"]

    with pytest.raises(RuntimeError, match=r"\d\.png \(image id 10\d\) failed: KeyError") as error:
        next(iter(loader(records(tmp_path), limit=5, mapper=faulty)))
    assert isinstance(error.value.__cause__, KeyError)


def _on_two_ranks(limit):
    from detectron2.utils import comm

    bad = BadImages(limit)
    mine = {"shared": "x", f"of rank {comm.get_rank()}": "y"}
    bad.collect([{"_bad_images": dict(mine)}])
    bad.exchange()
    return sorted(bad.found)


@pytest.mark.dist
def test_ranks_count_a_bad_image_of_both_once_and_agree():
    expected = ["of rank 0", "of rank 1", "shared"]
    assert run_on_ranks(_on_two_ranks, 3, world_size=2) == [expected, expected]
    with pytest.raises(Exception, match=r"3 images .*, train\.max_bad_images is 2"):
        run_on_ranks(_on_two_ranks, 2, world_size=2)


@pytest.mark.parametrize("kind", [DatasetMapper, InstanceDatasetMapper])
def test_an_elongated_image_is_no_bad_image_in_training_and_evaluation(tmp_path, kind):
    write(tmp_path / "thin.png", size=(1, 1000))
    record = {"file_name": str(tmp_path / "thin.png"), "image_id": 9, "height": 1000, "width": 1}
    record["annotations"] = [{"bbox": [0, 100, 1, 500], "bbox_mode": 1, "category_id": 0}]
    resize = T.ResizeShortestEdge([96], 160, "choice")
    trained, evaluated = (
        kind(is_train=train, augmentations=[resize], image_format="BGR") for train in (True, False)
    )
    sample = MappedDataset([record], trained)[0, 0]
    assert "_bad_images" not in sample
    assert sample["image"].shape == (3, 160, 1)
    assert sample["instances"].gt_boxes.tensor.tolist() == [[0, 16, 1, 96]]
    assert NamingMapper(evaluated)(record)["image"].shape == (3, 160, 1)
    assert isinstance(evaluated.augmentations.augs[0], T.ResizeShortestEdge)  # not changed
