"""Lists of labeled images: every fault is named with its file and line."""

import itertools
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.data import (
    RepeatFactorSampling,
    build_train_loader,
    category_image_counts,
    load_dataset,
    read_image_list,
    register_image_list,
)
from d2_seesaw.data.classification import image_lists

TRAIN = """\
train/n01440764/n01440764_190.JPEG 0
train/n01440764/n01440764_191.JPEG 0
train/n02119789/n02119789_7.JPEG 1
"""
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path):
    image_lists._read_once.cache_clear()

    def write_list(text, name="list.txt", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_list


@pytest.fixture
def register(tmp_path, write):
    names = []

    def register_list(text, **options):
        name = f"image_list_test_{next(_numbers)}"
        path = write(text, f"{name}.txt")
        register_image_list(name, path, tmp_path, **options)
        names.append(name)
        return name

    yield register_list
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_reads_paths_and_labels(write):
    assert [tuple(entry) for entry in read_image_list(write(TRAIN))] == [
        ("train/n01440764/n01440764_190.JPEG", 0, 1),
        ("train/n01440764/n01440764_191.JPEG", 0, 2),
        ("train/n02119789/n02119789_7.JPEG", 1, 3),
    ]


def test_reads_spaces_in_paths_blank_lines_and_windows_files(write):
    text = "\ufeffa folder/a b.jpg 0\r\n\r\n  c.jpg\t12  \r\n"
    assert [tuple(entry) for entry in read_image_list(write(text))] == [
        ("a folder/a b.jpg", 0, 1),
        ("c.jpg", 12, 3),
    ]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "a.jpg 0\nb.jpg\n",
            {},
            "line 2: expected 'PATH LABEL' with a label from 0 on, got 'b.jpg'",
        ),
        ("a.jpg 0\n 3\n", {}, "line 2: expected 'PATH LABEL'.*got ' 3'"),
        ("a.jpg,0\n", {}, "line 1: expected 'PATH LABEL'.*got 'a.jpg,0'"),
        ("a.jpg -1\n", {}, "line 1: expected 'PATH LABEL' with a label from 0 on, got 'a.jpg -1'"),
        ("a.jpg 1.0\n", {}, "line 1: expected 'PATH LABEL'"),
        ("a.jpg 3\n", {"num_classes": 3}, r"line 1: the label must be in \[0, 2\], got 3"),
        ("a.jpg 0\nb.jpg 1\n./a.jpg 1\n", {}, "line 3: ./a.jpg is also in line 1"),
        ("\n \n", {}, "lists no images"),
        (b"\xff\xfe\x00", {}, "not a text file in UTF-8"),
        ("version https://git-lfs.github.com/spec/v1\n", {}, "pointer of Git LFS"),
        ("x\n" * 7, {}, r"line 5: .*; \.\.\. \(7 in total\)$"),
    ],
)
def test_a_fault_names_the_file_and_the_line(write, text, options, message):
    path = write(text)
    with pytest.raises(ValueError, match=message) as error:
        read_image_list(path, **options)
    assert str(error.value).startswith(str(path))


def test_a_list_that_does_not_exist_is_refused_before_anything_is_read(register, tmp_path):
    name = register(TRAIN)
    os.remove(tmp_path / f"{name}.txt")
    with pytest.raises(FileNotFoundError, match=rf"MISSING  .*{name}\.txt"):
        load_dataset(name)


def test_records_have_the_form_that_samplers_and_counts_read(register, tmp_path):
    name = register(TRAIN)
    (tmp_path / "train/n01440764").mkdir(parents=True)
    (tmp_path / "train/n02119789").mkdir(parents=True)
    data = load_dataset(name)
    assert data[2] == {
        "file_name": str(tmp_path / "train/n02119789/n02119789_7.JPEG"),
        "image_id": 2,
        "annotations": [{"category_id": 1}],
        "listed_at": f"{tmp_path / name}.txt:3",
    }
    assert category_image_counts(data, 2).tolist() == [2, 1]
    factors = RepeatFactorSampling(threshold=1.0).repeat_factors(data)
    assert factors.tolist() == pytest.approx([1.5**0.5, 1.5**0.5, 3**0.5])


def test_classes_are_named_by_their_folders(register):
    metadata = MetadataCatalog.get(register(TRAIN))
    assert metadata.thing_classes == ["n01440764", "n02119789"]
    assert metadata.class_image_count == [{"id": 0, "image_count": 2}, {"id": 1, "image_count": 1}]


