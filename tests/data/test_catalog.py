import copy
import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.datasets import load_coco_json
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils.logger import _LOG_COUNTER

from d2_seesaw.data import (
    RepeatFactorSampling,
    build_train_loader,
    catalog,
    check_dataset_files,
    load_dataset,
    load_longtail_json,
    register_longtail_instances,
)
from d2_seesaw.data.annotations.records import Records
from d2_seesaw.data.catalog import image_paths
from tests.data import own_data

TRAIN, VAL = "tests_own_v1_train", "tests_own_v1_val"


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in (TRAIN, VAL):
        for known in (DatasetCatalog, MetadataCatalog):
            if name in known:
                known.remove(name)


@pytest.fixture
def data():
    return own_data.content()


def register(folder, data=None, name=TRAIN, metadata=None, **options):
    json_file = own_data.write(folder, data, f"{name}.json")
    register_longtail_instances(name, metadata, json_file, folder / "images", **options)
    return json_file


def test_any_name_and_ids_load_as_detectron2_loads_coco(tmp_path):
    json_file = register(tmp_path)
    ours = load_dataset(TRAIN)
    host = load_coco_json(str(json_file), str(tmp_path / "images"), "tests_own_host")
    MetadataCatalog.remove("tests_own_host")
    assert [r["image_id"] for r in ours] == [3, 5, 12, 90]
    assert not isinstance(ours, list)
    assert DatasetCatalog.get(TRAIN) == list(ours)
    for record in host:
        for annotation in record["annotations"]:
            assert annotation.pop("iscrowd") == 0
            rle = annotation["segmentation"]
            if isinstance(rle, dict) and isinstance(rle["counts"], bytes):
                rle["counts"] = rle["counts"].decode()
    assert list(ours) == host


def test_names_ids_and_counts_come_from_the_file(tmp_path):
    register(tmp_path)
    metadata = MetadataCatalog.get(TRAIN)
    assert metadata.thing_classes == list(own_data.NAMES)
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 40: 1, 1000: 2}
    assert metadata.class_image_count == [
        {"id": 7, "image_count": 3},
        {"id": 40, "image_count": 2},
        {"id": 1000, "image_count": 1},
    ]
    assert metadata.evaluator_type == "lvis"
    assert metadata.image_root == str(tmp_path / "images")


def test_it_loads_as_detectron2_loads_lists(tmp_path, data, caplog):
    data["annotations"][-1]["iscrowd"] = 1
    register(tmp_path, data)
    with caplog.at_level(logging.INFO):
        ours = load_dataset(TRAIN)
        mine = [r.getMessage() for r in caplog.records]
        assert isinstance(ours, Records)
        caplog.clear()
        host = get_detection_dataset_dicts(TRAIN)
        theirs = [r.getMessage() for r in caplog.records]
    assert len(host) == 3
    assert list(ours) == host
    assert "Removed 1 images with no usable annotations. 3 images left." in {*mine} & {*theirs}
    # Detectron2 joins several datasets to one list.
    register(tmp_path, None, VAL)
    several = load_dataset([TRAIN, VAL], filter_empty=False)
    parts = [r for name in (TRAIN, VAL) for r in load_dataset(name, filter_empty=False)]
    assert several == parts


def test_a_dataset_without_objects_or_images_is_refused(tmp_path, data):
    data["annotations"] = []
    register(tmp_path, data)
    with pytest.raises(ValueError, match="cannot be used: 1 problem: it has no annotations"):
        load_dataset(TRAIN)
    assert len(load_dataset(TRAIN, filter_empty=False)) == 4


def test_annotations_and_images_must_be_given(tmp_path):
    for given in ({"json_file": "a.json"}, {"image_root": tmp_path}):
        with pytest.raises(ValueError, match=f"{TRAIN}' needs a json_file and an image_root"):
            register_longtail_instances(TRAIN, **given)


@pytest.mark.parametrize("by", ["name", "file"])
def test_validation_data_use_the_counts_of_the_training_data(tmp_path, data, by):
    val = copy.deepcopy(data)
    val["annotations"] = val["annotations"][-1:]
    val["categories"].append({"id": 2000, "name": "only here"})
    json_file = tmp_path / f"{TRAIN}.json"
    register(tmp_path, val, VAL, counts_from=TRAIN if by == "name" else json_file)
    assert register(tmp_path) == json_file  # registered later: the order does not matter
    counts = {c["id"]: c["image_count"] for c in MetadataCatalog.get(VAL).class_image_count}
    assert counts == {7: 3, 40: 2, 1000: 1, 2000: 0}


