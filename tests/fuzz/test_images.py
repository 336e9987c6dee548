"""Damaged images: named by the check, refused by prediction and training, or read by all three."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2_seesaw.data import InstanceDatasetMapper
from d2_seesaw.data.annotations.rules import ERROR
from d2_seesaw.data.bad_images import NamingMapper
from d2_seesaw.data.check.images import ImageFile, check_images
from d2_seesaw.inference.sources import read_picture
from tests.fuzz.harness import ENCODINGS, PLACE, outcome

H, W = 24, 32
DAMAGES = [name for name in ENCODINGS if name not in ("byte order mark", "UTF-16")]
MAPPER = InstanceDatasetMapper(is_train=False, augmentations=[], image_format="BGR")


def encoded(image_format, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, image_format)
    return file.getvalue()


FILES = {
    (image_format, mode): encoded(image_format, mode)
    for image_format, modes in {
        "PNG": ("RGB", "L", "P", "RGBA", "1"),
        "JPEG": ("RGB", "L", "CMYK"),
        "BMP": ("RGB",),
        "GIF": ("P",),
        "TIFF": ("RGB", "F"),
    }.items()
    for mode in modes
}


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it skips in a damaged file
@given(
    kind=st.sampled_from(sorted(FILES)),
    damages=st.lists(st.tuples(st.sampled_from(DAMAGES), PLACE), max_size=3),
)
def test_what_the_check_passes_is_read_everywhere(tmp_path_factory, kind, damages):
    data = FILES[kind]
    for damage, place in damages:
        if data:
            data = ENCODINGS[damage](data, place)
    path = tmp_path_factory.getbasetemp() / "fuzz.img"
    path.write_bytes(data)
    image = ImageFile(str(path), "fuzz.img", 7, H, W)
    issues, refused = outcome(check_images, [image], progress=False)
    assert refused is None
    assert issues is not None
    record = {"file_name": str(path), "image_id": 7, "height": H, "width": W}
    _, refused_by_prediction = outcome(read_picture, str(path), "BGR")
    _, refused_by_training = outcome(NamingMapper(MAPPER), record)
    if not any(issue.severity == ERROR for issue in issues):
        assert refused_by_prediction is None
        assert refused_by_training is None
    if refused_by_training is not None:
        assert "fuzz.img" in refused_by_training
        assert "7" in refused_by_training
