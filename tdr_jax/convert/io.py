"""Containers: the files in which checkpoints travel, read and written, names left as they are.

Pickles are opened by `torch.load(weights_only=True)` and by nothing else, so no file runs code.
"""

import argparse
import dataclasses
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np

from tdr_jax import disk
from tdr_jax.errors import InputError

SUFFIX = ".safetensors"  # every other file is taken for PyTorch's
FILE_NAME = "model.safetensors"
CONFIG_NAME = "config.json"

# Where trainers keep the weights, the best first: BasicSR has its moving average beside the rest.
KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "netG")
# What wrappers put in front of every name: DataParallel, Lightning modules, torch.compile.
PREFIXES = ("module.", "net.", "netG.", "model.", "_orig_mod.")
# How each container is written: the key of the state dict (None: nothing around it), a prefix.
LAYOUTS = {
    "basicsr": ("params", ""),
    "lightning": ("state_dict", "net."),
    "sfnet": ("model", ""),
    "torch": (None, ""),
}
# Metadata that says how to read a file; the rest is its writer's.
RESERVED = ("network", "config", "names", "format")
# Half precision spoils counts beyond 2048.
COUNT = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    `tensors` maps names to NumPy arrays: PyTorch's names, or ours where `ours`. `network` and
    `config` are what the file says about itself, None where it is silent; `metadata` is the rest
    of what it says, strings. `container` is what it was packed in, for messages.
    """

    path: Path
    container: str
    tensors: dict[str, np.ndarray]
    ours: bool = False
    network: str | None = None
    config: dict | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def files_of(path: Path) -> tuple[Path, ...]:
    """Returns the files that a checkpoint at `path`, a file or a folder of ours, consists of."""
    return (path / FILE_NAME, path / CONFIG_NAME) if path.is_dir() else (path,)


def names_network(path: Path) -> bool:
    """Whether a `.safetensors` file, or that of a folder, says which network of ours it holds."""
    import safetensors

    file = path / FILE_NAME if path.is_dir() else path
    if file.suffix != SUFFIX or not file.is_file():
        return False
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:  # reads no tensor
            return "network" in (opened.metadata() or {})
    except (safetensors.SafetensorError, OSError):  # which its reader says
        return False


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads the weights out of any container.

    Args:
        path: a `.safetensors` file, a folder with `model.safetensors`, or a file that torch.save
            wrote (BasicSR, Lightning, a bare state dict), from which only the weights are taken.

    Returns:
        The checkpoint; bfloat16 comes as float32, every other dtype as it is.

    Raises:
        InputError: there is no such file; it is empty, damaged or no checkpoint; it would run code;
            or PyTorch is needed to read it and missing.
    """
    path = Path(path)
    config = {}
    if path.is_dir():
        config, path = _read_config(path / CONFIG_NAME), path / FILE_NAME
        if not path.is_file():
            raise InputError(
                f"{path.parent} has no {FILE_NAME}: it is no folder of tdr's, and without "
                "model_index.json or a config.json of theirs none of diffusers' or transformers'"
            )
    elif not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: copy or download it again")
    if path.suffix == SUFFIX:
        return _read_safetensors(path, config)
    return _read_torch(path)


def _with_names_of_today(config: dict) -> dict:
    """Weights that were saved before say `parts` for what is `microbatches` now."""
    return {{"parts": "microbatches"}.get(name, name): value for name, value in config.items()}


