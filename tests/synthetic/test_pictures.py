"""Generated pictures: lists, long tail, determinism, completeness."""

import hashlib
import math
from collections import Counter

import cv2
import pytest

from d2_seesaw.data import read_image_list
from d2_seesaw.synthetic import ClassificationSpec, generate_classification_dataset

SMALL = ClassificationSpec(
    num_classes=5, most_images=12, fewest_images=2, val_images_per_class=2, image_size=(24, 32)
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return generate_classification_dataset(tmp_path_factory.mktemp("p"), SMALL, progress=False)


def digest(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_lists_name_all_pictures_with_a_long_tail_and_a_balanced_validation(generated):
    counts = {}
    for split in ("train", "val"):
        entries = read_image_list(generated.root / f"{split}.txt", num_classes=5)
        counts[split] = [n for _, n in sorted(Counter(e.label for e in entries).items())]
        for entry in entries:
            assert cv2.imread(str(generated.root / entry.path)).shape == (24, 32, 3)
            assert entry.path.split("/")[1] == generated.class_names[entry.label]
    expected = [round(12 * (2 / 12) ** (k / 4)) for k in range(5)]
    assert counts == {"train": expected, "val": [2] * 5}
    assert generated.train_counts == tuple(expected)


def test_the_default_has_classes_of_all_groups():
    counts = ClassificationSpec().train_counts()
    groups = Counter("many" if n > 100 else "medium" if n >= 20 else "few" for n in counts)
    assert groups == {"many": 4, "medium": 8, "few": 8}
    assert sum(counts) == pytest.approx(20 * 196 / math.log(50), rel=0.1)


def test_the_same_specification_gives_the_same_files(generated, tmp_path):
    again = generate_classification_dataset(tmp_path, SMALL, progress=False)
    assert digest(again.root) == digest(generated.root)
    assert generate_classification_dataset(tmp_path, SMALL, progress=False).reused
    (tmp_path / "train.txt").unlink()
    assert not generate_classification_dataset(tmp_path, SMALL, progress=False).reused


def test_other_data_are_not_overwritten(tmp_path):
    (tmp_path / "val.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"did not write, such as val\.txt"):
        generate_classification_dataset(tmp_path, SMALL, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"fewest_images": 300}, "most_images must be at least fewest_images, got 200"),
        ({"image_size": (8, 8)}, "image_size must be a height and a width of at least 16"),
    ],
)
def test_bad_specifications_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClassificationSpec(**options)
