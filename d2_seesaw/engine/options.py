"""The keys of ``train`` in a config, with their defaults: what train_net.py reads, all of it."""

from typing import Any


def train_options(**changes: Any) -> dict[str, Any]:
    """A fresh ``train`` dictionary for a config.

    Keys, beyond those of Detectron2's LazyConfig trainer:

    - ``epochs`` or ``max_iter``: the length of training, in passes over the (repeated) data or in
      steps; ``max_iter`` wins. Iterations follow from epochs once the data is loaded.
    - ``device``: ``"auto"`` is the GPU if there is one, else the CPU.
    - ``amp``: ``dtype`` is ``"float16"`` (with loss scaling) or ``"bfloat16"``. Weights stay in
      float32. On the same RoIs, losses and scores stay within 0.5 % and 5 % of full precision's.
    - ``ema``: an exponential moving average of the weights, beside those that are trained, which
      stay the same to the bit. Evaluations during training score both, the average as ``ema/...``;
      ``model_final_ema.pth`` is the average as a model of its own, for ``--eval-only``. A larger
      ``decay`` averages over more steps, about ``1 / (1 - decay)``; with ``warmup`` it grows to its
      value from 0.1.
    - ``compile``: ``torch.compile`` of the submodules in ``parts``, with its ``backend``, ``mode``
      and ``dynamic``; null is torch's default. ``backbone`` has the neck in it. Checkpoints fit
      with and without; losses and scores stay within 1e-5, gradients within 1 % of their norm.
    - ``clip_grad``: ``max_norm`` of all gradients together, ``max_value`` of each entry; null is
      off.
    - ``accumulate_steps``: batches whose gradients are averaged before each update.
    - ``reference_world_size``: the number of GPUs the recipe is written for; ``--auto-scale-lr``
      scales from it.
    - ``allow_partial_checkpoint``: train from, or evaluate, a checkpoint that does not fit the
      whole model; what does not fit stays at its initial values.
    - ``wandb``, ``mlflow``: experiment trackers that get the config, losses and metrics beside
      TensorBoard; see :class:`~d2_seesaw.engine.WandbWriter` and
      :class:`~d2_seesaw.engine.MLflowWriter`. ``--resume`` goes on with the same run.
    - ``seed``: negative for a random one.

    Args:
        changes: top-level keys to set to something else.

    Raises:
        TypeError: a key that is not one of these.
    """
    options = {
        "output_dir": "output",
        "init_checkpoint": "",
        "allow_partial_checkpoint": False,
        "epochs": None,
        "max_iter": None,
        "reference_world_size": 8,
        "accumulate_steps": 1,
        "amp": {"enabled": False, "dtype": "float16"},
        "ema": {"enabled": False, "decay": 0.9998, "warmup": True},
        "compile": {
            "enabled": False,
            "parts": ["backbone"],
            "backend": "inductor",
            "mode": None,
            "dynamic": None,
        },
        "clip_grad": {"max_norm": None, "max_value": None},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 3},
        "wandb": {
            "enabled": False,
            "project": "d2_seesaw",
            "name": None,
            "entity": None,
            "tags": [],
            "mode": None,
        },
        "mlflow": {
            "enabled": False,
            "tracking_uri": None,
            "experiment": "d2_seesaw",
            "name": None,
        },
        "eval_period": 0,
        "log_period": 20,
        "device": "auto",
        "seed": -1,
        "cudnn_benchmark": False,
        "float32_precision": "",
    }
    unknown = changes.keys() - options.keys()
    if unknown:
        raise TypeError(f"unknown train options {sorted(unknown)}; known: {sorted(options)}")
    return options | changes
