"""What a network is to be given: a sentence or none, guidance or none, one picture or two views."""

from tdr_jax.errors import InputError

PICTURES = ((1, 1), (3, 3), (6, 3))  # channels in and out: grey, colour, left and right view


def sentence(network) -> bool:
    """Whether the network restores as a sentence asks."""
    return getattr(_config(network), "text_dim", None) is not None


def _config(network):
    return getattr(network, "config", None)  # a pipeline of several networks has none


def trained_for(network) -> tuple[str, ...]:
    """The tasks of `tdr_jax.text` that the network is known to have been trained for."""
    return tuple(getattr(_config(network), "trained_for", ()))


def strength(network) -> bool:
    """Whether the network has learnt that a shorter sentence vector asks for less."""
    return getattr(_config(network), "text_strength", False)


def guidance(network) -> bool:
    """Whether the network restores with the help of a guidance picture."""
    return getattr(_config(network), "guided", False)


def two_views(network) -> bool:
    """Whether the network restores the left view of a dual-pixel camera from both."""
    return network.config.channels[0] == 6


def check(network, encoder) -> None:
    """Refuse a network that restores no pictures, or an encoder that it does not need.

    Args:
        network: has a `config` with `channels`, and `text_dim` if it takes a sentence.
        encoder: has a `dim`; None for a network that takes no sentence.

    Raises:
        InputError: the network maps other channels, or the encoder is missing, superfluous or of
            another width.
    """
    channels = getattr(_config(network), "channels", None)
    if channels is None:
        name = getattr(network, "name", "a diffusion pipeline")
        raise InputError(f"{name} is no network that restores pictures")
    if channels not in PICTURES:
        raise InputError(
            f"network {network.name} makes {channels[1]} channels of {channels[0]}; it can be "
            "given grey pictures (1, 1), colour (3, 3) and two views (6, 3)"
        )
    if not sentence(network):
        if encoder is not None:
            raise InputError(f"network {network.name} takes no sentence; leave the encoder out")
        return
    wanted = network.config.text_dim
    if encoder is None:
        raise InputError(f"network {network.name} takes sentences; it needs a text encoder")
    if encoder.dim != wanted:
        raise InputError(
            f"network {network.name} takes sentences as {wanted} numbers, but the text "
            f"encoder gives {encoder.dim}; use the encoder it was trained with"
        )