@pytest.mark.parametrize(
    "text", ["x/a.jpg 0\ny/b.jpg 0\nz/c.jpg 1\n", "x/a.jpg 0\nx/b.jpg 1\n", "a 0\nb 1\n"]
)
def test_classes_without_a_folder_of_their_own_are_named_by_their_labels(register, text):
    assert MetadataCatalog.get(register(text)).thing_classes == ["0", "1"]


def test_given_names_are_kept(register):
    assert MetadataCatalog.get(register(TRAIN, classes=["tench", "fox"])).thing_classes == [
        "tench",
        "fox",
    ]


def test_an_evaluated_split_has_classes_and_counts_of_the_training_split(register):
    train = register(TRAIN)
    val = MetadataCatalog.get(register("val/x/1.JPEG 1\n", counts_from=train))
    assert val.thing_classes == ["n01440764", "n02119789"]
    assert [c["image_count"] for c in val.class_image_count] == [2, 1]


def test_gaps_in_the_classes_of_a_training_split_are_refused(register):
    name = register("a/1.jpg 0\nb/2.jpg 3\n")
    message = r"\.txt: 2 of 4 classes have no training image: 1, 2\. Labels must run from 0"
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get(name)
    with pytest.raises(ValueError, match="1 of 3 classes have no training image: 2"):
        DatasetCatalog.get(register(TRAIN, num_classes=3))


def test_labels_of_an_evaluated_split_must_be_classes_of_the_training_split(register):
    val = register("v/1.jpg 0\nv/2.jpg 2\n", counts_from=register(TRAIN))
    with pytest.raises(ValueError, match=r"line 2: the label must be in \[0, 1\], got 2"):
        DatasetCatalog.get(val)


def test_an_image_in_both_splits_is_refused(register):
    train = register(TRAIN)
    val = register("v/1.jpg 0\ntrain/./n02119789/n02119789_7.JPEG 1\n", counts_from=train)
    with pytest.raises(ValueError, match=rf"line 2: .*_7\.JPEG is also in .*{train}\.txt, line 3"):
        DatasetCatalog.get(val)


def test_a_missing_image_is_named_with_its_line(register, tmp_path):
    name = register(TRAIN)
    for folder, file in (("n01440764", "190"), ("n02119789", "7")):
        (tmp_path / "train" / folder).mkdir(parents=True)
        (tmp_path / "train" / folder / f"{folder}_{file}.JPEG").touch()
    with pytest.raises(FileNotFoundError, match=rf"1 of 3 .*_191\.JPEG \(.*{name}\.txt:2\)"):
        build_train_loader(
            load_dataset(name),
            mapper=lambda record: record,
            sampling=RepeatFactorSampling(),
            total_batch_size=1,
            num_workers=0,
            aspect_ratio_grouping=False,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["a"], "num_classes": 2}, "num_classes=2 but 1 class names"),
        ({"classes": ["a", "a"]}, "class name 'a' is given twice"),
        ({"counts_from": "x", "num_classes": 2}, "classes come from counts_from='x'"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(register, options, message):
    with pytest.raises(ValueError, match=message):
        register(TRAIN, **options)


def test_counts_from_must_name_a_training_split(register):
    train = register(TRAIN)
    val = register("v/1.jpg 0\n", counts_from=train)
    for wrong in ("nothing_of_that_name", "coco_2017_val", val):
        name = register("v/2.jpg 0\n", counts_from=wrong)
        with pytest.raises(ValueError, match=f"list of a training split, got '{wrong}'"):
            DatasetCatalog.get(name)


def test_registering_again_changes_nothing_unless_it_differs(register, tmp_path):
    name = register(TRAIN)
    register_image_list(name, tmp_path / f"{name}.txt", tmp_path)
    with pytest.raises(ValueError, match="already registered with"):
        register_image_list(name, tmp_path / "other.txt", tmp_path)


def test_imagenet_lt_is_registered():
    metadata = MetadataCatalog.get("imagenet_lt_test")
    assert metadata.list_file.endswith("imagenet_lt/ImageNet_LT_test.txt")
    assert metadata.counts_from == "imagenet_lt_train"
    assert MetadataCatalog.get("imagenet_lt_train").num_classes == 1000
