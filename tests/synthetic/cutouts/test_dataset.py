"""Whole datasets of cut-outs: splits, counts, scenes, reproducibility and refusals."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest
from lvis import LVIS
from PIL import Image
from pycocotools import mask as mask_utils

from d2_seesaw.data.annotations.reader import read_annotations
from d2_seesaw.synthetic.cutouts import CutoutSources, CutoutSpec, generate_cutout_dataset
from d2_seesaw.synthetic.cutouts.categories import number_held_out, shuffled
from d2_seesaw.synthetic.cutouts.plan import own_scene_share, plan_images
from d2_seesaw.synthetic.profile import ListedProfile, LongTailProfile
from tests.synthetic.cutouts.conftest import COLORS, SPEC, ellipse, save

QUIET = {"processes": 1, "progress": False}
SMALL = replace(SPEC, num_train_images=4, num_val_images=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, sources):
    return generate_cutout_dataset(tmp_path_factory.mktemp("data"), sources, SPEC, **QUIET)


def content(dataset):
    return json.loads((dataset.root / "cutouts.json").read_text())


def test_every_mask_shows_the_color_of_a_cutout_of_its_category_and_split(dataset):
    seen = Counter()
    for split, path in (("train", dataset.train_json), ("val", dataset.val_json)):
        lvis = LVIS(str(path))
        allowed = {c["name"]: c[split] for c in content(dataset)["categories"]}
        for annotation in lvis.anns.values():
            encoded = lvis.ann_to_rle(annotation)
            assert mask_utils.area(encoded) == annotation["area"]
            assert mask_utils.toBbox(encoded).tolist() == annotation["bbox"]
            inside = cv2.erode(mask_utils.decode(encoded), np.ones((9, 9), np.uint8))
            if not inside.any():
                continue
            image = lvis.imgs[annotation["image_id"]]["file_name"]
            color = np.median(cv2.imread(str(dataset.root / image))[inside > 0], axis=0)[::-1]
            distances = {n: np.abs(color - c).max() for n, c in COLORS.items()}
            name = min(distances, key=distances.get)
            assert distances[name] < 16
            assert f"{name}.png" in allowed[lvis.cats[annotation["category_id"]]["name"]]
            seen[split] += 1
    assert min(seen.values()) > 10


def test_no_object_is_in_both_splits_and_mirrored_names_stay_together(dataset):
    categories = {c["name"]: c for c in content(dataset)["categories"]}
    assert dataset.category_names == list(categories) == ["birds", "fruit", "tools/big"]
    for category in categories.values():
        assert category["train"]
        assert category["val"]
        assert not set(category["train"]) & set(category["val"])
    axes = {"tools/big/axe.png", "tools/big/axe_mirror.png"}
    assert axes in [set(categories["tools/big"][split]) for split in ("train", "val")]


def test_variants_of_a_background_are_in_one_split(dataset):
    backgrounds = content(dataset)["backgrounds"]
    train, val = set(backgrounds["train"][0]), set(backgrounds["val"][0])
    assert len(train | val) == 4
    assert not train & val
    assert any({"hill-d.png", "hill-l.webp"} <= part for part in (train, val))


def test_copies_of_a_background_are_left_out_and_change_nothing(dataset, tmp_path, pictures):
    folder = tmp_path / "backgrounds"
    shutil.copytree(pictures / "backgrounds", folder)
    copies = [f"z{number}.png" for number in range(8)]
    for number, name in enumerate(copies):
        source = folder / ("sea.jpg" if number % 2 else "wood.png")
        save(folder / name, np.asarray(Image.open(source)))
    sources = CutoutSources(pictures / "cutouts", folder)
    made = generate_cutout_dataset(tmp_path / "data", sources, SPEC, **QUIET)
    reason = "same pixels as another, possibly mirrored (first: z0.png)"
    assert made.left_out[-1] == f"backgrounds: left out 8 pictures: {reason}"
    assert content(made) == content(dataset)
    assert made.annotations_sha256 == dataset.annotations_sha256

    ramp = np.arange(60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
    alone = tmp_path / "alone"
    for name, pixels in (("hill", ramp), ("hill copy", ramp), ("valley", ramp[:, ::-1])):
        save(alone / f"{name}.png", pixels)
    sources = CutoutSources(pictures / "cutouts", alone)
    made = generate_cutout_dataset(tmp_path / "one", sources, SMALL, **QUIET)
    assert content(made)["backgrounds"] == {s: [["hill copy.png"]] for s in ("train", "val")}


def test_training_follows_the_profile_exactly(dataset):
    planned = SPEC.profile.image_counts(3, 24).tolist()
    assert sorted(dataset.train_image_counts, reverse=True) == planned


def test_a_table_decides_the_training_images_of_each_category(tmp_path, sources):
    table = tmp_path / "images.csv"
    table.write_text('category, note,images\n"tools/big",x,5\nbirds,,24\n fruit ,, 1\n')
    profile = ListedProfile.from_table(table)
    made = generate_cutout_dataset(
        tmp_path / "data", sources, replace(SPEC, profile=profile), **QUIET
    )
    counts = dict(zip(made.category_names, made.train_image_counts, strict=True))
    assert counts == {"birds": 24, "fruit": 1, "tools/big": 5}
    again = generate_cutout_dataset(
        made.root, sources, replace(SPEC, profile=ListedProfile.from_table(table)), **QUIET
    )
    assert again.content_sha256 == made.content_sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("category,images\nbirds,24\nfruit,1\n", "of the categories is not in the profile: tools"),
        (
            "category,images\nbirds,24\nfruit,1\ntools/big,5\nfish,3\nbats,1\n",
            "of the profile are no category: bats, fish",
        ),
        (
            "category,images\nbirds,25\nfruit,1\ntools/big,5\n",
            "has 25 images of birds, but there are 24 training images",
        ),
        ("category,images\nbirds,0\n", "row 2: images must be a whole number of at least 1, got 0"),
        ("category,images\nbirds,1\nbirds,1\n", "row 3: birds is there twice"),
        ("category,images\nbirds,\n", "row 2: category or images is missing"),
        ("category,images\nbirds,²\n", "row 2: images must be a whole number"),
        ("category,image\nbirds,1\n", "the columns category and images; images is missing"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, sources, rows, message):
    table = tmp_path / "images.csv"
    table.write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        generate_cutout_dataset(
            tmp_path / "data",
            sources,
            replace(SPEC, profile=ListedProfile.from_table(table)),
            **QUIET,
        )


def test_categories_with_more_cutouts_can_be_more_frequent():
    spec = CutoutSpec(num_train_images=200, num_val_images=60, frequencies="cutouts")
    plan, _ = plan_images(spec, [2, 30, 5, 11])
    counts = Counter(c for job in plan["train"] for c in set(job.categories))
    assert sorted(counts, key=counts.get) == [0, 2, 3, 1]


def test_the_same_bytes_for_any_number_of_processes_and_place_of_the_pictures(
    dataset, tmp_path, pictures
):
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    again = generate_cutout_dataset(
        tmp_path / "data",
        CutoutSources(moved / "cutouts", moved / "backgrounds"),
        SPEC,
        processes=2,
        progress=False,
    )
    files = sorted(p.relative_to(again.root) for p in again.root.rglob("*") if p.is_file())
    assert len(files) == 39
    for name in files:
        assert (again.root / name).read_bytes() == (dataset.root / name).read_bytes()
    assert again.content_sha256 == dataset.content_sha256
    assert again.annotations_sha256 == dataset.annotations_sha256


def test_existing_data_are_recognized_and_other_pictures_or_options_refused(
    tmp_path, pictures, sources
):
    root = tmp_path / "data"
    first = generate_cutout_dataset(root, sources, SMALL, **QUIET)
    again = generate_cutout_dataset(root, sources, SMALL, **QUIET)
    assert (first.reused, again.reused) == (False, True)
    assert replace(again, reused=False) == first
    with pytest.raises(ValueError, match="seed is 0, requested 1"):
        generate_cutout_dataset(root, sources, replace(SMALL, seed=1), **QUIET)
    changed = tmp_path / "changed"
    shutil.copytree(pictures / "cutouts", changed)
    save(changed / "birds/duck.png", ellipse((1, 2, 3)))
    others = replace(sources, cutouts=changed)
    with pytest.raises(ValueError, match=r"other parameters: cutouts is \w+, requested \w+\."):
        generate_cutout_dataset(root, others, SMALL, **QUIET)
    other = generate_cutout_dataset(root, others, SMALL, overwrite=True, **QUIET)
    assert other.content_sha256 != first.content_sha256


def test_the_split_of_a_category_does_not_depend_on_other_names():
    few, many = [f"bird{i}" for i in range(9)], [f"bird{i}" for i in range(20)]
    assert [n for n in shuffled(many, 3) if n in few] == shuffled(few, 3)
    assert shuffled(few, 3) != shuffled(few, 4)
    assert [number_held_out(n, 0.25) for n in (2, 3, 4, 10)] == [1, 1, 1, 2]
    assert number_held_out(2, 0.99) == 1


def test_a_table_names_categories_and_few_pictures_are_reported(tmp_path, pictures):
    folder = tmp_path / "cutouts"
    shutil.copytree(pictures / "cutouts", folder)
    save(folder / "copy.png", ellipse(COLORS["birds/duck"], (36, 30), hole=True)[:, ::-1])
    save(folder / "photo.png", np.zeros((30, 30, 3), np.uint8))
    rows = ["birds/duck.png,red", "birds/goose.png,red", "fruit/apple.png,red", "copy.png,red"]
    rows += ["photo.png,red", "fruit/pear.png,green"]
    table = tmp_path / "table.csv"
    table.write_text("file,category\n" + "\n".join(rows), encoding="utf-8-sig")
    made = generate_cutout_dataset(
        tmp_path / "data", CutoutSources(folder, table=table), SMALL, **QUIET
    )
    assert made.category_names == ["red"]
    assert made.num_cutouts == {"train": 2, "val": 1}
    assert [line.split(": ", 1)[1] for line in made.left_out] == [
        "without transparency (first: photo.png)",
        "same pixels as another, possibly mirrored (first: copy.png)",
        "the only object of its category, none left for validation (first: fruit/pear.png)",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"t\.csv must have the columns .*; file and category are missing, got no columns"),
        ("name,category\n", r"; file is missing, got \['name', 'category'\]"),
        ("file,category\nbirds/duck.png,\n", "row 2: file or category is missing"),
        ("file,category\nbirds/owl.png,a\n", "row 2: there is no birds/owl.png"),
        (
            "file,category\nbirds/duck.png,a\nbirds/duck.png,b\n",
            "row 3: birds/duck.png has another category",
        ),
        *(
            (
                f"file,category\nbirds/duck.png,a\n{other},b\n",
                "row 3: .* has another category before, a",
            )
            for other in (
                "birds//duck.png",
                "./birds/./duck.png",
                "fruit/../birds/duck.png",
                "../cutouts/birds/duck.png",
                "{folder}/birds/duck.png",
                "birds\\duck.png",
            )
        ),
        ('file,category\n"new\nline\x1b.png",a\n', r"row 2: there is no new\\nline\\x1b\.png in"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, pictures, rows, message):
    folder = pictures / "cutouts"
    (tmp_path / "t.csv").write_text(rows.replace("{folder}", str(folder)))
    sources = CutoutSources(folder, table=tmp_path / "t.csv")
    with pytest.raises(ValueError, match=message):
        generate_cutout_dataset(tmp_path / "data", sources, SMALL, **QUIET)


def test_links_to_folders_and_names_with_control_characters_have_one_line_each(tmp_path, pictures):
    for part in ("cutouts", "backgrounds"):
        shutil.copytree(pictures / part, tmp_path / part)
        (tmp_path / part / "in circles").symlink_to(tmp_path / part)
        (tmp_path / part / "new\nline").symlink_to(pictures / "cutouts/birds")
        (tmp_path / part / "bad\n\x1b\u202e.png").write_bytes(b"no picture")
    (tmp_path / "cutouts/birds/linked.png").symlink_to(pictures / "cutouts/fruit/pear.png")
    chosen = CutoutSources(tmp_path / "cutouts", tmp_path / "backgrounds")
    made = generate_cutout_dataset(tmp_path / "data", chosen, SMALL, **QUIET)
    links = "left out 2 folders: links to folders are not followed (first: in circles)"
    bad = r"(first: bad\n\x1b\u202e.png)"
    assert made.left_out == [
        links,
        f"left out 1 picture: in no folder that names a category {bad}",
        "left out 1 picture: same pixels as another, possibly mirrored (first: fruit/pear.png)",
        "left out 1 picture: the only object of its category, none left for validation "
        "(first: fruit/apple.png)",
        f"backgrounds: {links}",
        f"backgrounds: left out 1 picture: cannot be read {bad}",
    ]


def test_names_are_those_that_annotations_can_have(tmp_path, pictures):
    for part in ("cutouts", "backgrounds"):
        shutil.copytree(pictures / part, tmp_path / part)
        old = os.fsencode(tmp_path / part) + b"/caf\xe9.png"  # as from an old archive
        save(tmp_path / "new.png", ellipse((9, 99, len(part))))
        os.rename(tmp_path / "new.png", old)
    shutil.copytree(tmp_path / "cutouts/tools/big", tmp_path / "cutouts/ birds")
    save(tmp_path / "cutouts/ birds/axe.png", ellipse((50, 60, 70)))
    save(tmp_path / "cutouts/ birds/saw.png", ellipse((50, 60, 90)))
    folder = os.fsencode(tmp_path / "cutouts") + b"/caf\xe9"
    shutil.copytree(os.fsencode(tmp_path / "cutouts/fruit"), folder)
    root, sources = tmp_path / "data", CutoutSources(tmp_path / "cutouts", tmp_path / "backgrounds")
    refused = r"the folder of caf\\udce9/apple\.png cannot name a category: caf\\udce9 is not text"
    with pytest.raises(ValueError, match=refused):
        generate_cutout_dataset(root, sources, SMALL, **QUIET)
    assert not root.exists()
    table = tmp_path / "t.csv"
    table.write_text("file,category\nbirds/duck.png,a\0b\n")
    with pytest.raises(ValueError, match=r"t\.csv, row 2 cannot name a category: a\\x00b is"):
        generate_cutout_dataset(root, replace(sources, table=table), SMALL, **QUIET)

    os.rename(os.fsencode(tmp_path / "cutouts") + b"/caf\xe9.png", folder + b"/caf\xe9.png")
    os.rename(folder, tmp_path / "cutouts/café")
    made = generate_cutout_dataset(root, sources, SMALL, **QUIET)
    named = msgspec.json.decode((root / "cutouts.json").read_bytes())
    used = {path for c in named["categories"] for path in (*c["train"], *c["val"])}
    assert r"café/caf\udce9.png" in used
    scenes = (scene for scenes in named["backgrounds"].values() for scene in scenes)
    assert any(r"caf\udce9.png" in scene for scene in scenes)
    names = [c["name"] for c in read_annotations(made.train_json).categories]
    assert names == made.category_names == [" birds", "birds", "café", "tools/big"]


@pytest.mark.parametrize("objects", [(2, 5), (1, 1)])
def test_images_without_objects_are_counted_with_the_reason(tmp_path, sources, objects):
    spec = replace(
        CutoutSpec(),
        num_train_images=40,
        num_val_images=15,
        image_size=(64, 64),
        objects_per_image=objects,
        not_exhaustive_probability=0,
    )
    made = generate_cutout_dataset(tmp_path / "data", sources, spec, **QUIET)
    counts, lines = {}, []
    for split, word in (("train", "training"), ("val", "validation")):
        lvis = LVIS(str(made.root / f"lvis_{split}.json"))
        numbers = [len(lvis.img_ann_map[image]) for image in lvis.imgs]
        few = sum(n < objects[0] for n in numbers)
        counts[split] = (len(numbers), numbers.count(0), few)
        lines.append(
            f"{word}: {numbers.count(0)} of {len(numbers)} images have no object, "
            f"{few} have fewer than {objects[0]}"
        )
    assert counts["train"][1] > 10
    summary = json.loads((made.root / "summary.json").read_text())["objects"]
    for split, expected in counts.items():
        found = summary["splits"][split]
        assert (found["images"], found["without_object"], found["below_lowest"]) == expected
    asked = sum(spec.profile.image_counts(3, 40))
    assert summary["lines"] == made.objects
    assert made.objects[:3] == [
        *lines,
        f"training: the profile asks for no more than {asked} appearances of categories in 40 "
        "images; to fill them, use more categories or the profile demo",
    ]
    again = generate_cutout_dataset(tmp_path / "data", sources, spec, **QUIET)
    assert (again.reused, again.objects) == (True, made.objects)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"cutouts": "backgrounds"}, r"no category with two usable cut-outs.*in no folder"),
        ({"cutouts": "missing"}, "cutouts must be a folder"),
        ({"backgrounds": "cutouts/none"}, "no usable background: no pictures were found"),
        ({"root": "cutouts/data"}, "where the pictures are"),
    ],
)
def test_unusable_folders_are_refused(tmp_path, pictures, folders, message):
    (pictures / "cutouts/none").mkdir(exist_ok=True)
    chosen = {"cutouts": "cutouts", "backgrounds": "backgrounds", "root": tmp_path, **folders}
    with pytest.raises(ValueError, match=message):
        generate_cutout_dataset(
            pictures / chosen["root"],
            CutoutSources(pictures / chosen["cutouts"], pictures / chosen["backgrounds"]),
            SMALL,
            **QUIET,
        )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("held_out", 1.0, "between 0 and 1"),
        ("scenes", 0, "at least 1"),
        ("scene_strength", 1.5, "between 0 and 1"),
        ("image_size", (16, 64), "at least 32"),
        ("objects_per_image", (3, 2), "fewest <= most"),
        ("frequencies", "many", "one of"),
    ],
)
def test_impossible_specifications_are_refused(field, value, expected):
    with pytest.raises(ValueError, match=f"{field} must be .*{expected}"):
        replace(SPEC, **{field: value})


SCENES = CutoutSpec(
    num_train_images=1500,
    num_val_images=50,
    objects_per_image=(6, 8),
    profile=LongTailProfile(1, 1, 1, head_share=0.15),
    scenes=4,
)


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
def test_categories_appear_in_their_scene_as_often_as_the_strength_says(strength):
    spec = replace(SCENES, scene_strength=strength)
    plan, of_category = plan_images(spec, [2] * 30)
    jobs = plan["train"]
    counts = np.bincount([c for job in jobs for c in set(job.categories)], minlength=30)
    planned = spec.profile.image_counts(30, 1500)
    assert sorted(counts) == sorted(planned)
    images = np.bincount([job.scene for job in jobs], minlength=4) / len(jobs)
    by_chance = float(counts @ images[of_category] / counts.sum())
    expected = strength + (1 - strength) * by_chance
    # The images of a category's own scene are fuller than others, which takes a little away.
    assert own_scene_share(jobs, of_category) == pytest.approx(expected, abs=0.04)


def test_with_scenes_both_splits_show_other_parts_of_the_same_backgrounds(tmp_path, pictures):
    folder = tmp_path / "backgrounds"
    ramp = np.zeros((100, 400, 3), np.uint8)
    ramp[..., 0] = np.arange(400) // 2
    for number in range(4):
        save(folder / f"{number}.png", ramp + np.uint8([0, 60 * number, 0]))
    spec = replace(SMALL, num_train_images=20, num_val_images=10, scenes=2, scene_strength=1.0)
    made = generate_cutout_dataset(
        tmp_path / "data", CutoutSources(pictures / "cutouts", folder), spec, **QUIET
    )
    kept = content(made)
    assert (
        kept["backgrounds"]["train"]
        == kept["backgrounds"]["val"]
        == [
            ["0.png", "1.png"],
            ["2.png", "3.png"],
        ]
    )
    red = {}
    for split in ("train", "val"):
        corners = []
        for path, scene in zip(
            sorted((made.root / split).iterdir()), kept["image_scenes"][split], strict=True
        ):
            picture = cv2.imread(str(path)).astype(int)
            free = [picture[y, x] for y in (0, -1) for x in (0, -1)]
            near = [p for p in free if abs(p[0]) < 5 and abs(p[1] - round(p[1] / 60) * 60) < 5]
            corners += [int(p[2]) for p in near]
            assert all((round(p[1] / 60) >= 2) == bool(scene) for p in near)
        red[split] = corners
    border = 200 * 0.75
    # JPEG mixes the colors of objects near a corner into a few of them.
    assert np.quantile(red["train"], 0.9) < border + 8
    assert np.quantile(red["val"], 0.1) > border - 8
