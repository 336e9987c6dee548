"""Pickled weights of Detectron2's model zoo, as NumPy 1 and 2 and Python 2 write them."""

import copy
import io
import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.pickles import read_model_zoo_file, read_pickle

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i8"),
    "half": np.array([0.5, -2], dtype=np.float16),
    "truth": np.array([True, False]),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "no axes": np.array(3.5),
    "scalar": np.float32(1.5),
}


def as_numpy_1(data):
    """Return a pickle with NumPy 1's names of modules: protocols 0 to 3 write them as lines."""
    return data.replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("numpy_1", [False, True])
def test_arrays_and_containers_are_read_exactly(tmp_path, protocol, numpy_1):
    content = {"arrays": ARRAYS, "list": [1, 2.5, "é", b"\xff", b"", None, True, (1, [2])], 3: "x"}
    content["same"] = content["list"]
    data = pickle.dumps(OrderedDict(content), protocol)
    if numpy_1:
        data = as_numpy_1(data)
        assert protocol > 3 or b"numpy._core" not in data
    (tmp_path / "w.pkl").write_bytes(data)
    found = read_pickle(tmp_path / "w.pkl")
    assert type(found) is OrderedDict
    for name, array in ARRAYS.items():
        assert np.array_equal(found["arrays"][name], array), name
        assert np.asarray(found["arrays"][name]).dtype == array.dtype.newbyteorder("="), name
        assert torch.as_tensor(np.asarray(found["arrays"][name])).numel() == array.size
    assert found["list"] == content["list"]
    assert found["same"] is found["list"]
    assert found[3] == "x"


def test_python_2_wrote_bytes_as_text(tmp_path):
    """Protocol 2 of Python 2, as the files of Caffe2 and Detectron have it."""
    array = np.array([1.5, -2.25], dtype="<f4")
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + array.tobytes() + b"tbs."
    )
    (tmp_path / "w.pkl").write_bytes(data)
    expected = pickle.loads(data, encoding="latin1")
    assert np.array_equal(expected["w"], array)
    assert np.array_equal(read_pickle(tmp_path / "w.pkl")["w"], array)


def dtype_with(**state):
    class Tampered:
        def __reduce__(self):
            array = np.zeros(2, np.float32).__reduce__()
            ((version, _, kind, is_fortran, _), given) = array[2], dict(state)
            shape, data = given.get("shape", (2,)), given.get("data", bytes(8))
            return array[0], array[1], (version, shape, given.get("kind", kind), is_fortran, data)

    return Tampered()


FAULTS = {
    "objects": (np.array([{}], dtype=object), "array of Python objects"),
    "records": (np.zeros(2, dtype=[("a", "f4")]), "type 'V4'"),
    "text": (np.array(["abc"]), "type 'U3'"),
    "dates": (np.array(["2020"], dtype="M8[Y]"), "type 'M8'"),
    "complex": (np.zeros(2, dtype=complex), "type 'c16'"),
    "a huge shape": (dtype_with(shape=(10**12,)), r"shape \(1000000000000,\) with 8 bytes"),
    "a negative shape": (dtype_with(shape=(-1, -2)), r"shape \(-1, -2\)"),
    "a shape of text": (dtype_with(shape=("a",)), "shape"),
    "data that are a list": (dtype_with(data=[1, 2]), "array of Python objects"),
    "a dtype that is text": (dtype_with(kind="f4"), "array of Python objects"),
    "a tensor": (torch.ones(1), "it names torch._utils._rebuild_tensor_v2"),
    "a set": ({1}, "set"),
    "a key of another type": ({None: 1}, "a key of type NoneType"),
    "a slice": (slice(1), r"it names \w+.slice"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_everything_else_is_refused(tmp_path, name, protocol):
    content, message = FAULTS[name]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": content}, protocol))
    with pytest.raises(ValueError, match=message):
        read_pickle(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a pickle of arrays"),
        (b"no pickle", "not a pickle of arrays"),
        (pickle.dumps(ARRAYS)[:200], "not a pickle of arrays"),
        (b"\x80\x04" + b"]" * 3000 + b"a" * 2999 + b".", "nested more than 50 levels"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.", "not a pickle of arrays"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "not a pickle of arrays"),  # 1 TiB
        (b"\x80\x04N" + b"r\xff\xff\xff\xff.", "expected a dictionary"),  # index 2 ** 32 - 1
        (b"\x80\x04K\x01.", "expected a dictionary of arrays, got a int"),
        (pickle.dumps({"blobs": 3}), "expected a dictionary of arrays, got a int"),
    ],
)
def test_damaged_and_other_files_are_named_without_using_memory(tmp_path, data, message):
    (tmp_path / "w.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_model_zoo_file(tmp_path / "w.pkl")


def test_a_list_that_contains_itself_and_shared_lists_are_read_once(tmp_path):
    loop = []
    loop.append(loop)
    shared = [1.5]
    for _ in range(40):
        shared = [shared, shared]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"loop": loop, "shared": shared}))
    found = read_pickle(tmp_path / "w.pkl")
    assert found["loop"][0] is found["loop"]
    assert found["shared"][0] is found["shared"][1]


