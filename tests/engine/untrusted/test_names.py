"""The list of names that a config of somebody else may build."""

import ast
import inspect
import sys

import pytest
from omegaconf import OmegaConf
from torch import nn

from d2_seesaw.engine.config import _call_nodes, _leaves, target_of
from d2_seesaw.engine.untrusted.names import (
    CALLABLES,
    MODULE_PACKAGES,
    REFUSED_MODULES,
    argument_fault,
    find,
    is_allowed,
)
from tests.support.configs import CONFIGS, read

# Shipped configs that together use every name.
COVERING = (
    "backbones/vit_base_mask_rcnn_seesaw_rfs",
    "challenge/step06_augmentation",
    "classification/imagenet_lt_resnext50_softmax_crt_10e",
    "classification/imagenet_lt_resnext50_softmax_progressively_balanced_90e",
    "classification/imagenet_lt_resnext50_softmax_square_root_90e",
    "classification/imagenet_lt_resnext50_softmax_tau_normalized",
    "coco/htc_lite_r50_fpn_1x",
    "lvis_v1/mask_rcnn_r50_fpn_softmax_rfs_2x",
    "mmdet/cascade_mask_rcnn_r101_fpn_seesaw",
    "quickstart/cascade",
    "quickstart/losses/balanced_softmax",
    "quickstart/losses/ecm",
    "semantic/authors_cityscapes_recall",
    "semantic/authors_synthia_seqs_recall",
    "semantic/cityscapes_deeplab_r50_cross_entropy",
    "semantic/synthia_seqs_deeplab_r18_cross_entropy",
    "vitdet/cascade_mask_rcnn_vit_b_federated_100ep",
)
NAMES = [(part, name) for part, names in CALLABLES.items() for name in names]


def used_in(part, cfg):
    """Yield all callables below a part of a config."""
    node = OmegaConf.select(cfg, part)
    if node is None:
        return
    yield from (target_of(call) for _, call in _call_nodes(node, part))
    yield from (value for _, value in _leaves(node, part) if callable(value))


@pytest.fixture(scope="module")
def used():
    """Return the callables of shipped configs by part."""
    cfgs = [read(CONFIGS / f"{name}.py") for name in COVERING]
    return {part: {f for cfg in cfgs for f in used_in(part, cfg)} for part in CALLABLES}


@pytest.mark.parametrize(("part", "name"), NAMES)
def test_each_listed_name_is_found_and_used_by_a_shipped_config(used, part, name):
    value = find(name)
    assert is_allowed(value, part)
    assert value in used[part]


def test_a_name_of_one_part_is_refused_in_the_others():
    for part, name in NAMES:
        allowed = {other for other in CALLABLES if is_allowed(find(name), other)}
        expected = {part, "dataloader"} if part.startswith("dataloader") else {part}
        assert allowed == expected, name


