"""Classes are found by name; names that differ are refused and named."""

import logging

import pytest

from d2_seesaw.data.class_names import compare_names, counts_by_category

PLACES = {"source": "train.json", "target": "val.json"}


def test_equal_names_are_not_mentioned():
    found = compare_names(["cat", "dog", "dog"], ["cat", "dog", "dog"], **PLACES)
    assert (found.targets, found.message, found.is_complete) == ((0, 1, 2), "", True)


def test_another_order_is_mapped_and_said_in_one_line(caplog):
    with caplog.at_level(logging.INFO):
        found = compare_names(["cat", "dog", "emu"], ["dog", "emu", "cat"], **PLACES)
        found.log()
    assert found.targets == (2, 0, 1)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "val.json numbers its classes in another order than train.json: mapped by name"
    )


def test_a_part_of_the_names_is_mapped_with_a_warning(caplog):
    found = compare_names(["cat", "dog", "emu"], ["emu", "cat"], **PLACES)
    found.log()
    assert found.targets == (1, None, 0)
    assert caplog.records[0].levelno == logging.WARNING
    assert "2 of the 3 classes of train.json, mapped by name; it lacks 'dog'" in caplog.text


def test_other_names_are_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"only the former has 'Cat' \(1 of 2\), only the lat.* 'cat'"
    ):
        compare_names(["cat", "dog"], ["Cat", "dog"], **PLACES)
    with pytest.raises(ValueError, match=r"only the former has 'emu' \(1 of 3\)"):
        compare_names(["cat", "dog"], ["cat", "dog", "emu"], **PLACES)
    many = [f"class {i}" for i in range(40)]
    with pytest.raises(ValueError, match=r"'class 4' and 35 more \(40 of 40\)"):
        compare_names(["x"], many, **PLACES)


def test_a_name_of_several_classes_cannot_be_mapped():
    with pytest.raises(ValueError, match=r"train\.json has several classes with the name 'dog'"):
        compare_names(["cat", "dog", "dog"], ["dog", "cat"], **PLACES)


def categories(names, start=1, **fields):
    return [
        {"id": i, "name": name} | {key: values[i - start] for key, values in fields.items()}
        for i, name in enumerate(names, start=start)
    ]


def test_training_images_follow_the_names(caplog):
    counts = categories(["cat", "dog", "emu"], image_count=[5, 6, 7])
    renumbered = categories(["dog", "emu", "cat"], start=10)
    found = counts_by_category(renumbered, counts, "val.json", "train.json")
    assert found == {10: 6, 11: 7, 12: 5}
    with caplog.at_level(logging.INFO):
        same = categories(["cat", "dog", "emu"], start=10)
        assert counts_by_category(same, counts, "val.json", "train.json") == {10: 5, 11: 6, 12: 7}
    assert "val.json has other category ids than train.json: mapped by name" in caplog.text


def test_a_category_that_training_does_not_list_has_no_images():
    counts = categories(["cat", "dog"], image_count=[5, 6])
    found = counts_by_category(categories(["cat", "emu", "dog"]), counts, "val.json", "train.json")
    assert found == {1: 5, 2: 0, 3: 6}


def test_ids_count_if_only_one_file_has_names():
    counts = categories(["1", "2"], image_count=[5, 6])
    assert counts_by_category(categories(["cat", "dog"]), counts, "v", "t") == {1: 5, 2: 6}
