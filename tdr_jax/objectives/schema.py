"""What each field of a training config may be: checked before anything is built."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tdr_jax.data.guidance import KINDS
from tdr_jax.data.pipeline import LARGEST_CROP, SYNTHESES
from tdr_jax.data.places import MIXINGS
from tdr_jax.data.steady import CHECKS, SKIP, STOP
from tdr_jax.degradations.realistic import NOISES
from tdr_jax.degradations.vocabulary import CLEAN, TASKS
from tdr_jax.errors import InputError
from tdr_jax.nn import remat


@dataclasses.dataclass(frozen=True)
class Kind:
    """Values of one kind.

    Attributes:
        says: what they are, as a sentence goes on after "give".
        fits: whether a value is one.
    """

    says: str
    fits: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(f"{self.says}, or {other.says}", lambda v: self.fits(v) or other.fits(v))


def whole(least: int | None = None, most: int | None = None) -> Kind:
    """Whole numbers, from and to what is given."""
    return Kind(
        f"a whole number{_between(least, most)}",
        lambda v: type(v) is int and _within(v, least, most),
    )


def number(
    least: float | None = None, most: float | None = None, *, below: float = math.inf
) -> Kind:
    """Finite numbers, whole ones too, from and to what is given, and below something."""
    more = f" and below {below:g}" if below < math.inf else ""
    return Kind(
        f"a number{_between(least, most)}{more}",
        lambda v: (
            type(v) in (int, float) and math.isfinite(v) and _within(v, least, most) and v < below
        ),
    )


def one_of(*values: Any) -> Kind:
    """These values alone."""
    shown = [repr(value) for value in values]
    says = " or ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
    return Kind(says, lambda v: any(type(v) is type(value) and v == value for value in values))


def row(*kinds: Kind) -> Kind:
    """As many values, each of its kind; none at all for no kinds."""
    inner = ", ".join(kind.says for kind in kinds)
    return Kind(
        f"({inner})" if kinds else "()",
        lambda v: (
            isinstance(v, tuple | list)
            and len(v) == len(kinds)
            and all(kind.fits(value) for kind, value in zip(kinds, v, strict=True))
        ),
    )


def several(kind: Kind, least: int = 0) -> Kind:
    """A tuple of values of one kind."""
    some = f"a tuple of at least {least}" if least else "a tuple"
    return Kind(
        f"{some}, each {kind.says}",
        lambda v: isinstance(v, tuple | list) and len(v) >= least and all(map(kind.fits, v)),
    )


def _between(least, most) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least is not None else ""


def _within(value, least, most) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _compiles(value) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


text = Kind("a text", lambda v: isinstance(v, str) and "\0" not in v)
flag = one_of(True, False)
pattern = Kind("a regular expression", _compiles)
nothing = one_of(None)
share = number(0, 1)
decay = number(0, below=1)
count = whole(1)
interval = whole(0)
dtype = one_of("float32", "bfloat16", "float16")
kept = one_of(*remat.NAMES, False, True)

# Every field of configs/common.py; what belongs together across fields is checked where it is used.
FIELDS: dict[str, Kind] = {
    "objective": text,  # `objectives` finds it by its file
    "seed": Kind("a whole number of 64 bits", whole(-(2**63), 2**63 - 1).fits),
    "init_from": text,
    "init_base": text,
    "encoder": text,
    "network.name": text,
    "network.text_encoder": text,
    "network.prediction_type": one_of("v_prediction", "epsilon"),
    "network.layers": interval,
    "data.path": text,
    "data.path_task": one_of("", *TASKS),
    "data.path_repeats": count,
    "data.pairs": several(row(text | row(text, text), text, one_of(*TASKS), count)),
    "data.tasks": several(one_of(CLEAN, *TASKS)),  # the first where examples may be clean
    "data.mixing": one_of(*MIXINGS),
    "data.weights": several(number(0)),
    "data.sigmas": several(number(0)),
    "data.sigma_range": row() | row(number(0), number(0)),
    "data.channels": one_of(3, 1),
    "data.dihedral": several(whole(0, 7), least=1),
    "data.stages": Kind(
        f"((steps, crop, batch), ...), each of at least 1, crops of at most {LARGEST_CROP}",
        several(row(count, whole(1, LARGEST_CROP), count), least=1).fits,
    ),
    "data.p_absent": share,
    "data.p_keep_one": share,
    "data.p_joint": share,
    "data.color_jitter": share,
    "data.p_partial_strength": share,
    "data.noise_mode": one_of("uint8", "float"),
    "data.synthesis": one_of(*SYNTHESES),
    "data.noise_shares": row(*[number(0)] * len(NOISES)),
    "data.recipes": several(row(one_of(*TASKS), text, number(0))),
    "data.cover": row() | row(share, share),
    "data.oversample": row(number(1), number(1)),
    "data.distinct": interval,
    "data.typos": share,
    "data.on_damaged": one_of(STOP, SKIP),
    "data.check": one_of(*CHECKS),
    "data.workers": interval,
    "data.tfds_dir": text,
    "data.cache_mb": number(0),
    "data.decoded": text,
    "guidance.kinds": several(one_of(*KINDS)),
    "guidance.weights": several(number(0)),
    "guidance.path": text,
    "guidance.size": count,
    "guidance.window": one_of("full", "crop"),
    "guidance.dinov2": text,
    "guidance.dinov2_offset": number(0, 1),
    "stack.path": text,
    "stack.vae": text,
    "stack.image_encoder": text,
    "stack.image_to_text": text,
    "stack.dtype": dtype,
    "stack.remat": kept,
    "stack.template": text,
    "loss.l1": number(0),
    "loss.charbonnier": number(0),
    "loss.psnr": number(0),
    "loss.fft": number(0),
    "loss.coarse": number(0),
    "loss.kl": number(0),
    "loss.align": number(0),
    "loss.denoise": number(0),
    "loss.words": number(0),
    "loss.cosine": number(0),
    "loss.same": number(0),
    "loss.meaning": number(0),
    "loss.mixup": number(0),
    "optim.lr": number(0),
    "optim.lr_of": several(row(pattern, number(0))),
    "optim.schedule": one_of(
        "constant", "cosine", "paper", "executed", "cosine_epochs", "cosine_restarts"
    ),
    "optim.warmup": interval,
    "optim.end": share,
    "optim.warmup_epochs": interval,
    "optim.max_epochs": count,
    "optim.steps_per_epoch": count,
    "optim.periods": several(count),
    "optim.restart_weights": several(number(0)),
    "optim.eta_mins": several(number(0) | nothing),
    "optim.b1": decay,
    "optim.b2": decay,
    "optim.eps": number(0),
    "optim.weight_decay": number(0),
    "optim.no_decay": pattern,
    "optim.mu_dtype": dtype,
    "optim.clip": number(0),
    "allow_changes": flag,
    "accumulate": count,
    "ema": share,
    "mesh.fsdp": interval,
    "mesh.rules": several(row(pattern, whole() | nothing)),
    "mesh.min_size": interval,
    "log_every": count,
    "peak_tflops": number(0),
    "save_every": count,
    "keep": count,
    "eval_every": interval,
    "panel_every": interval,
    "eval_data.path": text,
    "eval_data.settings": several(text),
    "eval_data.limit": interval,
    "eval_data.size": interval,
    "eval_data.guidance": text,
}
OPEN = "network.overrides"  # fields of the network, which checks them itself


def check(config: Mapping) -> None:
    """Hold every field of a config against what it may be.

    Args:
        config: nested, such as an `ml_collections.ConfigDict`.

    Raises:
        InputError: a field is unknown, missing, or has a value that does not fit; names it, its
            value and what is allowed.
    """
    found = dict(_flat(config))
    for name, value in found.items():
        if name not in FIELDS:
            raise InputError(unknown(name))
        if not FIELDS[name].fits(value):
            raise InputError(f"config.{name} is {value!r}; give {FIELDS[name].says}")
    if missing := [name for name in FIELDS if name not in found]:
        raise InputError(
            f"config.{missing[0]} is missing; begin with the get_config() of configs/common.py"
        )


def unknown(name: str) -> str:
    """What is to be said of a field that there is not, by its dotted name."""
    near = difflib.get_close_matches(name, FIELDS, n=1)
    advice = f"did you mean config.{near[0]}?" if near else "configs/common.py has them all"
    return f"config.{name} is no field of a training config; {advice}"


def _flat(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        dotted = prefix + name
        if hasattr(value, "items"):
            yield from () if dotted == OPEN else _flat(value, f"{dotted}.")
        else:
            yield dotted, value
