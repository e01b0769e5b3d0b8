"""The parts that the loop puts together, each made from the config."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from tdr_jax import disk, models
from tdr_jax.errors import InputError
from tdr_jax.objectives.backbone import Backbone
from tdr_jax.objectives.guided import Guided
from tdr_jax.objectives.prompted import Prompted
from tdr_jax.train import writers

PANEL_ROWS = 4
PACKAGE = "package:"  # before the name of a package in config.data.path
SELECTOR = "dinov2-vitb14"  # TDR's
RANDOM = "random:"  # before the name of a network in config.guidance.dinov2


def network(config):
    """Build the network, after a look at the numbers that nothing else checks.

    Args:
        config: `network.name`, `network.overrides`, `data.stages` and the `..._every` fields.

    Returns:
        a `tdr_jax.models.Network`.

    Raises:
        InputError: if a field does not fit.
    """
    check_lengths(config)
    built = network_of(config.network.name, "config.network", **config.network.overrides)
    for _, crop, _ in config.data.stages:
        if crop % built.config.multiple:
            raise InputError(
                f"config.data.stages has crops of {crop} pixels; {built.name} takes multiples of "
                f"{built.config.multiple}"
            )
    return built


def network_of(name: str, field: str, **overrides):
    """Builds a network, or says with an InputError which field of the config names none."""
    try:
        return models.build(name, **overrides)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None


def check_lengths(config) -> None:
    """Refuses intervals and stages that are none, with an InputError."""
    for name in ("log_every", "save_every", "keep"):
        if config[name] < 1:
            raise InputError(f"config.{name} is {config[name]}; give a number of at least 1")
    for stage in config.data.stages or ((),):
        if not isinstance(stage, tuple | list) or len(stage) != 3:
            raise InputError(
                f"config.data.stages is {config.data.stages}; give ((steps, crop, batch), ...)"
            )


def task(config, network):
    """The objective: a network that takes a sentence or guidance gets it, another one the pictures.

    Args:
        config: `objective`, `loss`, and `data.stages`, `data.channels` and `data.pairs`, which
            must fit.
        network: what is trained.

    Returns:
        a `tdr_jax.objectives` object with `loss` and `predict`.

    Raises:
        InputError: if the loss or the data do not fit the network.
    """
    guided = getattr(network.config, "guided", False)
    if guided != (config.objective == "guided"):
        raise InputError(
            f"config.objective is {config.objective!r}, but {network.name} takes "
            f"{'guidance' if guided else 'no guidance'}; set it to "
            f"{'guided' if guided else 'restore'!r}"
        )
    if (guided or network.takes_sentence) and config.loss.mixup:
        raise InputError(
            f"config.loss.mixup is {config.loss.mixup}, but {network.name} takes "
            f"{'guidance' if guided else 'a sentence'}, which two blended pictures do not share; "
            "set it to 0"
        )
    if network.takes_sentence:
        return (Guided if guided else Prompted)(network, config.loss)
    views = {
        1 if isinstance(degraded, str) else len(degraded) for degraded, *_ in config.data.pairs
    }
    given = {views * config.data.channels for views in views | ({1} if config.data.path else set())}
    wanted, made = network.config.channels
    if given - {wanted} or config.data.channels != made:
        raise InputError(
            f"{network.name} takes pictures of {wanted} channels and gives {made}, but config.data "
            f"has {', '.join(map(str, sorted(given)))} and {config.data.channels}; set "
            "network.overrides.inp_channels, data.channels or data.pairs"
        )
    if has_statistics(network) and min(batch for _, _, batch in config.data.stages) < 2:
        raise InputError(
            f"config.data.stages has a batch of 1; {network.name} normalises by the statistics of "
            "its batch and needs at least 2 pictures"
        )
    return (Guided if guided else Backbone)(network, config.loss)


def has_statistics(network) -> bool:
    """Whether the network normalises by the statistics of its batch in training."""
    return any(name.endswith(models.RUNNING) for name in network.abstract_params())


def selector(config, *, weights: bool = True):
    """The network that chooses a window of the guidance.

    Args:
        config: `guidance.window`, "full" or "crop", and `guidance.dinov2`, where its weights are;
            `guidance.size` and `data.stages`.
        weights: False for shapes in place of parameters, of the published network where
            `guidance.dinov2` is no folder.

    Returns:
        the network and its parameters; None and None for "full".

    Raises:
        InputError: there is no such window or network, or crops are larger than the guidance.
    """
    guidance = config.guidance
    if guidance.window not in ("full", "crop"):
        raise InputError(f"config.guidance.window is {guidance.window!r}; give 'full' or 'crop'")
    if guidance.window == "full":
        return None, None
    largest = max(crop for _, crop, _ in config.data.stages)
    if guidance.size < largest:
        raise InputError(
            f"config.guidance.size is {guidance.size}, but config.data.stages has crops of "
            f"{largest} pixels; a window of that size must fit"
        )
    if not weights and not Path(guidance.dinov2 or RANDOM).is_dir():
        name = guidance.dinov2.removeprefix(RANDOM) if RANDOM in guidance.dinov2 else SELECTOR
        built = network_of(name, "config.guidance.dinov2")
        return built, built.abstract_params()
    if not guidance.dinov2:
        raise InputError(
            "config.guidance.dinov2 is empty; give the folder of a DINOv2 that chooses windows: "
            "--config.guidance.dinov2=FOLDER, or set config.guidance.window to 'full'"
        )
    return load_selector(guidance.dinov2, config.seed)


def load_selector(path: str, seed: int):
    """Loads a DINOv2.

    Args:
        path: a folder or hub id; or "random:" and the name of a network, for a trial without
            weights, drawn by `seed`.

    Returns:
        the network and its parameters.

    Raises:
        InputError: it is none.
    """
    if path.startswith(RANDOM):
        built = network_of(path.removeprefix(RANDOM), "config.guidance.dinov2")
        params = built.init(seed)
    else:
        from tdr_jax import weights

        built, params = weights.load(path)
    if getattr(built, "kind", "") != "Dinov2":
        raise InputError(f"config.guidance.dinov2={path} is no DINOv2; give the folder of one")
    return built, params


def initial_params(config, network) -> dict[str, jax.Array]:
    """Where training starts: from scratch, or from the weights that `config.init_from` names.

    Args:
        config: `seed`, and `init_from`, a name with shipped weights, a folder or a file, or "".
        network: the network to train.

    Returns:
        flat dict of parameters.

    Raises:
        InputError: if the weights belong to another network.
    """
    if not config.init_from:
        return network.init(config.seed)
    from tdr_jax import weights

    _, params = weights.load(config.init_from)
    try:
        models.check(params, network.abstract_params(), f"network {network.name}")
    except ValueError as error:
        raise InputError(f"config.init_from={config.init_from}: {error}") from None
    return params


def around_base(config, params) -> dict[str, jax.Array]:
    """Puts the weights that `config.init_base` names into a guided network's.

    Args:
        config: `init_base`, like `init_from`, which must be empty beside it.
        params: of a guided network.

    Returns:
        the parameters; those given where `init_base` is "".

    Raises:
        InputError: the weights belong to another network than the one that is guided.
    """
    if not config.init_base:
        return params
    if config.init_from:
        raise InputError(
            f"config.init_from={config.init_from} and config.init_base={config.init_base} both "
            "say where the network starts; set one of them to ''"
        )
    from tdr_jax import weights
    from tdr_jax.models import guided

    _, base = weights.load(config.init_base)
    try:
        return guided.with_base(params, base)
    except InputError as error:
        raise InputError(f"config.init_base={config.init_base}: {error}") from None


def examples(config, network, encoder, step: int, guidance=None) -> Iterator:
    """The batches of a run from `step` on, of this process.

    Args:
        config: `seed` and `data`.
        network: its `config.text_dim`, where it has one, must be the encoder's width.
        encoder: a `tdr_jax.text.TextEncoder`, or None for a network that takes no sentence.
        step: the number of finished steps.
        guidance: the `guidance` part of the config, or None for examples without.

    Returns:
        iterator of dicts of NumPy arrays, see `tdr_jax.data.pipeline.batches`.

    Raises:
        InputError: if the data or the encoder do not fit.
    """
    from tdr_jax.data import pipeline
    from tdr_jax.data.guidance import Guidance

    pictures = source(config.data)
    if guidance is not None:
        guidance = Guidance(pictures, guidance, config.seed, config.data.cache_mb)
    return pipeline.batches(
        pictures,
        config.data,
        vectors=encoder and _vectors(encoder, config.data),
        seed=config.seed,
        guidance=guidance,
        step=step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _vectors(encoder, data):
    """Those of the bank by task and, where two tasks come together, of sentences that name both."""
    from tdr_jax import text
    from tdr_jax.text import phrasings

    found = dict(text.bank_vectors(encoder, data.tasks))
    return found | phrasings.mixed_vectors(encoder, data.tasks) if data.p_joint else found


def source(data):
    """The pictures to train on.

    Args:
        data: `path`, a folder of clean pictures, "package:skimage" for those of an installed
            package, or ""; `path_task`, the one task they serve, or ""
            for any; `path_repeats`, how often each comes up in an epoch; `pairs`, a tuple of
            (degraded folder, clean folder, task, repeats), where (left folder, right folder) in
            place of the degraded one are the views of a dual-pixel sensor; `cache_mb`.

    Returns:
        a source, see `tdr_jax.data.sources`.

    Raises:
        InputError: if there is neither a folder nor a pair of folders.
    """
    from tdr_jax.data import sources

    parts = []
    if data.path:
        task = data.path_task or None
        if data.path.startswith(PACKAGE):
            pictures = sources.package_pictures(data.path.removeprefix(PACKAGE), task)
        else:
            pictures = sources.Folder(data.path, data.cache_mb, task)
        parts.append((pictures, data.path_repeats))
    for degraded, clean, task, repeats in data.pairs:
        if isinstance(degraded, str):
            pictures = sources.Pairs(degraded, clean, task, data.cache_mb)
        else:
            pictures = sources.DualPixel(*degraded, clean, task, data.cache_mb)
        parts.append((pictures, repeats))
    if not parts:
        raise InputError(
            "config.data.path is empty; give a folder of pictures: --config.data.path=PHOTOS"
        )
    return sources.Concat(*parts) if len(parts) > 1 or parts[0][1] != 1 else parts[0][0]


def text_encoder(config, network):
    """Load the text encoder and compare its width with the network's; None if it takes no sentence.

    Args:
        config: `encoder`, a name or a folder.
        network: what the vectors are for.

    Returns:
        a `tdr_jax.text.TextEncoder`, or None.

    Raises:
        InputError: if one is needed and there is none, or if it is of another width.
    """
    if not network.takes_sentence:
        return None
    from tdr_jax import text

    wanted = network.config.text_dim
    if not config.encoder:
        raise InputError(
            f"config.encoder is empty; {network.name} needs a text encoder of width {wanted}: "
            "give the folder of a sentence-transformers model, --config.encoder=FOLDER"
        )
    encoder = text.TextEncoder.from_pretrained(config.encoder)
    if encoder.dim != wanted:
        raise InputError(
            f"config.encoder={config.encoder} gives vectors of {encoder.dim} numbers, but "
            f"{network.name} takes {wanted}; give another encoder, or set "
            f"network.overrides.text_dim to {encoder.dim} in the config"
        )
    return encoder


def make_writer(workdir, start: int) -> tuple[writers.Many, writers.Jsonl | None]:
    """Everything that writes what this process measures: nothing except on process 0.

    Args:
        workdir: the run's folder.
        start: the number of finished steps.

    Returns:
        the writer, and the JSONL one in it.
    """
    if jax.process_index():
        return writers.Many([]), None
    jsonl = writers.Jsonl(workdir, start)
    parts = [jsonl, writers.Panels(workdir)]
    if writers.tensorboard_is_installed():
        parts.append(writers.TensorBoard(workdir, start))
    return writers.Many(parts), jsonl


def evaluator(config, network, encoder):
    """What is measured every `config.eval_every` steps.

    Args:
        config: `eval_data`: `path`, a folder of clean pictures, or "" for no evaluation;
            `settings`, rows such as "noise25"; `limit` and `size`, 0 for whole.
        network, encoder: to restore with.

    Returns:
        a `tdr_jax.evaluate.Restoration`, or None.
    """
    if not config.eval_data.path:
        return None
    from tdr_jax.evaluate import Restoration

    return Restoration(
        network,
        encoder,
        config.eval_data.path,
        tuple(config.eval_data.settings),
        limit=config.eval_data.limit or None,
        size=config.eval_data.size or None,
    )


def describe(network, layout, start: int, total: int, workdir) -> str:
    """One line that says what is about to run."""
    begin = f"goes on after step {start} of {total}" if start else f"{total} steps"
    size = f"{network.size:,} parameters"
    return f"{network.name}, {size}, {layout.describe()}: {begin}, in {workdir}"


def panel(predict: Callable, params, batch) -> np.ndarray:
    """A picture of the first examples of a batch: degraded, restored and clean side by side.

    Where there is guidance it comes first, shrunk or grown to their size.

    Args:
        predict: the task's, compiled.
        params: flat dict, whole on each device.
        batch: global arrays; the examples shown are those of this process's first device.

    Returns:
        float32 (rows * H, 3 * W, 3) in [0, 1]; 4 * W with guidance.
    """
    restored = predict(params, batch)
    columns = [
        _colour(np.asarray(array.addressable_shards[0].data)[:PANEL_ROWS])
        for array in (batch["degraded"], restored, batch["clean"])
    ]
    if "guidance" in batch:
        guidance = np.asarray(batch["guidance"].addressable_shards[0].data)[:PANEL_ROWS]
        columns.insert(0, jax.image.resize(guidance, columns[0].shape, "linear"))
    rows = np.concatenate(columns, axis=2)
    return np.clip(rows.reshape(-1, *rows.shape[2:]), 0, 1)


def _colour(pictures):
    """Three channels to look at: grey repeated, of two views the left one."""
    return np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures[..., :3]


def export(workdir, network, params, encoder=None) -> Path:
    """Write the trained weights.

    Args:
        workdir: the run's folder.
        network: whose weights they are.
        params: flat dict, whole on each device.
        encoder: the text encoder it was trained with, if any, which the file is to name.

    Returns:
        the path of `weights.safetensors`.
    """
    from tdr_jax import weights

    path = Path(workdir) / "weights.safetensors"
    weights.save(path, network, jax.device_get(params), encoder=encoder)
    return path


def write_result(workdir, step: int, weights) -> None:
    """Write `result.json`, the last file of a run: where it is, the run is finished.

    Args:
        workdir: the run's folder.
        step: the number of finished steps.
        weights: the path of what was exported.
    """
    metrics = {}
    for record in writers.read_jsonl(Path(workdir) / "metrics.jsonl"):
        metrics |= {name: value for name, value in record.items() if isinstance(value, float)}
    result = {"step": step, "weights": os.path.relpath(weights, workdir), "metrics": metrics}
    disk.write_json(Path(workdir) / "result.json", result)
