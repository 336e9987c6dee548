"""The page to leaf through images: its data, missing images, and text of strangers."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.evaluation.analysis.error_kinds import KINDS
from d2_seesaw.evaluation.analysis.judging import read_judged
from d2_seesaw.report.images import page
from d2_seesaw.report.images.page import LONG_SIDE, write_image_page
from d2_seesaw.report.images.pictures import BANNER, draw_side_by_side
from d2_seesaw.report.images.selection import Selection
from tests.evaluation import small_results
from tests.report.test_hostile_text import HOSTILE, Elements


def make(folder, *, names=None, prefix="", missing=(), masks=True):
    """Write annotations, results and images; return the judged dataset and the image folder."""
    data = small_results.annotations(names=names)
    root = folder / "images"
    root.mkdir(exist_ok=True)
    for image in data["images"]:
        image["file_name"] = prefix + image["file_name"]
        if image["id"] not in missing:
            size = (image["width"], image["height"])
            Image.new("RGB", size, (200, 180, 90)).save(root / image["file_name"])
    found = small_results.results()
    found[0]["category_id"] = 2  # takes a cat for a dog
    found[1]["score"] = 0.1
    if not masks:
        for entry in (*data["annotations"], *found):
            del entry["segmentation"]
    annotations = small_results.write(folder / "val.json", data)
    results = small_results.write(folder / "results.json", found)
    return read_judged(annotations, results), ImageFolder(root)


def read(path):
    """Return the index of a page and the masks of its images."""
    text = path.read_text()
    index = json.loads(re.search(r'id="index">(.*?)</script>', text, re.S)[1])
    masks = re.findall(r'id="masks-\d+">(.*?)</script>', text, re.S)
    return text, index, [json.loads(block) for block in masks]


def test_a_page_has_all_objects_and_detections_with_their_kinds(tmp_path):
    dataset, folder = make(tmp_path)
    path = tmp_path / "page.html"
    assert write_image_page(path, dataset, [2, 0, 1], folder, min_score=0.2) == []
    text, index, masks = read(path)
    assert [image["id"] for image in index["images"]] == ["3", "1", "2"]
    assert [name for name, _, _ in index["classes"]] == ["cat", "dog", "emu"]
    for image, paths, number in zip(index["images"], masks, [2, 0, 1], strict=True):
        for side, entries in (("o", dataset.objects(number)), ("d", dataset.found(number))):
            found = [(e[0], KINDS[e[1]], e[2], e[3], e[4]) for e in image[side]]
            assert found == [(e.category, e.kind, e.score, e.other, e.box) for e in entries]
            assert [p[:1] for p in paths[side]] == ["M"] * len(entries)
    first = index["images"][1]
    assert [KINDS[e[1]] for e in first["o"]] == ["confused", "right", "right"]
    jpeg = base64.b64decode(re.search(r'id="jpeg-1">(.*?)</script>', text)[1])
    assert Image.open(io.BytesIO(jpeg)).size == (small_results.WIDTH, small_results.HEIGHT)


def test_many_images_are_files_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_EMBEDDED", 1)
    dataset, folder = make(tmp_path)
    write_image_page(tmp_path / "a page.html", dataset, range(4), folder, number=2)
    text, index, masks = read(tmp_path / "a page.html")
    assert 'id="jpeg-0"' not in text
    assert "img-src data: file:; script-src" in text
    assert index["files"] == "a%20page_files"
    files = sorted(path.name for path in (tmp_path / "a page_files").iterdir())
    assert files == ["0.jpg", "1.jpg"]
    assert len(masks) == len(index["images"]) == 2


def test_images_that_are_missing_or_of_another_size_are_left_out_and_named(tmp_path):
    dataset, folder = make(tmp_path, missing=[1])
    Image.new("RGB", (7, 9)).save(tmp_path / "images/000002.jpg")
    Image.new("RGB", (7, 9)).save(tmp_path / "secret.jpg")
    (tmp_path / "images/000003.jpg").unlink()
    (tmp_path / "images/000003.jpg").symlink_to(tmp_path / "secret.jpg")
    failures = write_image_page(tmp_path / "page.html", dataset, range(4), folder)
    _, index, _ = read(tmp_path / "page.html")
    assert [image["id"] for image in index["images"]] == ["4"]
    texts = ["000001.jpg", "it has 7 x 9 pixels, its annotations say 96 x 80", "outside"]
    assert [text in failure for text, failure in zip(texts, failures, strict=True)] == [True] * 3
    with pytest.raises(ValueError, match=r"none of 1 images can be shown, the first: .*000001"):
        write_image_page(tmp_path / "none.html", dataset, [0], folder)


def test_a_page_of_large_images_and_of_boxes_alone(tmp_path):
    dataset, folder = make(tmp_path, masks=False)
    assert dataset.task == "bbox"
    write_image_page(tmp_path / "page.html", dataset, [0], folder, number=1)
    _, _, (masks,) = read(tmp_path / "page.html")
    assert set(masks["o"] + masks["d"]) == {""}
    dataset.table.images[0].update(width=3 * LONG_SIDE, height=30)
    Image.new("RGB", (3 * LONG_SIDE, 30)).save(tmp_path / "images/000001.jpg")
    write_image_page(tmp_path / "page.html", dataset, [0], folder)
    text, index, _ = read(tmp_path / "page.html")
    assert index["images"][0]["size"] == [3 * LONG_SIDE, 30]
    jpeg = base64.b64decode(re.search(r'id="jpeg-0">(.*?)</script>', text)[1])
    assert Image.open(io.BytesIO(jpeg)).size == (LONG_SIDE, 10)


def test_text_of_strangers_adds_no_element_and_only_the_own_script_may_run(tmp_path):
    pages, hostile = [], " ".join(HOSTILE)
    for text in (hostile, "x" * len(hostile)):
        file = "<img src=x onerror=alert(1)> <!--" if text == hostile else "x" * 32
        names = {i: f"{text} {i}" for i in (1, 2, 3)}
        dataset, folder = make(tmp_path, names=names, prefix=file)
        path = tmp_path / "page.html"
        write_image_page(path, dataset, range(4), folder, title=text, subtitle=text)
        pages.append(path.read_text())
        _, index, _ = read(path)
        assert [name for name, _, _ in index["classes"]] == list(names.values())
        assert index["images"][0]["name"].startswith(file)
    assert Elements(pages[0]).elements == Elements(pages[1]).elements
    script = re.search(r"<script>(.*?)</script>", pages[0], re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'content="(default-src [^"]*)"', pages[0])[1]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )


def test_a_picture_shows_what_is_selected_left_and_right(tmp_path):
    dataset, _ = make(tmp_path)
    image = np.full((small_results.HEIGHT, small_results.WIDTH, 3), 128, np.uint8)
    blank = draw_side_by_side(image, dataset, 0, Selection(categories=set(), min_score=2.0))
    assert blank.shape == (small_results.HEIGHT + 2 * BANNER, 2 * small_results.WIDTH, 3)
    picture = draw_side_by_side(image, dataset, 0, Selection(kinds={"right"}, min_score=0.3))
    x, y, w, h = small_results.BOXES[3]
    row, column = BANNER + y + h // 2, x + w // 2
    for place in (column, small_results.WIDTH + column):  # the emu is right on both sides
        assert np.ptp(picture[row, place].astype(int)) > 20
    x, y, w, h = small_results.BOXES[2]
    row, column = BANNER + y + h // 2 + 5, x + w // 2  # the dog is missed: its score is 0.1
    for place in (column, small_results.WIDTH + column):
        assert np.ptp(picture[row, place].astype(int)) < 10
