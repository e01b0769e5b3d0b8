"""The networks of a config: built, begun and given their sentence encoder, or refused."""

import dataclasses
import functools
from typing import Any

import jax

from tdr_jax import models
from tdr_jax.errors import InputError


def of_config(config: Any) -> models.Network:
    """Builds the network that learns, for pictures.

    Args:
        config: `network.name`, `network.overrides` and `data.stages`.

    Raises:
        InputError: a field does not fit.
    """
    check_lengths(config)
    built = build(config.network.name, "config.network", **config.network.overrides)
    _try(built)
    check_crops(config, built.config.multiple, built.name)
    return built


@functools.lru_cache(maxsize=64)
def _try(network: models.Network) -> None:
    """Refuses a network that cannot be made of its fields, or run, with an InputError."""
    try:
        params = network.abstract_params()
        if empty := [name for name, param in params.items() if 0 in param.shape]:
            raise ValueError(f"{empty[0]} is empty")
        if hasattr(network.config, "channels"):
            jax.eval_shape(network.apply, params, *network.abstract_inputs(network.config.multiple))
    except Exception as error:  # wrong numbers fail in every way that there is
        given = dataclasses.asdict(network.config)
        fields = ", ".join(f"{name}={value}" for name, value in given.items())
        raise InputError(
            f"config.network.overrides: no {network.name} works with {fields}: {error}"
        ) from error


def build(name: str, field: str, **overrides: Any) -> models.Network:
    """Builds a network, or says with an InputError which field of the config names none."""
    try:
        return models.build(name, **overrides)
    except ValueError as error:
        raise InputError(f"{field}: {error}") from None


def check_lengths(config: Any) -> None:
    """Refuses intervals and stages that are none, with an InputError."""
    for name in ("log_every", "save_every", "keep"):
        if config[name] < 1:
            raise InputError(f"config.{name} is {config[name]}; give a number of at least 1")
    for stage in config.data.stages or ((),):
        if not isinstance(stage, tuple | list) or len(stage) != 3:
            raise InputError(
                f"config.data.stages is {config.data.stages}; give ((steps, crop, batch), ...)"
            )


def check_crops(config: Any, multiple: int, name: str) -> None:
    """Refuses crops that a network does not take, with an InputError."""
    for _, crop, _ in config.data.stages:
        if crop % multiple:
            raise InputError(
                f"config.data.stages has crops of {crop} pixels; {name} takes multiples of "
                f"{multiple}"
            )


def has_batch_stats(network: models.Network) -> bool:
    """Whether the network normalises by the statistics of its batch in training."""
    return any(name.endswith(models.RUNNING) for name in network.abstract_params())


def initial_params(config: Any, network: models.Network) -> models.Params:
    """Where training starts: from scratch, or from the weights that `config.init_from` names.

    Args:
        config: `seed`, and `init_from`, a name with shipped weights, a folder or a file, or "".
        network: the network to train.

    Raises:
        InputError: the weights belong to another network.
    """
    if not config.init_from:
        return network.init(config.seed)
    from tdr_jax import weights

    _, params = weights.load(config.init_from)
    return checked(params, network, f"config.init_from={config.init_from}")


def checked(params: models.Params, network: models.Network, where: str) -> models.Params:
    """The parameters, or an InputError that says where those of another network are."""
    try:
        models.check(params, network.abstract_params(), f"network {network.name}")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    return params


def text_encoder(config: Any, network: models.Network) -> Any:
    """Loads the text encoder and compares its width with the network's.

    Args:
        config: `encoder`, a name or a folder.
        network: what the vectors are for.

    Returns:
        a `tdr_jax.text.TextEncoder`; None if the network takes no sentence.

    Raises:
        InputError: one is needed and there is none, or it is of another width.
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
