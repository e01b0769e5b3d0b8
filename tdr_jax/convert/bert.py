"""BERT under the names of Hugging Face and sentence-transformers, read and written."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from tdr_jax import models
from tdr_jax.convert import exchange
from tdr_jax.errors import InputError
from tdr_jax.models.bert import BertConfig

# Not read: the pooler, buffers and the heads of BERT's pretraining.
_PREFIX = re.compile(r"^(0\.)?(auto_model\.|bert\.|model\.)?")
_IGNORED = re.compile(r"^(pooler|cls)\.|(^|\.)position_ids$")
_LEGACY = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
)
_OURS = ("dtype", "remat", "scan_unroll")  # how to compute: not in their configs


def network_of(config: Mapping) -> models.Network:
    """Builds the network of a Hugging Face BERT `config.json`.

    Args:
        config: the decoded file; fields that do not change an encoder's output (dropout and so on)
            are not kept.

    Raises:
        InputError: another architecture, or a variant of BERT that this encoder does not compute.
    """
    expected = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    for field, value in expected.items():
        if config.get(field, value) != value:
            raise InputError(
                f"config.json has {field}={config[field]!r}, expected {value!r}; "
                "only BERT encoders are read"
            )
    names = {f.name for f in dataclasses.fields(BertConfig)}.difference(_OURS)
    return models.build("bert", **{k: v for k, v in config.items() if k in names})


def from_torch(network: models.Network, state_dict: Mapping) -> models.Params:
    """Turns a Hugging Face or sentence-transformers state dict into our parameters.

    Args:
        network: of `network_of`.
        state_dict: name -> array or CPU tensor; names may start with `bert.`, `0.auto_model.` or
            `model.`, norms may say gamma and beta. Pooler, position ids, pretraining heads are
            ignored.

    Returns:
        Flat dict of float32 arrays; half precision is widened.

    Raises:
        InputError: as `convert.from_torch`.
    """
    given = {}
    for name, value in state_dict.items():
        name = _PREFIX.sub("", name)
        for old, new in _LEGACY:
            name = old.sub(new, name)
        if not _IGNORED.search(name):
            given[name] = value
    return exchange.from_tensors(network, given)


def to_torch(
    network: models.Network, params: models.Params, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Turns our parameters into a state dict that `transformers.BertModel` loads.

    Args:
        network: of `network_of`.
        params: its flat dict.
        prefix: put before each name, for instance "bert.".

    Returns:
        Name -> contiguous float32 array, without pooler.

    Raises:
        InputError: names every parameter that is missing, not expected or of the wrong shape.
    """
    return {prefix + name: value for name, value in exchange.to_arrays(network, params).items()}
