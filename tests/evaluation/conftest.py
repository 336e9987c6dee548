import itertools

import pytest
from detectron2.data import MetadataCatalog

from tests.evaluation.lvis_data import write_json

_numbers = itertools.count()


@pytest.fixture
def register(tmp_path):
    """Return a function that registers data for the test and returns their unique name."""
    names = []

    def register_data(data, **metadata):
        name = f"longtail_eval_test_{next(_numbers)}"
        json_file = write_json(tmp_path / f"{name}.json", data)
        MetadataCatalog.get(name).set(json_file=str(json_file), **metadata)
        names.append(name)
        return name

    yield register_data
    for name in names:
        MetadataCatalog.remove(name)
