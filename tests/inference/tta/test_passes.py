import numpy as np
import pytest
import torch

from d2_seesaw.inference.tta import views as views_module
from d2_seesaw.inference.tta.views import ViewRunner, views_of
from tests.inference.models import Oracle


def passes(**options):
    image = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    views = views_of((20, 30), (20, 30), [(10, 15), (20, 30), (40, 60)], flip=True)
    return ViewRunner(Oracle(), image, views, **options)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 6), (4, [4, 2]), (99, [6])])
def test_views_are_run_in_batches_and_come_back_in_order(batch_size, sizes):
    seen = []

    def run(views, inputs):
        seen.append(len(inputs))
        return [
            (view.number, given["image"].shape) for view, given in zip(views, inputs, strict=True)
        ]

    run_over = passes(batch_size=batch_size)
    results = list(run_over.run(run))
    assert seen == sizes
    assert [view for view, _ in results] == run_over.views
    assert [result for _, result in results] == [(v.number, (3, *v.size)) for v in run_over.views]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_view_and_its_mirror_image_are_resized_together(monkeypatch, batch_size):
    given, sizes = passes(batch_size=batch_size), []

    def resize(image, size, resize=views_module.resize):
        sizes.append(size)
        return resize(image, size)

    monkeypatch.setattr(views_module, "resize", resize)
    run = given.run(lambda views, inputs: [one["image"] for one in inputs])
    images = {(view.size, view.mirrored): image for view, image in run}
    assert sizes == [(10, 15), (20, 30), (40, 60)]
    assert len(images) == 6
    for (size, mirrored), image in images.items():
        assert torch.equal(image, images[size, not mirrored].flip(2))


def test_batches_are_run_lazily():
    calls = []
    results = passes().run(lambda views, inputs: [calls.append(1)])
    assert calls == []
    next(results)
    assert calls == [1]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_autocast_is_used_on_request(dtype):
    def run(views, inputs):
        return [torch.ones(2, 2) @ torch.ones(2, 2) for _ in views]

    results = [result.dtype for _, result in passes(amp_dtype=dtype).run(run)]
    assert set(results) == {dtype or torch.float32}