REFUSED = [
    *("os.system", "builtins.eval", "functools.partial", "subprocess.run", "posix.system"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.utils.cpp_extension.load"),
    *("torch.nn.modules.module.torch.load", "torch.nn.modules.module.functools.partial"),
    *("torch.nn.functional.linear", "torch.nn.Module.load_state_dict", "torch.nn.Module.apply"),
    *("torch.nn.Linear.__init__", "torch.nn.Linear.__init__.__globals__", "torch.nn.__builtins__"),
    *("torch.nn..Linear", "torch.nn.Linear.", "torch.nn.Linear ", "torch.nn", "torch.nn.modules"),
    *("torch.nn.Linear;os.system", "torch.nn.Lin\u0435ar", "TORCH.NN.Linear", "", "."),
    *("detectron2.config.LazyConfig.load", "detectron2.config.instantiate"),
    *("detectron2.utils.env.setup_custom_environment", "detectron2.utils.registry.locate"),
    *("detectron2.modeling.MMDetBackbone", "detectron2.modeling.MMDetDetector"),
    *("detectron2.modeling.mmdet_wrapper.MMDetDetector", "detectron2.modeling.build_model"),
    *("detectron2.modeling.GeneralizedRCNNWithTTA", "detectron2.checkpoint.Checkpointer"),
    *(
        "detectron2.data.transforms.augmentation.inspect.os.system",
        "detectron2.data.DatasetCatalog",
    ),
    *("detectron2.data.build.load_proposals_into_dataset", "detectron2.data.build.pickle.load"),
    *(
        "detectron2.layers.wrappers.torch.load",
        "d2_seesaw.cli.main",
        "d2_seesaw.engine.load_config",
    ),
    *("d2_seesaw.modeling.backbones.timm.Path", "d2_seesaw.modeling.backbones.timm._timm"),
    *("d2_seesaw.data.register_longtail_instances", "d2_seesaw.evaluation.os.system"),
    *("torchvision.models.resnet50", "torchvision.models.get_model", "torchvision.datasets.VOC"),
    *("torchvision.transforms.v2.Lambda", "timm.create_model", "evil_module.X"),
]


@pytest.mark.parametrize("name", REFUSED)
def test_other_names_and_aliases_are_refused_without_an_import(name):
    before = set(sys.modules)
    found = find(name)
    assert found is None or not any(is_allowed(found, part) for part in CALLABLES)
    assert {n.partition(".")[0] for n in set(sys.modules) - before} <= {"d2_seesaw", "detectron2"}


def test_parts_of_models_are_allowed_in_models_alone():
    for name in ("torch.nn.Linear", "torchvision.ops.MLP", "detectron2.modeling.FPN"):
        assert [part for part in CALLABLES if is_allowed(find(name), part)] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"name": "resnet18"}, ""),
        ({"name": "resnet18", "pretrained": True, "model_options": {"img_size": 64}}, ""),
        ({"name": "hf-hub:some/model"}, "without a source"),
        ({"name": "local-dir:."}, "without a source"),
        ({"name": "resnet18", "pretrained": "weights.pth"}, "not a file"),
        ({"name": "resnet18", "model_options": {"checkpoint_path": "x"}}, "checkpoint_path"),
        ({"name": "resnet18", "model_options": {"pretrained_cfg": {"url": "x"}}}, "pretrained_cfg"),
        ({"name": "resnet18", "cfg": {}}, "cfg cannot be given"),
    ],
)
def test_timm_may_not_be_sent_to_files_and_other_sources(arguments, fault):
    found = argument_fault(find("d2_seesaw.modeling.TimmBackbone"), arguments)
    assert fault in found
    assert bool(fault) == bool(found)


# Calls that open files, import modules or build something by its name.
SUSPICIOUS = {
    *("open", "exec", "eval", "compile", "__import__", "import_module", "system", "Popen"),
    *("load", "loads", "urlopen", "load_state_dict_from_url", "download_url_to_file"),
    *("locate", "instantiate", "create_model", "get_model", "get_weight", "read_image"),
    *("build_backbone", "build_neck", "build_detector"),
}


def called(tree):
    """Return what a tree calls, except ``eval()`` of models and methods of ``self``."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = [f for f in functions if isinstance(f, ast.Attribute) and f.attr != "eval"]
    return {
        *(f.id for f in functions if isinstance(f, ast.Name)),
        *(m.attr for m in methods if getattr(m.value, "id", "") != "self"),
    }


@pytest.mark.slow
def test_no_allowed_module_opens_files_or_builds_by_name():
    """Read the source of each class; ``from_config`` is out of reach, because cfg is refused."""
    for package in MODULE_PACKAGES:
        __import__(package)
    homes = {
        value.__module__
        for name, module in list(sys.modules.items())
        if f"{name}.".startswith(tuple(f"{p}." for p in MODULE_PACKAGES))
        for value in list(vars(module).values())
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    suspicious, count = {}, 0
    for home in homes:
        if not f"{home}.".startswith(tuple(f"{p}." for p in MODULE_PACKAGES)):
            continue
        for node in ast.parse(inspect.getsource(sys.modules[home])).body:
            if not isinstance(node, ast.ClassDef):
                continue
            methods = [n for n in node.body if getattr(n, "name", "") != "from_config"]
            count += 1
            if hits := {hit for m in methods for hit in called(m) & SUSPICIOUS}:
                suspicious[node.name] = hits
    assert count > 300
    assert suspicious.keys() - set(REFUSED_MODULES) == {"Module"}, suspicious  # Module.compile
