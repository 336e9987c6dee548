"""``torch.compile`` for the parts of a model that Detectron2's dynamic code does not break up."""

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn


def compile_parts(
    model: nn.Module,
    parts: Sequence[str],
    *,
    backend: str = "inductor",
    mode: str | None = None,
    dynamic: bool | None = None,
) -> None:
    """Compile the forward of some submodules in place.

    The modules stay the same objects: names in the state dict do not change, so that checkpoints of
    compiled and plain models are interchangeable. Compiling itself happens in the first forward.

    Args:
        model: the whole model, before it is wrapped in DDP.
        parts: dotted names of submodules, such as ``"backbone"``, which has the neck in it.
        backend: of ``torch.compile``.
        mode: of ``torch.compile``; None is its default.
        dynamic: whether sizes of inputs are symbols; None compiles for the first size, and once
            more for all others when a second one comes.

    Raises:
        ValueError: a part that the model does not have or does not call, naming those there are.
    """
    if isinstance(parts, str):
        raise ValueError(f"train.compile.parts must be a list such as [{parts}], got {parts!r}")
    options: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": dynamic}
    for module in [_part(model, name) for name in parts]:
        module.compile(**options)


def _part(model: nn.Module, name: str) -> nn.Module:
    modules = {key: module for key, module in model.named_modules() if module is not model}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"train.compile.parts: the model has no part {name!r}{hint} Its parts are "
            f"{sorted(child for child, _ in model.named_children())} and the modules in them"
        )
    if isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
        entries = [f"{name}.{child}" for child, _ in modules[name].named_children()]
        raise ValueError(
            f"train.compile.parts: {name!r} is a list of modules, which is never called itself. "
            f"Name its entries {entries}"
        )
    return modules[name]
