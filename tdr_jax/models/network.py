"""A network without its parameters: pure functions of a flat dict of dotted names."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, PyTree

from tdr_jax.errors import InputError
from tdr_jax.nn import remat
from tdr_jax.nn.typing import Array

Params = dict[str, Float[Array, "..."]]

# What a normalisation counts instead of learning: parameters by name, not by number.
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


PICTURES = ((1, 1), (3, 3), (6, 3))  # channels in and out: grey, colour, left and right view


@dataclasses.dataclass(frozen=True)
class EncoderRecord:
    """Which text encoder a network was trained with.

    Attributes:
        name: a shipped one's, or of its folder.
        digest: of its parameters, the first 16 hexadecimal digits of their SHA-256.
    """

    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} ({self.digest})"


class Capabilities:
    """What something is to be given to restore a picture, as its `name` and `config` tell."""

    name: str
    config: Any
    encoder: EncoderRecord | None = None

    @property
    def takes_sentence(self) -> bool:
        """Whether it restores as a sentence asks."""
        return getattr(self.config, "text_dim", None) is not None

    @property
    def takes_strength(self) -> bool:
        """Whether it has learnt that a shorter sentence vector asks for less."""
        return getattr(self.config, "text_strength", False)

    @property
    def takes_guidance(self) -> bool:
        """Whether it restores with the help of a guidance picture."""
        return getattr(self.config, "guided", False)

    @property
    def takes_two_views(self) -> bool:
        """Whether it restores the left view of a dual-pixel camera from both."""
        return getattr(self.config, "channels", (0, 0))[0] == 6

    @property
    def padding(self) -> str:
        """How it continues pictures whose sides do not fit: "reflect" or "zeros"."""
        return getattr(self.config, "padding", "reflect")

    @property
    def heeds_extent(self) -> bool:
        """Whether it restores pictures that fill less than the arrays they come in."""
        return getattr(self.config, "heeds_extent", False)

    @property
    def trained_for(self) -> tuple[str, ...]:
        """The degradations that it is known to have been trained for."""
        return tuple(getattr(self.config, "trained_for", ()))

    def check_restores(self, encoder: Any) -> None:
        """Refuses what restores no pictures, or an encoder that it does not need.

        Args:
            encoder: has a `dim`, and a `record` where it is known; None for a network that takes
                no sentence.

        Raises:
            InputError: other channels are mapped, or the encoder is missing, superfluous, of
                another width or another than the network was trained with.
        """
        channels = getattr(self.config, "channels", None)
        if channels is None:
            raise InputError(f"{self.name} is no network that restores pictures")
        if channels not in PICTURES:
            raise InputError(
                f"network {self.name} makes {channels[1]} channels of {channels[0]}; it can be "
                "given grey pictures (1, 1), colour (3, 3) and two views (6, 3)"
            )
        if not self.takes_sentence:
            if encoder is not None:
                raise InputError(f"network {self.name} takes no sentence; leave the encoder out")
            return
        wanted = self.config.text_dim
        if encoder is None:
            raise InputError(f"network {self.name} takes sentences; it needs a text encoder")
        if encoder.dim != wanted:
            raise InputError(
                f"network {self.name} takes sentences as {wanted} numbers, but the text "
                f"encoder gives {encoder.dim}; use the encoder it was trained with"
            )
        used = getattr(encoder, "record", None)
        if self.encoder and used and self.encoder.digest != used.digest:
            raise InputError(
                f"network {self.name} was trained with the text encoder {self.encoder}, not with "
                f"{used}; use the first, or insist: --encoder NAME, in Python insist=True"
            )

    def abstract_inputs(self, side: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns what a network that restores pictures takes for a single square one.

        Args:
            side: of the picture, and of guidance, in pixels.
        """
        shapes = [(1, side, side, self.config.channels[0])]
        if self.takes_guidance:
            shapes.append((1, side, side, 3))
        if self.takes_sentence:
            shapes.append((1, self.config.text_dim))
        return tuple(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)


