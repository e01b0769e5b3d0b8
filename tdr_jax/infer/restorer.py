"""From a picture, a sentence and guidance to the restored picture, whatever its size and type."""

import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from tdr_jax.errors import InputError
from tdr_jax.images.arrays import open_guidance, open_picture
from tdr_jax.infer import conditioning
from tdr_jax.infer.core import MEMORY, Core

if TYPE_CHECKING:  # the parsers of commands import this, and need no JAX
    pass

MODEL = "textpromptir-compact"
GUIDED_MODEL = "guided-compact"  # for noise; what is used with guidance unless asked otherwise


class Restorer(Core):
    """Restores pictures, as a sentence asks and with guidance where the network takes them.

    Args:
        network: a Network whose apply(params, images) restores images. If its config is `guided`,
            guidance follows the images, and if it has a `text_dim`, vectors come last.
        params: its flat dict of parameters.
        encoder: anything with `.dim` and `.encode(list of str) -> float32 (N, dim)`; None for a
            network that takes no sentence.
        rows: how many devices each picture is cut over, by its rows; None or 0 for one device.

    Raises:
        InputError: the network restores no pictures, or the encoder is not what it needs; there
            are fewer devices, or the network cannot work on rows.
    """

    def __init__(self, network, params: dict[str, Any], encoder=None, *, rows: int | None = None):
        network.check_restores(encoder)
        super().__init__(network, params, rows)
        self.encoder = encoder

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike = MODEL,
        encoder: Any = None,
        *,
        insist: bool = False,
        rows: int | None = None,
    ) -> "Restorer":
        """Load a network with its weights.

        Args:
            name_or_path: what `tdr_jax.load` takes: a name with shipped weights, our own folder
                or file, or a PyTorch checkpoint.
            encoder: a text encoder, or the name or folder of one; loaded only if the network
                takes a sentence. By default the one that the weights name, or "minilm".
            insist: take `encoder` although the weights name another, which is then told.
            rows: as for the class.

        Returns:
            the Restorer.

        Raises:
            InputError: there are no such weights, or they were trained with another encoder than
                the one given; or as for the class.
        """
        from tdr_jax import weights

        network, params = weights.load(name_or_path)
        network, encoder = weights.with_encoder(network, encoder, insist=insist)
        return cls(network, params, encoder, rows=rows)

    def __call__(
        self,
        image: Any,
        prompt: str | Sequence[str] | None = None,
        *,
        guidance: Any = None,
        right: Any = None,
        strength: float = 1.0,
        max_pixels: int | None = None,
        memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Restore one picture; its size never changes.

        A picture for which there is memory goes through the network whole, continued at the right
        and lower edge up to the multiple the network needs, by reflection or by zeros as it does
        itself (`network.padding`). A larger one goes through strip by strip, which gives the same,
        where the network allows it (`network.heeds_extent`). Where it does not, or there is no
        memory for that either, or where `max_pixels` is given, the picture is cut into equal tiles,
        which overlap and are blended with raised-cosine weights, so the memory needed stays that of
        one tile. The network looks at statistics of everything it is given; those are then taken
        tile by tile, so the result differs a little from that of the whole picture, most where
        parts of the picture differ in how bad they are. Where an allocation fails all the same, the
        next of these ways is taken, and a warning says so.

        With `rows`, the picture or tile is cut over the devices, and reflected at the lower edge
        until each has the same number of rows, a multiple of what the network needs.

        Each tile sees the whole guidance. Guidance of more pixels than the picture, or a tile of
        it, is shrunk to as many first, but not to fewer than 2**18; it never has more than 2**20.
        So the memory needed stays bounded whatever is given.

        A network for colour sees a grey picture three times, and the mean of what it answers is
        the result. A network for grey restores a colour picture one channel after the other,
        or once if the three are equal.

        Args:
            image: an `images.Picture`; uint8, uint16 or float array (H, W, 3), or grey (H, W) or
                (H, W, 1), float in [0, 1], NumPy or JAX; or a PIL image, whose alpha stays as it
                is. Palette and CMYK images become RGB or RGBA, 1-bit ones L.
            prompt: what to do, in words, such as "remove the noise"; several sentences, all of
                which are to be fulfilled; "auto" for whatever the picture shows, which may be
                nothing, and then it comes back as it is; None for a network that takes no sentence.
            guidance: for a guided network, a picture that shows what the restored one should look
                like, such as another photograph of the scene: of any type that `image` may have,
                grey too, and any size; else None.
            right: the right view, like `image` and of its size, for a network that restores the
                left view from both; else None.
            strength: 1 gives the restored picture, 0 the input; between them, a network that has
                learnt it (`config.text_strength`) does less, and of others it is a blend.
            max_pixels: the most pixels that go through the network at once, at least 4096 for each
                device; larger pictures are cut into tiles. None chooses by `memory`.
            memory: bytes for intermediate results of the network. None means 3 GiB, and no more
                than 2**21 pixels at once, see `Restorer.max_pixels`.
            progress: called as progress(parts done, parts in all) before the first tile or strip
                and after each.

        Returns:
            the restored picture, same type and size as `image`, float in [0, 1].

        Raises:
            InputError: the image, prompt, guidance, view, strength or max_pixels is not as above or
                not what the network takes; memory is too small; or the network's answer is not
                finite.
        """
        self.check(prompt, guidance, right)
        conditioning.check_strength(strength)
        pixels, close = open_picture(image)
        others = self._condition(pixels, prompt, strength)
        if others is None:
            return close(pixels)
        given = self._given(pixels, right)
        most = self._at_once(*pixels.shape[:2], max_pixels, memory)
        if guidance is not None:
            others = (_guidance(guidance, pixels, most), *others)
        limit = None if max_pixels is not None else memory or MEMORY
        restored = self._through("__call__", given, others, most, progress, limit)
        return close(self._finish(restored, pixels, strength))

    def many(
        self,
        images: Sequence[Any],
        prompts: Sequence[str | Sequence[str] | None],
        *,
        batch: int = 8,
        strength: float = 1.0,
        memory: int | None = None,
    ) -> list[Any]:
        """Restore several pictures at once, those whose sizes share a program together.

        Args:
            images, strength, memory: as for one; the network takes neither guidance nor two views.
            prompts: of each.
            batch: the most that go through the network together; those for which `prepare` has
                chosen no program, or that are too large, go one by one.

        Returns:
            the restored pictures, each of the type of its image, as they would be one by one.

        Raises:
            InputError: as for one.
        """
        conditioning.check_strength(strength)
        for prompt in prompts:
            self.check(prompt)
        opened = [open_picture(image) for image in images]
        restored: list[Any] = [None] * len(opened)
        groups: dict[tuple[int, int], list[tuple[int, np.ndarray, tuple]]] = {}
        for index, ((pixels, close), prompt) in enumerate(zip(opened, prompts, strict=True)):
            others = self._condition(pixels, prompt, strength)
            size = self.bucket(*pixels.shape[:2])
            most = self._at_once(*pixels.shape[:2], None, memory)
            given = self._given(pixels, None)
            if others is None:
                restored[index] = close(pixels)
            elif len(given) > 1 or size is None or math.prod(size) > most:
                limit = memory or MEMORY
                answer = self._through("__call__", given, others, most, None, limit)
                restored[index] = close(self._finish(answer, pixels, strength))
            else:
                groups.setdefault(size, []).append((index, given[0], others))
        for size, jobs in groups.items():
            count = max(1, min(batch, self._at_once(*size, None, memory) // math.prod(size)))
            for some in (jobs[i : i + count] for i in range(0, len(jobs), count)):
                # As many always, so that one program serves all: the last again and again.
                filled = [*some, *[some[-1]] * (count - len(some))]
                answers = self._in_bucket([j[1] for j in filled], [j[2] for j in filled], size)
                answers = answers[: len(some)]
                for (index, *_), answer in zip(some, answers, strict=True):
                    pixels, close = opened[index]
                    restored[index] = close(self._finish(answer, pixels, strength))
        return restored

    def _condition(
        self, pixels: np.ndarray, prompt: str | Sequence[str] | None, strength: float
    ) -> tuple[Float32[np.ndarray, " e"], ...] | None:
        """Return the sentence vector that goes with a picture, if any; None if nothing is asked."""
        if prompt is None:
            return ()
        prompts = self.prompts(pixels, prompt)
        scale = strength if self.network.takes_strength else 1
        return (conditioning.vector(self.encoder, prompts, scale),) if prompts else None

    def _finish(self, restored: np.ndarray, pixels: np.ndarray, strength: float) -> np.ndarray:
        """Return what the network made of a picture in the picture's channels, in [0, 1]."""
        if restored.shape[-1] > pixels.shape[-1]:
            restored = restored.mean(-1, keepdims=True)
        elif restored.shape[-1] < pixels.shape[-1]:
            restored = np.repeat(restored, 3, -1)
        if strength < 1 and (strength == 0 or not self.network.takes_strength):
            restored *= np.float32(strength)
            restored += np.float32(1 - strength) * pixels
        return np.clip(restored, 0, 1, out=restored)

    def confidence(
        self,
        image: Any,
        guidance: Any,
        *,
        right: Any = None,
        max_pixels: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float32[np.ndarray, "h w"]:
        """Tell how sure a guided network is, place by place, of what it found in the guidance.

        Args:
            image, guidance, right, max_pixels, progress: as for restoring.

        Returns:
            About 0 to 1: the cosine between the features of each place and of the
            one it was matched with, the mean over the channels that are restored one by one.

        Raises:
            InputError: as for restoring.
        """
        conditioning.check_guidance(self.network, guidance)
        conditioning.check_views(self.network, right)
        pixels, _ = open_picture(image)
        given = self._given(pixels, right)
        most = self._at_once(*pixels.shape[:2], max_pixels)
        others = (_guidance(guidance, pixels, most),)
        return self._through("confidence", given, others, most, progress).mean(-1)

    def prompts(self, image: Any, prompt: str | Sequence[str]) -> tuple[str, ...]:
        """Tell which sentences a picture is restored with.

        Args:
            image, prompt: as for restoring.

        Returns:
            the sentences; of "auto" one for each degradation that the picture shows and that the
            network was trained for, so perhaps none.
        """
        if prompt == conditioning.AUTO:
            from tdr_jax.infer import blind

            return blind.prompts(blind.shipped()(image), self.network)
        return (prompt,) if isinstance(prompt, str) else tuple(prompt)

    def check(
        self, prompt: str | Sequence[str] | None, guidance: Any = None, right: Any = None
    ) -> None:
        """Raise InputError unless there is just what the network takes beside the picture."""
        conditioning.check_prompt(self.network, prompt)
        conditioning.check_guidance(self.network, guidance)
        conditioning.check_views(self.network, right)

    def _given(self, pixels: np.ndarray, right) -> list[np.ndarray]:
        """Return what goes through the network one after the other, each (H, W, channels in)."""
        if right is not None:
            other, _ = open_picture(right)
            if other.shape[:2] != pixels.shape[:2]:
                sizes = (f"{array.shape[1]}x{array.shape[0]}" for array in (other, pixels))
                raise InputError("the right view is {}, but the left one {}".format(*sizes))
            return [np.concatenate([_colour(pixels), _colour(other)], -1)]
        if self.network.config.channels[0] > 1:
            return [_colour(pixels)]
        planes = [pixels[..., i : i + 1] for i in range(pixels.shape[-1])]
        equal = all(np.array_equal(plane, planes[0]) for plane in planes[1:])
        return planes[:1] if equal else planes


def _guidance(guidance, pixels: np.ndarray, most: int) -> np.ndarray:
    """Return guidance (h, w, 3) for a picture of which `most` pixels are restored at once."""
    height, width, _ = pixels.shape
    return open_guidance(guidance, min(height * width, most))


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