def test_image_counts_in_the_file_are_training_counts(tmp_path, data):
    for category in data["categories"]:
        category["image_count"] = 100 + category["id"]
    register(tmp_path, data)
    counts = {c["id"]: c["image_count"] for c in MetadataCatalog.get(TRAIN).class_image_count}
    assert counts == {7: 107, 40: 140, 1000: 1100}


def test_counts_of_training_data_take_precedence_over_those_in_the_file(tmp_path, data):
    for category in data["categories"]:
        category["image_count"] = 100
    register(tmp_path)
    register(tmp_path, data, VAL, counts_from=TRAIN)
    counts = {c["id"]: c["image_count"] for c in MetadataCatalog.get(VAL).class_image_count}
    assert counts == {7: 3, 40: 2, 1000: 1}


def test_image_counts_of_only_some_categories_are_ignored(tmp_path, data):
    data["categories"][0]["image_count"] = 100
    register(tmp_path, data)
    counts = {c["id"]: c["image_count"] for c in MetadataCatalog.get(TRAIN).class_image_count}
    assert counts == {7: 3, 40: 2, 1000: 1}


def test_images_are_counted_once(tmp_path, monkeypatch):
    register(tmp_path)
    count, calls = catalog.file_image_counts, []

    def counted(json_file):
        calls.append(json_file)
        return count(json_file)

    monkeypatch.setattr(catalog, "file_image_counts", counted)
    assert MetadataCatalog.get(TRAIN).class_image_count
    assert MetadataCatalog.get(TRAIN).class_image_count
    assert len(calls) == 1


def test_counts_of_other_categories_are_refused(tmp_path, data):
    register(tmp_path)
    data["categories"][0]["name"] = "lamp"
    register(tmp_path, data, VAL, counts_from=TRAIN)
    with pytest.raises(ValueError, match=r"only the former has 'lamp' .* the latter 'hydrant'"):
        MetadataCatalog.get(VAL).get("class_image_count")


def test_an_unknown_source_of_counts_names_the_nearest_dataset(tmp_path):
    register(tmp_path)
    register(tmp_path, None, VAL, counts_from="tests_own_v1_trian")
    with pytest.raises(ValueError, match=f"got 'tests_own_v1_trian'; did you mean '{TRAIN}'"):
        _ = MetadataCatalog.get(VAL).class_image_count


def test_counts_from_a_folder_or_from_data_without_annotations_are_refused(tmp_path):
    for number, source in enumerate((tmp_path, VAL)):
        DatasetCatalog.register(VAL, list)  # such as label maps
        register(tmp_path, None, f"{TRAIN}_{number}", counts_from=source)
        try:
            with pytest.raises(ValueError, match="must be a registered dataset with annotations"):
                _ = MetadataCatalog.get(f"{TRAIN}_{number}").class_image_count
        finally:
            for name in (VAL, f"{TRAIN}_{number}"):
                DatasetCatalog.remove(name)
            MetadataCatalog.remove(f"{TRAIN}_{number}")


def test_polygons_and_both_encodings_are_equal_masks(tmp_path):
    register(tmp_path)
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    masks = {}
    for record in load_dataset(TRAIN):
        instances = mapper(record)["instances"]
        kerb_masks = instances.gt_masks.tensor[instances.gt_classes == 0]
        masks[record["image_id"]] = kerb_masks[:1]
    expected = torch.from_numpy(own_data.mask_of(4, 4, 8)).bool()[None]
    for image_id in (3, 5, 12):
        torch.testing.assert_close(masks[image_id], expected)