@dataclasses.dataclass(frozen=True)
class Network(Capabilities):
    """A network without its parameters: pure functions of a flat dict of dotted names.

    Attributes:
        name, config: as in `build`.
        encoder: the text encoder it was trained with; None where that is not known.
    """

    name: str
    config: Any
    _module: type[nnx.Module]
    encoder: EncoderRecord | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self):
        remat.name_of(getattr(self.config, "remat", False))

    @property
    def kind(self) -> str:
        """The class of the network, whatever its size: the key of its conversion table."""
        return self._module.__name__

    @property
    def size(self) -> int:
        """The number of learnt parameters."""
        shapes = self.abstract_params().items()
        return sum(math.prod(spec.shape) for key, spec in shapes if not key.endswith(RUNNING))

    def has(self, method: str) -> bool:
        """Whether the network has that method, so that `apply` can be asked for it."""
        return callable(getattr(self._module, method, None))

    def replace(self, **fields: Any) -> "Network":
        """Returns the network with other fields in its config, `dtype` for one."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **fields))

    def module(self) -> nnx.Module:
        """Makes the module itself, for another network that holds it."""
        return self._module(self.config)

    @property
    def _split(self) -> tuple[nnx.GraphDef, dict[tuple, Any]]:
        return _split(self._module, self.config)

    def init(self, seed: int = 0) -> Params:
        """Draws float32 parameters; the same seed gives the same values on every machine."""
        # Not by jnp.asarray, which compiles a program for every new shape.
        return {
            _dotted(path): jax.device_put(_draw(param, (seed, zlib.crc32(_dotted(path).encode()))))
            for path, param in self._split[1].items()
        }

    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of the parameters without computing any."""
        return {
            _dotted(path): jax.ShapeDtypeStruct(param.shape, param.dtype)
            for path, param in self._split[1].items()
        }

    def apply(
        self, params: Params, *inputs: PyTree, method: str = "__call__", **kwargs: Any
    ) -> PyTree:
        """Calls a method of the network with these parameters; works under every jax transform.

        Raises:
            InputError: the names or shapes of `params` are not this network's.
        """
        graphdef, spec = self._split
        check(params, self.abstract_params(), f"network {self.name}")
        state = nnx.from_flat_state(
            [(path, param.replace(params[_dotted(path)])) for path, param in spec.items()]
        )
        return getattr(nnx.merge(graphdef, state), method)(*inputs, **kwargs)


@functools.lru_cache(maxsize=64)  # the same network is built anew for every file and every test
def _split(make, config) -> tuple[nnx.GraphDef, dict[tuple, Any]]:
    """Splits a module that is not computed into its structure and its parameters by path."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(config)), nnx.Param)
    return graphdef, dict(nnx.to_flat_state(state))


def _draw(param, key: tuple[int, int]) -> np.ndarray:
    """Draws one parameter from its own stream, so that the value hangs on seed and name alone."""
    initial = param.get_metadata("initial")
    generator = np.random.Generator(np.random.Philox(key=key))
    values = np.full(param.shape, initial.constant)
    if initial.bound:
        values += generator.uniform(-initial.bound, initial.bound, param.shape)
    if initial.std:
        values += initial.std * generator.standard_normal(param.shape)
    return values.astype(np.float32)


def _dotted(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def check(params: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Compares names and shapes with the expected ones.

    Raises:
        InputError: lists every missing, unexpected and misshapen name at once.
    """
    faults = [f"missing {name}" for name in expected if name not in params]
    faults += [f"unexpected {name}" for name in params if name not in expected]
    faults += [
        f"{name} is {tuple(params[name].shape)}, not {tuple(spec.shape)}"
        for name, spec in expected.items()
        if name in params and tuple(params[name].shape) != tuple(spec.shape)
    ]
    if faults:
        raise InputError(f"parameters do not fit {what}: " + "; ".join(faults))
