"""ResNeSt weights of timm, of its authors and of mmdet for a timm backbone inside a model.

The authors' names are timm's; mmdet counts the layers of the stem through and puts ``backbone.``
before them.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# mmdet's stem.{0,1,3,4,6,7} -> timm's conv1.{0,1,3,4,6} and bn1, applied in this order.
RULES = (
    (r"^backbone\.", ""),
    (r"^stem\.7\.", "bn1."),
    (r"^stem\.(\d)\.", r"conv1.\1."),
)
SIGN = "layer1.0.conv2.fc1.weight"
# A classifier has no place; the offsets of deformable convolutions are in no weights of ImageNet.
UNUSED = re.compile(r"^fc\.|\.num_batches_tracked$")
NEW = re.compile(r"\.conv_offset\.|\.num_batches_tracked$")


def is_resnest(state: Mapping[str, object]) -> bool:
    """Whether these are the weights of a ResNeSt alone, going by their names."""
    return SIGN in {_rename(key) for key in state} and not any(
        key.startswith(("neck.", "rpn_head.", "roi_head.")) for key in state
    )


def convert_resnest(state: Mapping[str, Tensor], model_keys: Iterable[str]) -> dict[str, Tensor]:
    """Rename ResNeSt weights to those of the timm backbone inside a model.

    Args:
        state: the state dict of timm, of the authors or of mmdet, with or without a classifier.
        model_keys: keys of the model's state dict; the backbone is found among them.

    Raises:
        ValueError: the model has no ResNeSt, or one of another depth; all keys that lack a partner
            are listed.
    """
    model_keys = set(model_keys)
    prefixes = [key.removesuffix(SIGN) for key in model_keys if key.endswith(SIGN)]
    if len(prefixes) != 1:
        raise ValueError(f"expected one ResNeSt of timm in the model, found them at {prefixes}")
    (prefix,) = prefixes
    renamed = {_rename(key): value for key, value in state.items()}
    converted = {prefix + key: v for key, v in renamed.items() if not UNUSED.search(key)}
    expected = {key for key in model_keys if key.startswith(prefix)}
    missing = sorted(key for key in expected - converted.keys() if not NEW.search(key))
    unused = sorted(converted.keys() - expected)
    if missing or unused:
        raise ValueError(
            "the ResNeSt weights belong to another ResNeSt than the model's. "
            f"In the model only: {missing}; in the weights only: {unused}"
        )
    return converted


def _rename(key: str) -> str:
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key