def test_repeat_factor_sampling_and_the_training_loader_take_the_records(tmp_path):
    register(tmp_path)
    records = load_dataset(TRAIN)
    sampling = RepeatFactorSampling(threshold=0.5)
    # 1000 is in 1 of 4 images, so sqrt(0.5 / 0.25); all other images hold more frequent ones.
    torch.testing.assert_close(sampling.repeat_factors(records), torch.tensor([1, 1, 1, 2**0.5]))
    loader = build_train_loader(
        records,
        mapper=DatasetMapper(
            is_train=True,
            augmentations=[],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        ),
        sampling=sampling,
        total_batch_size=2,
        num_workers=0,
    )
    batch = next(iter(loader))
    assert all(len(image["instances"]) for image in batch)


@pytest.mark.parametrize("filter_empty", [True, False])
def test_factors_and_histogram_are_those_of_detectron2_for_the_same_dicts(
    tmp_path, data, caplog, filter_empty
):
    rng = np.random.default_rng(1)
    data["images"] = [{**data["images"][0], "id": i} for i in rng.permutation(60).tolist()]
    data["annotations"] = [
        {
            **own_data.annotation(i, int(rng.integers(50)), own_data.IDS[int(rng.choice(3, p=p))]),
            "iscrowd": int(rng.random() < 0.2),
        }
        for i, p in enumerate([(0.8, 0.15, 0.05)] * 90)
    ]
    register(tmp_path, data)
    logging.getLogger("detectron2.data.build").setLevel(logging.INFO)
    _LOG_COUNTER.clear()
    records = load_dataset(TRAIN, filter_empty=filter_empty)[5:]
    (histogram,) = [m for m in caplog.messages if m.startswith("Distribution")]
    caplog.clear()
    dicts = load_dataset(TRAIN, filter_empty=filter_empty).to_list()
    _LOG_COUNTER.clear()
    print_instances_class_histogram(dicts, own_data.NAMES)
    assert caplog.messages == [histogram]
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts[5:], 0.6)
    found = RepeatFactorSampling(threshold=0.6).repeat_factors(records)
    assert torch.equal(found, expected)
    assert len(found.unique()) >= 3


def test_a_file_is_parsed_once_for_records_and_names(tmp_path, monkeypatch):
    register(tmp_path)
    read, calls = catalog.read_annotations, []

    def counted(json_file, **options):
        calls.append(json_file)
        return read(json_file, **options)

    monkeypatch.setattr(catalog, "read_annotations", counted)
    monkeypatch.setattr(catalog, "read_categories", counted)
    load_dataset(TRAIN)
    assert MetadataCatalog.get(TRAIN).thing_classes
    assert len(calls) == 1


def test_nothing_is_read_on_registration_and_missing_files_are_listed(tmp_path):
    register_longtail_instances(TRAIN, {}, tmp_path / "none.json", tmp_path / "none")
    with pytest.raises(FileNotFoundError) as error:
        check_dataset_files([TRAIN])
    assert f"MISSING  {tmp_path / 'none.json'}" in str(error.value)


def test_metadata_are_added_to_those_that_were_set_before(tmp_path):
    MetadataCatalog.get(TRAIN).set(thing_colors=[(1, 2, 3)])
    register(tmp_path, metadata={"evaluator_type": "coco", "licence": "mine"})
    metadata = MetadataCatalog.get(TRAIN)
    assert (metadata.evaluator_type, metadata.licence) == ("coco", "mine")
    assert metadata.thing_colors == [(1, 2, 3)]
    assert metadata.name == TRAIN
    assert metadata.get("nothing_of_this_name") is None


def test_registering_again_changes_nothing_and_other_files_are_an_error(tmp_path):
    json_file = register(tmp_path)
    register(tmp_path)
    with pytest.raises(ValueError, match=f"'{TRAIN}' is already registered with .*image_root"):
        register_longtail_instances(TRAIN, None, json_file, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"counts_from': None.*not .*counts_from': 'x'"):
        register_longtail_instances(TRAIN, None, json_file, tmp_path / "images", counts_from="x")


def test_metadata_that_the_file_decides_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must leave out thing_classes"):
        register(tmp_path, metadata={"thing_classes": ["a"]})
    with pytest.raises(ValueError, match="must leave out image_root, name"):
        register(tmp_path, metadata={"image_root": "a", "name": "b"})
    with pytest.raises(ValueError, match="counts_from or the class_image_count"):
        register(tmp_path, metadata={"class_image_count": []}, counts_from="x")
    assert TRAIN not in DatasetCatalog.list()