def _read_config(path: Path) -> dict:
    """Reads network, config and metadata; of a `config.json` that others wrote, nothing."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON: {error}; copy it again") from error
    known = isinstance(content, dict) and isinstance(content.get("network"), str)
    return content if known else {}


def _read_safetensors(path: Path, config: dict) -> Checkpoint:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: _plain(file.get_tensor(name)) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a readable .safetensors file: {error}") from error
    # What the file says of itself comes first: it cannot be parted from its tensors.
    if "network" in metadata:
        try:
            config |= {"network": metadata["network"], "config": json.loads(metadata["config"])}
        except (KeyError, ValueError) as error:
            raise InputError(f"{path} names a network without a readable config") from error
    said = {"metadata": {}, "config": {}} | config
    if not all(isinstance(said[key], dict) for key in ("config", "metadata")):
        raise InputError(f"{path}: config and metadata must be tables of names and values")
    free = {key: str(value) for key, value in (said["metadata"] | metadata).items()}
    names = free.get("names", "tdr_jax" if config else "pytorch")
    free = {key: value for key, value in free.items() if key not in RESERVED}
    if names == "pytorch":
        tensors, way = unwrapped(tensors, ["safetensors, PyTorch's names"])
    else:
        way = ["safetensors, our names"]
    return Checkpoint(
        path,
        ", ".join(way),
        tensors,
        names != "pytorch",
        config.get("network"),
        _with_names_of_today(said["config"]) if config else None,
        free,
    )


def _read_torch(path: Path) -> Checkpoint:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: PyTorch is needed to read it: pip install 'tdr_jax[torch]', or give a "
            ".safetensors file"
        ) from error
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and foreign files fail in every way that there is
        raise InputError(_refusal(path, str(error), type(error).__name__)) from error
    found, way = _weights(content)
    try:
        tensors = {name: _plain(tensor) for name, tensor in found.items()}
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{path} holds tensors that are not plain numbers: {error}") from error
    if not tensors:
        held = ", ".join(list(map(str, content))[:8]) if isinstance(content, dict) else ""
        raise InputError(
            f"{path} holds no state dict, only {held or type(content).__name__}; save one with "
            "torch.save(model.state_dict(), ...)"
        )
    tensors, way = unwrapped(tensors, ["PyTorch", *(way or ["bare state dict"])])
    return Checkpoint(path, ", ".join(way), tensors)


def unwrapped(tensors: dict, way: list[str]) -> tuple[dict, list[str]]:
    """Takes off what wrappers put before every name, and adds these prefixes to the way."""
    for prefix in PREFIXES * 2:  # wrappers are wrapped too
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            way = [*way, f"prefix {prefix}"]
    return tensors, way


def _harmless() -> list:
    """Classes that training checkpoints hold beside tensors and that run nothing when made.

    Lightning keeps the arguments of the training script, others the best score so far.
    """
    scalar = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)]
    return [argparse.Namespace, *scalars, np.dtype, *dtypes]


def _refusal(path: Path, reason: str, kind: str) -> str:
    reason = re.sub(r"\x1b\[\d*m", "", reason)
    if unsafe := re.search(r"(?i)unsupported (?:global: )?GLOBAL (\S+)", reason):
        return (
            f"{path} holds more than tensors and would run {unsafe[1]} if it were opened; it was "
            "not. If you trust it, open it where it was made and save its state dict alone: "
            "torch.save(model.state_dict(), ...)"
        )
    if "TorchScript" in reason:
        return f"{path} is a TorchScript program, not a checkpoint; give its state dict"
    short = reason.partition("WeightsUnpickler error:")[2] or reason
    short = re.split(r"\.?(?:\s*\n|\s+(?=[A-Z]))", short.strip())[0] or kind  # its first sentence
    return f"{path} is damaged or no PyTorch checkpoint ({short}); copy or download it again"


def _weights(content, depth: int = 3) -> tuple[dict, list[str]]:
    """Finds the state dict in what torch.load returned, and the keys on the way to it."""
    if not isinstance(content, dict) or not depth:
        return {}, []
    for key in KEYS:
        if isinstance(content.get(key), dict):
            found, way = _weights(content[key], depth - 1)
            if found:
                return found, [key, *way]
    named = {k: v for k, v in content.items() if isinstance(k, str) and hasattr(v, "detach")}
    return named, []


def _plain(tensor) -> np.ndarray:
    """A NumPy array of a dtype that NumPy itself knows."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
        tensor = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    return tensor.astype(np.float32) if tensor.dtype.name == "bfloat16" else tensor


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds a parameter to the dtype that a file is to have.

    Args:
        name: of the parameter, which tells counts of batch normalisation.
        array: any shape and dtype.
        dtype: "float32", "bfloat16" or "float16".

    Returns:
        The array rounded. Integers and counts stay as they are, and so does an array of finite
        numbers of which one is too large for `dtype`.
    """
    import ml_dtypes  # JAX brings it

    target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if array.dtype.kind != "f" or name.endswith(COUNT):
        return array
    with np.errstate(over="ignore"):
        rounded = array.astype(target)
    held = np.isfinite(rounded.astype(np.float32)).all() or not np.isfinite(array).all()
    return rounded if held else array


def write_torch(
    path: str | os.PathLike, state: dict, layout: str = "basicsr", dtype: str = "float32"
) -> Path:
    """Writes a PyTorch state dict to one file, whole or not at all.

    Args:
        path: the file.
        state: names to torch tensors, as `to_torch` returns them.
        layout: "basicsr", "lightning", "sfnet" or "torch" (the bare state dict).
        dtype: of the float tensors: "float32", "float16" or "bfloat16".

    Returns:
        The file written.

    Raises:
        InputError: it cannot be written.
    """
    import torch

    path = Path(path)
    key, prefix = LAYOUTS[layout]
    tensors = {
        prefix + name: _narrow(name, tensor, getattr(torch, dtype))
        for name, tensor in state.items()
    }
    with disk.replacing(path) as (partial,):
        try:
            torch.save(tensors if key is None else {key: tensors}, partial)
        except RuntimeError as error:  # a full disk, in torch's words
            raise InputError(f"{path}: cannot be written ({error})") from error
    return path


def _narrow(name: str, tensor, dtype):
    import torch

    if not tensor.is_floating_point() or name.endswith(COUNT):
        return tensor
    narrow = tensor.to(dtype)
    held = torch.isfinite(narrow).all() or not torch.isfinite(tensor).all()
    return narrow if held else tensor


def write_safetensors(
    path: str | os.PathLike,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
    *,
    dtype: str = "float32",
    config: str | None = None,
) -> Path:
    """Writes arrays to one `.safetensors` file, whole or not at all.

    Args:
        path: the file.
        tensors: names to arrays.
        metadata: strings.
        dtype: of the float arrays: "float32", "float16" or "bfloat16".
        config: the text of a `config.json` to be written beside it.

    Returns:
        The file written.

    Raises:
        InputError: it cannot be written.
    """
    import safetensors
    from safetensors.numpy import save_file

    path = Path(path)
    tensors = {k: np.asarray(cast(k, v, dtype), order="C") for k, v in tensors.items()}
    with disk.replacing(path, *([path.with_name(CONFIG_NAME)] if config else [])) as partials:
        try:
            save_file(tensors, partials[0], metadata)
        except safetensors.SafetensorError as error:
            raise InputError(f"{path}: cannot be written ({error})") from error
        if config:
            partials[1].write_text(config, encoding="utf-8")
    return path