def backbone():
    return ResNet(BasicStem(3, 64), ResNet.make_default_stages(18))


def test_a_backbone_of_the_model_zoo_is_matched_by_its_names(tmp_path):
    """The form of ``detectron2://ImageNetPretrained/MSRA/R-50.pkl``, of an R-18."""
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(size=tuple(value.shape)).astype(np.float32)
        for name, value in backbone().state_dict().items()
        if value.is_floating_point()
    }
    weights |= {"stem.fc.weight": np.zeros((3, 2), np.float32)}  # a classifier, as R-50.pkl has
    content = {"model": weights, "__author__": "Facebook AI", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, 2))
    model = nn.ModuleDict({"bottom_up": backbone()})
    StrictCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    loaded = model["bottom_up"].state_dict()
    for name in weights.keys() - {"stem.fc.weight"}:
        assert torch.equal(loaded[name], torch.as_tensor(weights[name])), name


def test_weights_of_caffe2_are_renamed(tmp_path):
    content = {"blobs": {"conv1_w": np.full((64, 3, 7, 7), 2.5, np.float32)}}
    content["blobs"] |= {"conv1_w_momentum": np.zeros(1, np.float32), "weight_order": "RGB"}
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps(content, 2))
    model = backbone()
    StrictCheckpointer(model).load(str(tmp_path / "c2.pkl"))
    assert (model.stem.conv1.weight == 2.5).all()


def test_faults_in_pickled_weights_are_named(tmp_path):
    weights = {"weight": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "x"}))
    with pytest.raises(
        ValueError, match=r"w\.pkl cannot be read: .* weight: 4 of 4 values are NaN"
    ):
        StrictCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "w.pkl"))


def test_a_pickle_cannot_change_the_reader_for_the_next_file(tmp_path):
    (tmp_path / "good.pkl").write_bytes(good := pickle.dumps(ARRAYS))
    names = [arg for _, arg, _ in pickletools.genops(good) if arg in ("_reconstruct", "ndarray")]
    assert names
    for name in ("numpy ndarray", "numpy dtype", "numpy._core.multiarray _reconstruct"):
        module, attribute = name.split()
        # The global, then its state: a new value of its attribute ``__setstate__``.
        state = pickle.dumps((None, {"__setstate__": 5, "__init__": 5}))[:-1][2:]
        file = io.BytesIO()
        file.write(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + state + b"b.")
        (tmp_path / "bad.pkl").write_bytes(file.getvalue())
        with pytest.raises(ValueError, match=r"\w"):
            read_pickle(tmp_path / "bad.pkl")
        assert read_pickle(tmp_path / "good.pkl").keys() == copy.copy(ARRAYS).keys()
