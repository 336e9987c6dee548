"""Real trainings of a tiny model, with folder, checkpoints and resuming as in the command."""

import os
from pathlib import Path

import torch
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer, choose_checkpoint, prepare_folder
from d2_seesaw.engine import CheckpointHook, Trainer


class Net(nn.Module):
    """Model with weights, statistics and class counts."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("class_counts", torch.zeros(3, dtype=torch.int64))

    def forward(self, batch):
        self.class_counts += 1
        return {"loss": self.norm(self.linear(batch)).pow(4).mean()}


class Batches:
    """Endless random batches."""

    def __iter__(self):
        while True:
            yield torch.randn(4, 3)


def build(folder, *, period=2, max_to_keep=None, eval_period=0, model=None, lr=0.01, hooks=()):
    """Return trainer and checkpointer, as ``build_trainer`` connects them."""
    model = Net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    trainer = Trainer(model, Batches(), optimizer)
    checkpointer = StrictCheckpointer(model, str(folder), trainer=trainer)
    hook = CheckpointHook(
        checkpointer, period=period, max_to_keep=max_to_keep, eval_period=eval_period
    )
    trainer.register_hooks([hook, *(make(checkpointer) for make in hooks)])
    trainer.checkpoint_hook = hook
    return trainer, checkpointer


def train(folder, steps, *, resume=False, restart=False, **options):
    """Train to ``steps``, as the command does; return the trainer and its first iteration."""
    prepare_folder(str(folder), resume=resume, restart=restart)
    trainer, checkpointer = build(folder, **options)
    start = 0
    if resume and (path := choose_checkpoint(checkpointer)):
        checkpointer.resume(path)
        start = trainer.iter + 1
    trainer.train(start, steps)
    return trainer, start


def checkpoints(folder):
    """Return the names of the checkpoints in a folder."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".pth"))


def change(path, **changes):
    """Change entries of a checkpoint; None removes one."""
    content = torch.load(path, weights_only=False)
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value(content[key]) if callable(value) else value
    torch.save(content, Path(path))
