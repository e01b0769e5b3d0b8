"""Parameters across by name: the tensors of PyTorch into ours, one at a time, and back."""

import difflib
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from tdr_jax import models
from tdr_jax.convert import dead, tables
from tdr_jax.errors import InputError

SHOWN = 8  # faults that a message spells out; the others are counted


def from_torch(name: str, state_dict: dict, **overrides) -> models.Params:
    """Turns a PyTorch state dict into parameters of ours.

    Args:
        name: of the network, as in `models.build`.
        state_dict: names to torch tensors or NumPy arrays; the reference's dead tensors are
            ignored.
        **overrides: fields of the network's config.

    Returns:
        The flat dict of float32 arrays that the network's `apply` takes.

    Raises:
        InputError: counts every missing, unexpected and misshapen tensor and shows the first, with
            the nearest names.
    """
    return from_tensors(models.build(name, **overrides), state_dict)


def to_torch(name: str, params: models.Params, *, fill_dead: bool = False, **overrides) -> dict:
    """Turns parameters into the PyTorch state dict of the reference.

    Args:
        name: of the network, as in `models.build`.
        params: the flat dict; after `from_torch`, the result is bit-identical to what came in.
        fill_dead: add zeros for the tensors that the reference's class holds and never uses, so
            that it loads the result strictly.
        **overrides: fields of the network's config.

    Returns:
        Names to torch tensors: float32, and int64 for the counts of running statistics.

    Raises:
        InputError: the parameters do not fit the network, torch is not installed, or the reference
            has no class of this size to be filled.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("to_torch needs PyTorch: pip install 'tdr_jax[torch]'") from error
    network = models.build(name, **overrides)
    state = {key: torch.from_numpy(array) for key, array in to_arrays(network, params).items()}
    if fill_dead:
        state |= {key: torch.zeros(shape) for key, shape in dead.shapes(network).items()}
    return state


def to_arrays(network: models.Network, params: models.Params) -> dict[str, np.ndarray]:
    """What `to_torch` does, without PyTorch: the live tensors as NumPy arrays of their own.

    Raises:
        InputError: the parameters do not fit the network.
    """
    models.check(params, network.abstract_params(), f"network {network.name}")
    arrays = {key: np.asarray(value) for key, value in params.items()}
    state = {}
    for entry in entries(network):
        array = arrays[entry.ours]
        array = array if entry.index is None else array[entry.index, ...]
        state[entry.theirs] = np.array(entry.layout.to_torch(array), order="C")
    return state


def ignored(network: models.Network, names: Iterable[str]) -> list[str]:
    """Returns those PyTorch names that are of tensors which the reference never uses."""
    table, entries = _table_and_entries(network)
    live = {entry.theirs for entry in entries}
    return [name for name in names if name not in live and table.is_dead(name)]


def torch_names(network: models.Network) -> list[str]:
    """Returns the PyTorch names of the network's live tensors."""
    return [entry.theirs for entry in entries(network)]


def entries(network: models.Network) -> list[tables.Entry]:
    """Returns, for each PyTorch tensor of the network, its name and where it lies in ours."""
    return _table_and_entries(network)[1]


def _table_and_entries(network: models.Network) -> tuple[tables.Table, list[tables.Entry]]:
    table = tables.of(network)
    if table is None:
        guided = network.kind == "Guided"
        name = f"guided {network.config.backbone}" if guided else network.name
        raise InputError(
            f"{name} cannot be exchanged with PyTorch; these can: "
            f"{', '.join(tables.GUIDED if guided else tables.TABLES)}"
        )
    shapes = {name: spec.shape for name, spec in network.abstract_params().items()}
    return table, tables.entries(table, shapes)


def from_tensors(network: models.Network, tensors: Mapping, place=None) -> models.Params:
    """Does what `from_torch` does, one parameter at a time.

    Args:
        network: which the tensors must fit.
        tensors: names to whatever has a shape and becomes an array; read one parameter at a time,
            so that tensors still on disk are never all in memory beside the parameters.
        place: makes a parameter of its name and its float32 array; float32 on the default device by
            default.

    Returns:
        The flat dict of parameters.

    Raises:
        InputError: as `from_torch`.
    """
    place = place or (lambda name, array: jax.device_put(array))
    expected, sources = network.abstract_params(), matched(network, tensors)
    params = {}
    for ours, spec in expected.items():
        whole = np.empty(spec.shape, np.float32)
        for entry in sources.get(ours, []):  # none where a stage has no blocks
            array = entry.layout.from_torch(to_numpy(tensors[entry.theirs]))
            whole[... if entry.index is None else entry.index] = array
        params[ours] = place(ours, whole)
    return params


def matched(network: models.Network, tensors: Mapping) -> dict[str, list[tables.Entry]]:
    """Finds the tensors of every parameter by names and shapes; none is read.

    Args:
        network: which the tensors must fit.
        tensors: names to whatever has a shape.

    Returns:
        for each parameter where its parts come from.

    Raises:
        InputError: as `from_torch`.
    """
    table, entries = _table_and_entries(network)
    expected = network.abstract_params()
    wanted = {entry.theirs for entry in entries}
    foreign = sorted(key for key in tensors.keys() - wanted if not table.is_dead(key))
    misshapen = []
    sources: dict[str, list[tables.Entry]] = {}
    for entry in entries:
        if entry.theirs not in tensors:
            continue
        given = tuple(tensors[entry.theirs].shape)
        shape = expected[entry.ours].shape[0 if entry.index is None else 1 :]
        theirs = entry.layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape
        if given != theirs:
            misshapen.append(f"{entry.theirs} is {given}, not {theirs}")
        sources.setdefault(entry.ours, []).append(entry)
    missing = sorted(wanted - tensors.keys())
    if missing or foreign or misshapen:
        raise InputError(
            f"the state dict does not fit {network.name}: "
            + _faults(missing, foreign, sorted(misshapen))
        )
    return sources


def _faults(missing: list[str], foreign: list[str], misshapen: list[str]) -> str:
    """One line: the first faults with the nearest names, and how many there are in all."""
    faults = [("missing", key) for key in missing] + [("unexpected", key) for key in foreign]
    faults += [("", key) for key in misshapen]
    shown = []
    for fault, key in faults[:SHOWN]:
        near = difflib.get_close_matches(key, foreign, 1) if fault == "missing" else []
        shown.append(f"{fault} {key}".strip() + (f" (there is {near[0]})" if near else ""))
    line = "; ".join(shown)
    if len(faults) <= SHOWN:
        return line
    counts = f"{len(missing)} missing, {len(foreign)} unexpected, {len(misshapen)} misshapen"
    return f"{line}; and {len(faults) - SHOWN} more ({counts} in all)"


def to_numpy(value) -> np.ndarray:
    """Torch tensors (also bfloat16 and on a GPU) and arrays alike become float32 arrays."""
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").float().numpy()
    return np.asarray(value, np.float32)
