"""Public names of the subpackages with their signatures, recorded in ``tests/api_surface.json``.

Run ``make api`` to record an intended change of the public names.
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any, get_origin

RECORD = Path(__file__).resolve().parents[1] / "api_surface.json"
SUBPACKAGES = (
    "checkpoint",
    "data",
    "data.importers",
    "engine",
    "evaluation",
    "inference",
    "layers",
    "losses",
    "modeling",
    "modeling.backbones",
    "modeling.roi_heads",
    "own_data",
    "report",
    "synthetic",
)


def signature(function: Any) -> str:
    """Return parameters and defaults. Annotations are left out: their text varies with Python."""
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        if callable(default) and default is not parameter.empty:  # its repr contains an address
            default = _Name(getattr(default, "__qualname__", type(default).__qualname__))
        bare = parameter.replace(annotation=parameter.empty, default=default)
        parameters.append(bare)
    return str(inspect.Signature(parameters))


class _Name(str):
    __repr__ = str.__str__


def describe(value: Any) -> Any:
    """Return the signature of a function, or of each method of a class."""
    if get_origin(value):
        return "type alias"
    if not inspect.isclass(value):
        return signature(value) if inspect.isfunction(value) else type(value).__name__
    described = {}
    # Inherited members of torch and Detectron2 depend on their version.
    for base in reversed([b for b in value.__mro__ if b.__module__.startswith("d2_seesaw.")]):
        for name, member in vars(base).items():
            function = getattr(member, "__func__", member)  # unwraps class and static methods
            if name.startswith("_") and name not in ("__init__", "__new__", "__call__"):
                continue
            if inspect.isfunction(function):
                described[name] = signature(function)
            elif isinstance(member, property):
                described[name] = "property"
    return described


def api_surface() -> dict[str, dict[str, Any]]:
    """Return the description of each public name of each subpackage."""
    surface = {}
    for subpackage in SUBPACKAGES:
        module = importlib.import_module(f"d2_seesaw.{subpackage}")
        surface[subpackage] = {name: describe(getattr(module, name)) for name in module.__all__}
    return surface


if __name__ == "__main__":
    RECORD.write_text(json.dumps(api_surface(), indent=1, sort_keys=True) + "\n")