def test_a_given_class_image_count_is_used(tmp_path):
    counts = [{"id": i, "image_count": 500} for i in own_data.IDS]
    register(tmp_path, metadata={"class_image_count": counts})
    assert MetadataCatalog.get(TRAIN).class_image_count == counts


@pytest.mark.parametrize("url", ["http://x.invalid/a/part/{}.png", "http://x.invalid/{}.png"])
def test_images_without_a_file_name_are_found_by_the_end_of_the_url(tmp_path, data, url):
    json_file = own_data.write(tmp_path, data)
    root = tmp_path / "images" / ("" if "part" in url else "part")
    for image in data["images"]:
        del image["file_name"]
        image["coco_url"] = url.format(image["id"])
    json_file.write_text(json.dumps(data))
    expected = str(tmp_path / "images" / "part" / "3.png")
    assert load_longtail_json(json_file, root)[0]["file_name"] == expected


def test_the_url_is_used_if_the_file_name_does_not_exist(tmp_path, data):
    json_file = own_data.write(tmp_path, data)
    for image in data["images"]:
        image["coco_url"] = f"http://x.invalid/{image['file_name']}"
        image["file_name"] = f"COCO_train_{image['id']}.png"
    json_file.write_text(json.dumps(data))
    (record, *_) = load_longtail_json(json_file, tmp_path / "images")
    assert record["file_name"] == str(tmp_path / "images" / "part" / "3.png")
    # Without any image, the file names of the annotations are used.
    (record, *_) = load_longtail_json(json_file, tmp_path)
    assert record["file_name"] == str(tmp_path / "COCO_train_3.png")


def test_twenty_evenly_spaced_images_decide_where_the_images_are(tmp_path, monkeypatch):
    images = [{"file_name": f"no/{i}.png", "coco_url": f"x/part/{i}.png"} for i in range(400)]
    (tmp_path / "part").mkdir()
    for i in range(200, 400):
        (tmp_path / "part" / f"{i}.png").touch()
    looked_for = []

    def exists(path):
        looked_for.append(path)
        return (tmp_path / path).is_file()

    monkeypatch.setattr(catalog.os.path, "exists", exists)
    assert image_paths(images, tmp_path)(images[0]) == str(tmp_path / "part" / "0.png")
    assert len(set(looked_for)) <= 3 * 20


def test_one_image_found_by_its_name_is_enough(tmp_path):
    images = [{"file_name": f"a/{i}.png", "coco_url": f"x/b/{i}.png"} for i in range(4)]
    for name in ("a/2.png", *(f"b/{i}.png" for i in range(4))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_paths(images, tmp_path)(images[0]) == str(tmp_path / "a" / "0.png")


def test_images_without_a_file_name_are_not_found_by_it(tmp_path):
    """Guard against an empty name, which would find the image folder itself."""
    images = [{"file_name": "old/0.png", "coco_url": "x/b/0.png"}, {"coco_url": "x/b/1.png"}]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/0.png").touch()
    assert image_paths(images, tmp_path)(images[0]) == str(tmp_path / "b" / "0.png")


def test_federated_fields_are_kept_if_present(tmp_path, data):
    data["images"][1]["neg_category_ids"] = [1000, 7]
    (first, second, *_) = load_longtail_json(own_data.write(tmp_path, data), tmp_path / "images")
    assert first["neg_category_ids"] == [1000, 7]
    assert first["negative_classes"] == [2, 0]
    assert second["neg_category_ids"] == second["negative_classes"] == []
    del data["images"][1]["neg_category_ids"]
    (first, *_) = load_longtail_json(own_data.write(tmp_path, data), tmp_path / "images")
    assert not {"neg_category_ids", "negative_classes"} & first.keys()


def test_annotations_without_a_usable_mask_are_left_out_with_a_warning(tmp_path, data, caplog):
    data["annotations"][1]["segmentation"] = [[1, 1, 5, 5]]
    data["annotations"][4]["segmentation"] = []
    with caplog.at_level(logging.WARNING):
        records = load_longtail_json(own_data.write(tmp_path, data), tmp_path / "images")
    assert sum(len(r["annotations"]) for r in records) == 5
    assert "1 x no segmentation" in caplog.text
    assert "1 x a polygon of fewer than three points" in caplog.text
