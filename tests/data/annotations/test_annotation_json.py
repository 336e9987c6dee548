import json
from array import array

import numpy as np
import pytest

from d2_seesaw.data.annotations import annotation_json
from d2_seesaw.data.annotations.annotation_json import is_finite, parse_compactly
from tests.data import own_data


@pytest.fixture
def parse(tmp_path):
    def parsed(text):
        (tmp_path / "a.json").write_text(text)
        return parse_compactly(tmp_path / "a.json")

    return parsed


def as_lists(content):
    """Arrays as the lists that json gives."""
    for annotation in content["annotations"]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            annotation["segmentation"] = [
                p.tolist() if isinstance(p, array) else p for p in segmentation
            ]
    return content


def random_content(seed):
    """Annotations in all forms that a file may have, right or wrong."""
    rng = np.random.default_rng(seed)

    def polygon():
        places = rng.integers(5)
        numbers = np.round(
            rng.uniform(-1 if places == 4 else 0, 700, 2 * rng.integers(1, 9)), places
        )
        return [int(n) if n == int(n) and rng.random() < 0.5 else float(n) for n in numbers]

    forms = [
        lambda: [polygon() for _ in range(rng.integers(1, 4))],
        lambda: [],
        lambda: [[]],
        lambda: [polygon(), []],
        lambda: [[1, "x"]],
        lambda: [[[1, 2], [3, 4]]],
        lambda: [1, 2.5],
        lambda: None,
        lambda: 3,
        lambda: own_data.compressed(own_data.mask_of(1, 1, 3)),
        lambda: own_data.uncompressed(own_data.mask_of(1, 1, 3)),
        lambda: [[float("nan"), 1.0]],
    ]
    annotations = [
        {"id": i, "bbox": polygon(), "segmentation": forms[rng.integers(len(forms) - 1)]()}
        for i in range(30)
    ]
    images = [{"id": 1, "file_name": '"segmentation": [[1, 2]].png', "neg_category_ids": [3]}]
    sections = {"annotations": annotations, "images": images, "categories": [{"id": 3}]}
    keys = rng.permutation(list(sections)).tolist()
    return {key: sections[key] for key in keys}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "form", [{}, {"indent": 1}, {"separators": (",", ":")}], ids=["plain", "indented", "dense"]
)
def test_the_content_is_that_of_json(parse, monkeypatch, seed, form):
    monkeypatch.setattr(annotation_json, "_CHARACTERS_PER_BLOCK", 200)
    text = json.dumps(random_content(seed), **form)
    assert as_lists(parse(text)) == json.loads(text)


def test_text_that_looks_like_a_mark_is_text(parse):
    text = json.dumps(
        {"annotations": [{"segmentation": s} for s in ([[1, 2.5]], "\0polygons 0", 3)]}
    )
    for written in (text, text.replace("polygons", "\\u0070olygons")):
        assert as_lists(parse(written)) == json.loads(text)


def test_polygons_are_arrays(parse):
    content = parse('{"annotations": [{"segmentation": [[1, 2.5, 3.25], [4,5]]}], "images": []}')
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == [array("d", [1, 2.5, 3.25]), array("d", [4, 5])]


def test_blocks_of_several_annotations_are_put_back_in_their_places(parse, monkeypatch):
    monkeypatch.setattr(annotation_json, "_CHARACTERS_PER_BLOCK", 200)
    polygons = [[[i, i + 0.5] for _ in range(1 + i % 3)] for i in range(100)]
    text = json.dumps({"annotations": [{"segmentation": s} for s in polygons]})
    assert as_lists(parse(text)) == json.loads(text)


def test_numbers_are_rounded_as_by_json(parse):
    numbers = np.random.default_rng(0).uniform(0, 1000, 3000)
    texts = [f"{n:.{i % 9}f}" for i, n in enumerate(numbers)]
    text = f'{{"annotations": [{{"segmentation": [[{", ".join(texts)}]]}}]}}'
    (polygon,) = parse(text)["annotations"][0]["segmentation"]
    assert polygon.tolist() == json.loads(text)["annotations"][0]["segmentation"][0]


@pytest.mark.parametrize(
    "polygons",
    [
        "[[1,,2]]",
        "[[,]]",
        "[[1 2, 3]]",
        "[[1, 2.]]",
        "[[1, 2]",
        "[1, 2]]",
        "[[1.2.3, 4]]",
        "[[ ]]]",
        "[[01, 2]]",
    ],
)
def test_broken_files_have_the_error_of_json(parse, polygons):
    text = f'{{"annotations": [{{"id": 1, "segmentation": {polygons}}}]}}'
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as error:
        parse(text)
    assert str(error.value) == str(expected.value)


def test_the_place_of_an_error_is_that_in_the_file(parse):
    sound = '{"annotations": [{"segmentation": [[1, 2, 3.25, 4]]}, {"segmentation": [[5, 6]]}'
    for text in (sound, sound + ", 01]}", sound + "]} x"):
        with pytest.raises(json.JSONDecodeError) as expected:
            json.loads(text)
        with pytest.raises(json.JSONDecodeError) as error:
            parse(text)
        assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "3",
        "{}",
        '{"annotations": {"segmentation": 1}}',
        '{"annotations": {"segmentation": [[1, 2]]}}',
        '{"images": [{"segmentation": [[1, 2]]}], "annotations": [{"segmentation": [[3, 4]]}]}',
        '{"annotations": [{"more": {"segmentation": [[1, 2]]}}]}',
        '{"annotations": [{"segmentation": [[1, 2]], "segmentation": [[3, 4]]}]}',
    ],
)
def test_other_content_is_that_of_json(parse, text):
    assert parse(text) == json.loads(text)


def test_a_number_beyond_all_pictures_is_left_to_the_reader(parse):
    polygon = f"[[{'9' * 400}, 1]]"
    content = parse(f'{{"annotations": [{{"segmentation": {polygon}}}]}}')
    (numbers,) = content["annotations"][0]["segmentation"]
    assert isinstance(numbers, list)  # the reader looks at lists alone
    assert not is_finite(numbers)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        *(([1, 2.5], True), ([], True), ([1e301], False), (["1"], False)),
        *(([-1e301], False), ([float("-inf")], False)),
        *(([float("nan"), 1], False), ([float("inf"), float("-inf")], False)),
    ],
)
def test_finite_numbers_are_told(numbers, expected):
    assert is_finite(numbers) is expected
