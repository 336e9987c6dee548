import pytest
from detectron2.utils.events import EventStorage


@pytest.fixture
def storage():
    with EventStorage(0) as storage:
        yield storage
