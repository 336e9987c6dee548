"""Detectron2's training loop with mixed precision, accumulation, clipping and a NaN guard.

``torch.compile`` is applied to parts of a model whose graph Detectron2 does not break.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.engine.monitoring.ending import EndableTrainer
from d2_seesaw.engine.ranks import PROGRESS, Phase
from d2_seesaw.engine.run_records import restore_storage, storage_state
from d2_seesaw.engine.stop import Stopped, between_steps, stop_requested
from d2_seesaw.utils.optimizers import complete_fused_state, is_fused, state_for
from d2_seesaw.utils.random_state import STEP, seed_generators
from d2_seesaw.utils.ranks import shared_seed
from d2_seesaw.utils.text import did_you_mean

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer(EndableTrainer):
    """Trainer whose optimizer step uses the gradients of one or several batches.

    Losses or gradients that are not finite stop training on all ranks before the weights change.
    With float16, loss scaling skips the step instead if gradients overflow. If memory runs out, the
    error gives the sizes of the images and the keys that reduce them.

    A training that is resumed from a checkpoint equals one that was never interrupted, bit for bit,
    if its data loader continues at a saved position. Random numbers of the model depend on the
    seed, the rank, the step and the batch in the step alone.

    Args:
        model: returns a dictionary of scalar losses; may be wrapped in DDP.
        data_loader: an endless iterable of batches. If it is like
            :class:`~d2_seesaw.data.TrainLoader`, its position in the data is saved, and its
            ``bad_images`` are shared by the ranks, logged and saved.
        optimizer: optimizer of the model's parameters; may be built with ``fused=True``.
        amp_dtype: ``"float16"``, ``"bfloat16"`` or None for full precision.
        accumulate_steps: number of batches per step, whose losses are averaged.
        max_norm: largest norm of all gradients together; None does not clip.
        max_value: largest absolute entry of a gradient; None does not clip.
        seed: seed of the model's random numbers, the same on all ranks; drawn and shared by
            default. A resumed training keeps the one of its checkpoint.

    Attributes:
        stop_agreed: whether a rank got a signal to stop, see :mod:`d2_seesaw.engine.stop`. All
            ranks have the same value in a step.

    Raises:
        ValueError: an unknown dtype, ``accumulate_steps`` below 1, or a fused SGD with dampening.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: str | None = None,
        accumulate_steps: int = 1,
        max_norm: float | None = None,
        max_value: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if amp_dtype is not None and amp_dtype not in _DTYPES:
            raise ValueError(f"train.amp.dtype must be one of {sorted(_DTYPES)}, got {amp_dtype!r}")
        if accumulate_steps < 1:
            raise ValueError(f"accumulate_steps must be at least 1, got {accumulate_steps}")
        self.device_type = next(model.parameters()).device.type
        self.amp_dtype = _DTYPES[amp_dtype] if amp_dtype else None
        self.accumulate_steps = accumulate_steps
        self.max_norm = max_norm
        self.max_value = max_value
        self.seed = shared_seed() if seed is None else seed
        self._after_checkpoint: list[HookBase] = []
        self._saved_scalars: dict[str, Any] | None = None  # of a checkpoint that is resumed
        self.stop_agreed = False
        self.bad_images: Any = getattr(data_loader, "bad_images", None)
        self.grad_scaler = torch.amp.GradScaler(
            self.device_type, enabled=self.amp_dtype is torch.float16
        )
        complete_fused_state(optimizer)

    def run_step(self) -> None:
        """Accumulate gradients, check them, update the weights and record the losses."""
        self.optimizer.zero_grad()
        batches = []
        total: dict[str, Tensor] = {}
        data_time = 0.0
        for step in range(self.accumulate_steps):
            PROGRESS.enter(Phase.LOADING, self.iter)
            start = time.perf_counter()
            batches.append(self._next_batch(is_first=step == 0))
            data_time += time.perf_counter() - start
            # Here, as the mapper draws from the same generators if there are no loading processes.
            seed_generators(self.seed, STEP, comm.get_rank(), self.iter, step)
            PROGRESS.enter(Phase.FORWARD)
            with self._memory_explained(batches[-1]):
                losses = self._backward(batches[-1], is_last=step == self.accumulate_steps - 1)
            total = {name: total.get(name, 0) + loss for name, loss in losses.items()}
        PROGRESS.enter(Phase.UPDATE)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        self._check_and_clip(total, batches)
        self._write_metrics(total, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        PROGRESS.enter(Phase.BETWEEN)

    def _next_batch(self, *, is_first: bool) -> Batch:
        try:
            with between_steps() if is_first else nullcontext():
                return next(self._data_loader_iter)
        except Stopped:
            self.iter -= 1  # the last complete step, which the hooks save
            self.stop_agreed = True
            raise

    def _backward(self, batch: Batch, *, is_last: bool) -> dict[str, Tensor]:
        """Add the gradients of one batch and return its detached share of the step's losses."""
        amp = torch.autocast(
            self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )
        with self._no_gradient_exchange() if not is_last else nullcontext():
            with amp:
                losses = self.model(batch)
            PROGRESS.enter(Phase.BACKWARD)
            losses = {name: loss / self.accumulate_steps for name, loss in losses.items()}
            self.grad_scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _no_gradient_exchange(self) -> AbstractContextManager[None]:
        is_ddp = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if is_ddp else nullcontext()

    def _check_and_clip(self, losses: dict[str, Tensor], batches: list[Batch]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.max_value is not None:
            nn.utils.clip_grad_value_(parameters, self.max_value)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.max_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        checked = torch.stack(list(losses.values())).sum()
        if not self.grad_scaler.is_enabled():
            checked = checked + norm
        if not math.isfinite(self._reduce(checked)):
            values = {name: loss.item() for name, loss in losses.items()}
            images = [image.get("file_name", "?") for batch in batches for image in batch]
            raise FloatingPointError(
                f"losses or gradients are not finite at iteration {self.iter}; the weights were "
                f"not changed. Losses: {values}, norm of the gradients: {norm.item()}, images of "
                f"this rank: {images}"
            )
        self.storage.put_scalar("grad_norm", norm.item())

    def _reduce(self, checked: Tensor) -> float:
        """Return the sum of ``checked`` over the ranks, share their bad images, agree to stop."""
        new = self.bad_images.num_new if self.bad_images is not None else 0
        stops = stop_requested() is not None
        every = torch.stack([checked, checked.new_tensor(new), checked.new_tensor(stops)])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(every)
        value, news, stops = every.tolist()
        self.stop_agreed = stops > 0
        if news and self.bad_images is not None:
            self.bad_images.exchange()
        if self.bad_images is not None and self.bad_images.found:
            self.storage.put_scalar("bad_images", len(self.bad_images.found), smoothing_hint=False)
        return value

    @contextmanager
    def _memory_explained(self, batch: Batch) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch's error is a RuntimeError
            if not is_out_of_memory(error):
                raise
            raise MemoryError(_memory_message(batch, self.device_type, self.iter)) from error

    def register_hooks_after_checkpoint(self, hooks: list[HookBase | None]) -> None:
        """Register hooks that run after the one that saves checkpoints.

        They have not run when a checkpoint is saved. A resumed training therefore calls their
        ``after_step`` for the step of the checkpoint first.
        """
        self.register_hooks(hooks)
        self._after_checkpoint += [hook for hook in hooks if hook is not None]

    @property
    def finishes_step(self) -> bool:
        """Whether training is resumed and the step of the checkpoint will be finished first."""
        return self._saved_scalars is not None

    def before_train(self) -> None:
        """Continue the scalars of a checkpoint, and finish its step."""
        finishes = self.finishes_step
        restore_storage(self.storage, self._saved_scalars or {})
        self._saved_scalars = None
        super().before_train()
        if finishes and self.start_iter > 0:
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._after_checkpoint:
                hook.after_step()
            self.iter = self.storage.iter = self.start_iter
            self._leave_if_ended()

    def after_train(self) -> None:
        """Close the data, then run the hooks, with the same iteration if no step was left.

        Hooks that write metrics run also if an evaluation was stopped.
        """
        self._data_loader_iter_obj = None
        if hasattr(self.data_loader, "close"):
            self.data_loader.close()
        if self.start_iter >= self.max_iter:
            self.iter = self.start_iter
        try:
            super().after_train()
        except Stopped:
            for hook in self._hooks:
                if isinstance(hook, PeriodicWriter):
                    hook.after_train()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs to equal an uninterrupted one, but the model.

        This is the state of the base class, the loss scale of float16, the bad images, the scalars
        that are to be smoothed and, as ``resume``, the seed, the position in the data and what the
        arithmetic depends on.
        """
        state: dict[str, Any] = super().state_dict()
        if self.bad_images is not None and self.bad_images.found:
            state["bad_images"] = self.bad_images.state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        state["scalars"] = storage_state(self.storage) if hasattr(self, "storage") else {}
        state["resume"] = {"seed": self.seed, "environment": self._environment()}
        if hasattr(self.data_loader, "state_dict"):
            state["resume"]["data"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; one of a full-precision training starts a new loss scale.

        A warning in one line says if the training will not equal an uninterrupted one.
        """
        optimizer = state_for(self.optimizer, state_dict["optimizer"])
        super().load_state_dict({**state_dict, "optimizer": optimizer})
        complete_fused_state(self.optimizer)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if self.bad_images is not None:
            self.bad_images.load_state_dict(state_dict.get("bad_images", {}))
        self._saved_scalars = state_dict.get("scalars")
        if "resume" not in state_dict:
            logger.warning(
                "The checkpoint of an earlier version has no position in the data. They start "
                "anew, so the training does not equal an uninterrupted one"
            )
            return
        self._continue(**state_dict["resume"])

    def _continue(
        self, seed: int, environment: dict[str, Any], data: dict[str, Any] | None = None
    ) -> None:
        self.seed = seed
        logger.info("Random numbers continue with seed %d of the checkpoint", seed)
        now = self._environment()
        changes = [
            f"{name} {now[name]} instead of {saved}"
            for name, saved in environment.items()
            if now.get(name) != saved
        ]
        if data is not None and hasattr(self.data_loader, "load_state_dict"):
            changes += self.data_loader.load_state_dict(data)
        if changes:
            logger.warning(
                "Training continues at the same position in the data, but does not equal an "
                "uninterrupted one bit for bit: %s",
                ", ".join(changes),
            )

    def _environment(self) -> dict[str, Any]:
        """Return what the bits of a step depend on beside the state."""
        return {
            "ranks": comm.get_world_size(),
            "accumulate_steps": self.accumulate_steps,
            "dtype": str(self.amp_dtype or torch.float32).removeprefix("torch."),
            "device": self.device_type,
            "channels_last": _is_channels_last(self.model),
            "fused optimizer": is_fused(self.optimizer),
            "threads": torch.get_num_threads(),
            "PyTorch": str(torch.__version__),
        }


def _is_channels_last(model: nn.Module) -> bool:
    """Return whether weights of convolutions have their channels last in memory."""
    formats = (
        p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
        if p.dim() == 4 and not p.is_contiguous()
    )
    return any(formats)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the GPU or of the machine is exhausted."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in _normalized(error)


def _normalized(error: BaseException) -> str:
    return str(error).replace("can't allocate memory", "not enough memory")


def _memory_message(batch: Batch, device: str, iteration: int) -> str:
    sizes = [" x ".join(map(str, i["image"].shape[-2:])) for i in batch if "image" in i]
    objects = [len(image["instances"]) for image in batch if "instances" in image]
    most = f", at most {max(objects)} objects in an image" if objects else ""
    return (
        f"out of memory ({device}) at iteration {iteration}, with a batch of {len(batch)} images "
        f"on this rank, height x width {', '.join(sizes)}{most}. Smaller images: "
        "dataloader.train.mapper.augmentations, such as ResizeShortestEdge with max_size; a "
        "smaller batch: dataloader.train.total_batch_size, with train.accumulate_steps for the "
        "same number of images per update; fewer regions: model.roi_heads.batch_size_per_image; "
        "on a GPU also train.amp.enabled=True"
    )


def compile_parts(
    model: nn.Module,
    parts: Sequence[str],
    *,
    backend: str = "inductor",
    mode: str | None = None,
    dynamic: bool | None = None,
) -> None:
    """Compile the forward pass of submodules in place.

    Names in the state dict do not change, so checkpoints of compiled and plain models are
    interchangeable. The first forward pass compiles.

    Args:
        model: the whole model, before it is wrapped in DDP.
        parts: dotted names of submodules, such as ``"backbone"``, which includes the neck.
        backend: backend of ``torch.compile``.
        mode: mode of ``torch.compile``; None is its default.
        dynamic: whether the sizes of inputs are symbolic. None compiles for the first size, and
            once more for all sizes when a second one occurs.

    Raises:
        ValueError: a part that the model does not have or does not call, with the parts it has.
    """
    if isinstance(parts, str):
        raise ValueError(f"train.compile.parts must be a list such as [{parts}], got {parts!r}")
    options: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": dynamic}
    for module in [_part(model, name) for name in parts]:
        module.compile(**options)


def _part(model: nn.Module, name: str) -> nn.Module:
    modules = {key: module for key, module in model.named_modules() if module is not model}
    if name not in modules:
        hint = did_you_mean(name, modules) or "."
        raise ValueError(
            f"train.compile.parts: the model has no part {name!r}{hint} Its parts are "
            f"{sorted(child for child, _ in model.named_children())} and the modules in them"
        )
    if isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
        entries = [f"{name}.{child}" for child, _ in modules[name].named_children()]
        raise ValueError(
            f"train.compile.parts: {name!r} is a list of modules, which is never called. "
            f"Name its entries {entries}"
        )
    return modules[name]
