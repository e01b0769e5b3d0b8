"""One picture over many devices, each of which has some of its rows."""

from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from tdr_jax import models
from tdr_jax.errors import InputError
from tdr_jax.nn.rows import AXIS
from tdr_jax.nn.typing import Array


class Rows:
    """A network's programs over devices that have some rows of the picture each.

    The devices exchange the rows next to each other's for filters, and sums for what the network
    asks about the whole picture: the result is that of one device up to rounding.

    Args:
        network: a Network that restores pictures.
        count: of devices.

    Raises:
        InputError: there are fewer devices, or the network does not work on rows.
    """

    def __init__(self, network, count: int):
        check_network(network)
        self.mesh = make_mesh(count)
        self._by_rows, self._replicated = (
            NamedSharding(self.mesh, spec) for spec in (P(None, AXIS), P())
        )

    def place(self, params: dict) -> dict:
        """Give each device the whole of the parameters; what is placed already stays."""
        return jax.device_put(params, self._replicated)

    def jit(self, function: Callable) -> Callable:
        """Prepare a function of (params, images, *others) for `run`."""
        return jax.jit(function, out_shardings=self._by_rows)

    def put(
        self, images: Float[Array, "1 h w c"], *others: Float[Array, "1 ..."]
    ) -> tuple[Float[jax.Array, "1 ..."], ...]:
        """Cut images and give each device the whole of the others."""
        return jax.device_put(images, self._by_rows), *jax.device_put(others, self._replicated)

    def run(
        self,
        program: Callable,
        params: dict,
        images: Float[Array, "1 h w c"],
        *others: Float[Array, "1 ..."],
    ) -> Float[jax.Array, "1 h w d"]:
        """Call what `jit` returned; it is compiled once for each shape.

        Args:
            program: maps images to images of d channels.
            params: from `place`.
            images: in [0, 1], h a multiple of the devices times what the network needs.
            *others: guidance or sentence vectors.

        Returns:
            What the program gave, cut like the images.
        """
        with jax.set_mesh(self.mesh):
            return program(params, *self.put(images, *others))


def make_mesh(count: int) -> Mesh:
    """Put devices in a row.

    Args:
        count: how many.

    Returns:
        a mesh with the axis "rows". Its type is Auto: Explicit axes, jax's default, reject pixel
        shuffle.

    Raises:
        InputError: there are fewer devices.
    """
    check_count(count)
    devices = jax.local_devices()
    if count > len(devices):
        there = "there is 1 device" if len(devices) == 1 else f"there are {len(devices)} devices"
        remedy = f"give {len(devices)} at most"
        if jax.default_backend() == "cpu":
            flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            remedy = f"set {flag} to have the CPU stand for {count}"
        raise InputError(f"rows is {count}, but {there}; {remedy}")
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def check_count(count: int) -> None:
    """Raise InputError if the number of devices is negative."""
    if count < 0:
        raise InputError(f"rows is {count}; give a number of devices, or 0 for one alone")


def check_network(network: models.Network) -> None:
    """Raise InputError if the network looks across rows in ways that cannot be cut."""
    config = network.config
    if network.takes_guidance:
        raise InputError(
            f"network {network.name} looks for each place in all of the guidance, which cannot be "
            "cut into rows; leave rows out"
        )
    # NAFNet's field and SFNet's property: means over windows, which lie across many devices.
    if getattr(config, "train_size", ()) or getattr(config, "base_size", None) is not None:
        raise InputError(
            f"network {network.name} takes means over windows of the picture, which cannot be cut "
            "into rows; leave rows out, or use weights that take them over the whole"
        )
