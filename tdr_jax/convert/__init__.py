"""Exchange with PyTorch: `from_torch` and `to_torch` carry parameters across by name."""

import difflib
import re

import jax.numpy as jnp
import numpy as np

from tdr_jax import models
from tdr_jax.convert import tables
from tdr_jax.errors import InputError


def _entries(network: models.Network) -> tuple[tables.Table, list[tables.Entry]]:
    kind = network.kind
    if kind not in tables.TABLES:
        raise InputError(
            f"{network.name} cannot be exchanged with PyTorch; these can: "
            f"{', '.join(tables.TABLES)}"
        )
    table = tables.TABLES[kind]
    shapes = {name: spec.shape for name, spec in network.abstract_params().items()}
    return table, tables.entries(table, shapes)


def from_torch(name: str, state_dict: dict, **overrides) -> models.Params:
    """Turns a PyTorch state dict into parameters of ours.

    Args:
      name: of the network, as in `models.build`.
      state_dict: names to torch tensors or NumPy arrays; the reference's dead tensors are ignored.
      **overrides: fields of the network's config.

    Returns:
      The flat dict of float32 arrays that the network's `apply` takes.

    Raises:
      InputError: lists every missing, unexpected and misshapen tensor, with the nearest names.
    """
    network = models.build(name, **overrides)
    table, entries = _entries(network)
    expected = network.abstract_params()
    tensors = {key: _to_numpy(value) for key, value in state_dict.items()}
    wanted = {entry.theirs for entry in entries}
    faults = []
    for key in wanted - tensors.keys():
        near = difflib.get_close_matches(key, tensors.keys() - wanted, 1)
        faults.append(f"missing {key}" + (f" (there is {near[0]})" if near else ""))
    for key in tensors.keys() - wanted:
        if not any(re.fullmatch(pattern, key) for pattern in table.dead):
            faults.append(f"unexpected {key}")
    pieces: dict[str, list[np.ndarray]] = {}
    for entry in entries:
        if entry.theirs not in tensors:
            continue
        tensor = tensors[entry.theirs]
        shape = expected[entry.ours].shape[0 if entry.index is None else 1 :]
        theirs = entry.layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape
        if tensor.shape != theirs:
            faults.append(f"{entry.theirs} is {tensor.shape}, not {theirs}")
        else:
            pieces.setdefault(entry.ours, []).append(entry.layout.from_torch(tensor))
    if faults:
        raise InputError(f"the state dict does not fit {name}: " + "; ".join(sorted(faults)))
    stacked = {entry.ours for entry in entries if entry.index is not None}
    return {
        ours: jnp.asarray(np.stack(parts) if ours in stacked else parts[0], jnp.float32)
        for ours, parts in pieces.items()
    }


def to_torch(name: str, params: models.Params, **overrides) -> dict:
    """Turns parameters into the PyTorch state dict of the reference's live tensors.

    Args:
      name: of the network, as in `models.build`.
      params: the flat dict; after `from_torch`, the result is bit-identical to what came in.
      **overrides: fields of the network's config.

    Returns:
      Names to float32 torch tensors.

    Raises:
      InputError: the parameters do not fit the network, or torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("to_torch needs PyTorch: pip install 'tdr_jax[torch]'") from error
    network = models.build(name, **overrides)
    try:
        models.check(params, network.abstract_params(), f"network {name}")
    except ValueError as error:
        raise InputError(error) from error
    arrays = {key: np.asarray(value) for key, value in params.items()}
    state = {}
    for entry in _entries(network)[1]:
        array = arrays[entry.ours] if entry.index is None else arrays[entry.ours][entry.index]
        state[entry.theirs] = torch.from_numpy(entry.layout.to_torch(array).copy())
    return state


def _to_numpy(value) -> np.ndarray:
    """Torch tensors (also bfloat16 and on a GPU) and arrays alike become float32 arrays."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").float().numpy()
    return np.asarray(value, np.float32)
