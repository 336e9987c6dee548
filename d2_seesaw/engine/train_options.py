"""Options of a training run: the ``train`` dictionary of a config."""

from typing import Any


def train_options(**changes: Any) -> dict[str, Any]:
    """Return a new ``train`` dictionary for a config, with defaults.

    Keys, beyond those of Detectron2's LazyConfig trainer:

    - ``output_dir``: null follows from the config's name; see
      :func:`~d2_seesaw.engine.load_config`.
    - ``epochs`` or ``max_iter``: the length of training, in passes over the (repeated) data or in
      steps; ``max_iter`` takes precedence, unless ``epochs`` alone is given on the command line.
      Epochs become steps once the data are loaded.
    - ``device``: ``"auto"`` is the GPU if there is one, else the CPU.
    - ``amp``: ``dtype`` is ``"float16"`` (with loss scaling) or ``"bfloat16"``. Weights stay in
      float32. On the same RoIs, losses and scores stay within 0.5 % and 5 % of full precision's.
    - ``ema``: an exponential moving average of the weights. Training itself is unchanged, bit for
      bit. Evaluations during training score both models, the average as ``ema/...``;
      ``model_final_ema.pth`` holds the average as a model of its own, for ``--eval-only``. A larger
      ``decay`` averages over more steps, about ``1 / (1 - decay)``; with ``warmup`` it grows to its
      value from 0.1.
    - ``compile``: ``torch.compile`` of the submodules in ``parts``, with its ``backend``, ``mode``
      and ``dynamic``; null is torch's default. ``backbone`` includes the neck. Checkpoints fit
      with and without; losses and scores stay within 1e-5, gradients within 1 % of their norm.
    - ``channels_last``: keep the channels of convolutions last in memory, on any device. Results
      differ by rounding errors. Faster on CPUs, and on GPUs in half precision.
    - ``prefetch_to_device``: copy the next batch to the GPU while a step runs, from page-locked
      memory in a stream of its own. Training is unchanged, bit for bit, and so is what ``--resume``
      continues with. It takes the memory of one more batch. ``dataloader.train.pin_memory=True``
      makes the page-locked copies in a thread instead of before each step.
    - ``clip_grad``: ``max_norm`` of all gradients together, ``max_value`` of each entry; null is
      off.
    - ``accumulate_steps``: number of batches whose gradients are averaged before each update.
    - ``reference_world_size``: the number of GPUs the recipe is written for; ``--auto-scale-lr``
      scales from it.
    - ``allow_partial_checkpoint``: load a checkpoint that does not fit the model, for training
      or evaluation; weights that do not fit keep their initial values.
    - ``class_transfer``: start from a detector of other classes. ``"by_name"`` copies what belongs
      to the classes of ``init_checkpoint`` with the same names, such as rows of classifiers; other
      classes, and the state of losses, start anew. Null refuses such a checkpoint. Evaluation and
      ``--resume`` ignore it. ``class_aliases`` has the name in the checkpoint for names of your
      classes, ``checkpoint_classes`` the classes of a checkpoint without class names: an annotation
      file, a text file with one name per line, or a registered dataset. See docs/fine_tuning.md.
    - ``max_bad_images``: number of training images that cannot be read, or whose size is not that
      of the annotations, that may be replaced by others; one more stops training. Missing files
      always stop it, before the first step. The count is logged as ``bad_images`` and saved in
      checkpoints.
    - ``checkpointer``: ``period`` in steps, and ``max_to_keep``, the number of periodic checkpoints
      to keep, those of earlier starts included; null keeps all. ``model_final.pth`` and
      ``model_best.pth`` do not count.
    - ``best_checkpoint``: keep the checkpoint with the best value of ``metric``, such as
      ``segm/APr``, as ``model_best.pth``; null is off. ``mode`` is ``"max"`` or ``"min"``.
    - ``early_stopping``: end training when ``metric``, such as ``segm/AP``, has not improved by
      more than ``min_delta`` in ``patience`` evaluations in a row; null is off. It needs an
      ``eval_period``. ``mode`` is ``"max"`` or ``"min"``. A training that has stopped early is
      continued by ``--resume`` with a larger ``patience``.
    - ``wandb``, ``mlflow``: experiment trackers that get the config, losses and metrics beside
      TensorBoard; see :class:`~d2_seesaw.engine.WandbWriter` and
      :class:`~d2_seesaw.engine.MLflowWriter`. ``--resume`` continues the same run.
    - ``rank_timeout``: seconds without progress after which a rank is frozen, and all ranks end.
      The first steps, saving and scoring may take six times as long. Null does not watch the ranks;
      otherwise a rank that dies ends all of them within 10 s.
    - ``seed``: a negative number draws a random one.

    Args:
        changes: new values of top-level keys.

    Raises:
        TypeError: unknown keys.
    """
    options = {
        "output_dir": None,
        "init_checkpoint": "",
        "allow_partial_checkpoint": False,
        "class_transfer": None,
        "class_aliases": None,
        "checkpoint_classes": None,
        "epochs": None,
        "max_iter": None,
        "reference_world_size": 8,
        "accumulate_steps": 1,
        "max_bad_images": 0,
        "amp": {"enabled": False, "dtype": "float16"},
        "ema": {"enabled": False, "decay": 0.9998, "warmup": True},
        "compile": {
            "enabled": False,
            "parts": ["backbone"],
            "backend": "inductor",
            "mode": None,
            "dynamic": None,
        },
        "channels_last": False,
        "prefetch_to_device": False,
        "clip_grad": {"max_norm": None, "max_value": None},
        "ddp": {
            "broadcast_buffers": False,
            "find_unused_parameters": False,
            "fp16_compression": False,
        },
        "checkpointer": {"period": 5000, "max_to_keep": 3},
        "best_checkpoint": {"metric": None, "mode": "max"},
        "early_stopping": {"metric": None, "patience": 5, "min_delta": 0.0, "mode": "max"},
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
        "rank_timeout": 300.0,
        "seed": -1,
        "cudnn_benchmark": False,
        "float32_precision": "",
    }
    unknown = changes.keys() - options.keys()
    if unknown:
        raise TypeError(f"unknown train options {sorted(unknown)}; known: {sorted(options)}")
    return options | changes
