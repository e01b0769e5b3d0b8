"""Words from pictures and words restored: what TDR trains around a frozen Stable Diffusion.

Parameters carry the names of TDR's `Mapper` and `CleanMapper`, with the word's index stacked away:
`mapping_3.0.weight` there is `mapping.0.kernel` at index 3. The copies of the UNet's keys and
values carry the UNet's own names behind `kv.`. Lin et al. 2023, arXiv 2312.17334; the first stage
follows ELITE, Wei et al. 2023, arXiv 2302.13848.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float, Int

from tdr_jax.errors import InputError
from tdr_jax.models import unet
from tdr_jax.nn import layers, remat
from tdr_jax.nn.attention import attend
from tdr_jax.nn.typing import Array

# Where a UNet attends to its context, and how wide it is there.
ATTENTION = re.compile(
    r"(mid_block|(down|up)_blocks\.\d+)\.attentions\.\d+\.transformer_blocks\.\d+\.attn2"
)


def _levels(down: dict[int, int], mid: int, up: dict[int, int]) -> tuple[tuple[str, int], ...]:
    """The cross attentions of a UNet with two layers a block, from the widths of its blocks."""
    places = [(f"down_blocks.{i}.attentions.{j}", w) for i, w in down.items() for j in range(2)]
    places += [("mid_block.attentions.0", mid)]
    places += [(f"up_blocks.{i}.attentions.{j}", w) for i, w in up.items() for j in range(3)]
    return tuple((f"{place}.transformer_blocks.0.attn2", width) for place, width in places)


# Those of Stable Diffusion 1 and 2.
STABLE_DIFFUSION = _levels({0: 320, 1: 640, 2: 1280}, 1280, {1: 1280, 2: 640, 3: 320})


@dataclasses.dataclass(frozen=True)
class ImageToTextConfig:
    """Sizes (defaults: CLIP ViT-H/14 and Stable Diffusion 2.1), then how to compute.

    `cross_attention` names the modules of the UNet whose keys and values are copied, each with its
    width; it is kept sorted by name. `attention` lets the words see each other at the end. `remat`
    makes one word after the other and recomputes them in the backward pass.
    """

    num_words: int = 20
    input_dim: int = 1280
    hidden_dim: int = 1280
    output_dim: int = 1024
    cross_attention: tuple[tuple[str, int], ...] = STABLE_DIFFUSION
    attention: bool = False
    dtype: str = "float32"
    remat: bool | str = False

    def __post_init__(self):
        _check_sizes(self, "num_words", "input_dim", "hidden_dim", "output_dim")
        places = tuple(sorted((str(path), int(width)) for path, width in self.cross_attention))
        for path, _ in places:
            if not ATTENTION.fullmatch(path):
                raise InputError(
                    f"cross_attention has {path!r}, which is no attention to the context; write "
                    f"it as {STABLE_DIFFUSION[0][0]!r}"
                )
        object.__setattr__(self, "cross_attention", places)  # lists, where it came from a file


@dataclasses.dataclass(frozen=True)
class TextualRestorationConfig:
    """Sizes (defaults: Stable Diffusion 2.1), variants beyond the paper, then how to compute.

    `residual` adds what comes out to the words that went in, and starts as the identity.
    `attention` and `remat` are `ImageToTextConfig`'s. `tasks` is the number of degradations that
    may be told apart, 0 for none.
    """

    num_words: int = 20
    input_dim: int = 1024
    hidden_dim: int = 1280
    residual: bool = False
    attention: bool = False
    tasks: int = 0
    dtype: str = "float32"
    remat: bool | str = False

    def __post_init__(self):
        _check_sizes(self, "num_words", "input_dim", "hidden_dim")
        if self.tasks < 0:
            raise InputError(f"tasks is {self.tasks}; give 0 for none, or their number")


def _places(places: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Cross-attentions in the first layer of each of a UNet's attentions, and their widths."""
    return tuple((f"{at}.transformer_blocks.0.attn2", width) for at, width in places.items())


SIZES = {
    "image-to-text": {},
    "image-to-text-sd15": dict(input_dim=1024, output_dim=768),
    "image-to-text-tiny": dict(
        num_words=4,
        input_dim=32,
        hidden_dim=48,
        output_dim=32,
        cross_attention=_places(
            {
                "down_blocks.0.attentions.0": 32,
                "mid_block.attentions.0": 64,
                "up_blocks.1.attentions.0": 32,
                "up_blocks.1.attentions.1": 32,
            }
        ),
    ),
    "tdr-tiny/image_to_text": dict(
        input_dim=128,
        hidden_dim=192,
        output_dim=128,
        cross_attention=_places(
            {
                "down_blocks.1.attentions.0": 128,
                "mid_block.attentions.0": 128,
                "up_blocks.0.attentions.0": 128,
                "up_blocks.0.attentions.1": 128,
            }
        ),
    ),
    "textual-restoration": {},
    "textual-restoration-sd15": dict(input_dim=768),
    "textual-restoration-tiny": dict(num_words=4, input_dim=32, hidden_dim=48),
    "tdr-tiny/textual_restoration": dict(
        input_dim=128, hidden_dim=128, residual=True, attention=True
    ),
}


def _check_sizes(config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be at least 1")


def _mlps(count: int, inputs: int, hidden: int, outputs: int, *, silent: bool = False) -> nnx.Dict:
    """One perceptron a word, stacked on a leading axis, under the indices of torch's Sequential.

    Args:
        count: number of words.
        inputs, hidden, outputs: widths.
        silent: the last layer starts at zero.
    """

    def one():
        last = layers.Linear(hidden, outputs)
        return nnx.Dict(
            {
                "0": layers.Linear(inputs, hidden),
                "1": layers.LayerNorm(hidden),
                "3": layers.Linear(hidden, hidden),
                "4": layers.LayerNorm(hidden),
                "6": layers.Linear(hidden, hidden),
                "7": layers.LayerNorm(hidden),
                "9": _silenced(last) if silent else last,
            }
        )

    return nnx.vmap(one, in_axes=(), out_axes=0, axis_size=count)()


def _silenced(linear: layers.Linear) -> layers.Linear:
    linear.kernel = layers.param(linear.kernel.shape)
    linear.bias = layers.param(linear.bias.shape)
    return linear


def _body(mlp, x):
    """All of a perceptron but its last layer."""
    for dense, norm in ("01", "34", "67"):
        x = jax.nn.leaky_relu(mlp[norm](mlp[dense](x)), 0.01)
    return x


def _per_word(function, stacks: tuple[nnx.Dict, ...], words, *, policy: bool | str) -> jax.Array:
    """Applies `function(mlps, word)` with each word's perceptrons: (N, ...) -> (N, ...).

    Args:
        function: of the tuple of one word's perceptrons and of that word.
        stacks: of the perceptrons.
        words: (N, ...), or None where the function needs none.
        policy: unless it is "none" one word after the other, each kept as it says.
    """
    graphdefs, params = zip(*(nnx.split(stack) for stack in stacks), strict=True)

    def one(params, word):
        mlps = tuple(nnx.merge(g, p) for g, p in zip(graphdefs, params, strict=True))
        return function(mlps, word)

    if remat.name_of(policy) != "none":
        run = remat.apply(policy, one)
        return lax.map(lambda args: run(*args), (params, words))
    return jax.vmap(one)(params, words)


class WordAttention(nnx.Module):
    """Self-attention between words after a norm, added to them; its last layer starts at zero."""

    def __init__(self, features: int):
        self.norm = layers.LayerNorm(features)
        self.to_q = layers.Linear(features, features)
        self.to_k = layers.Linear(features, features)
        self.to_v = layers.Linear(features, features)
        self.to_out = _silenced(layers.Linear(features, features))
        self.heads = features // 64 if features % 64 == 0 else 1  # CLIP's heads have 64 features

    def __call__(self, words: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps words to words of the same dtype."""
        x = self.norm(words)
        q, k, v = (
            dense(x).reshape(*x.shape[:-1], self.heads, -1)
            for dense in (self.to_q, self.to_k, self.to_v)
        )
        return words + self.to_out(attend(q, k, v).reshape(x.shape))


class KeysValues(nnx.Module):
    """A second pair of projections for one attention to the context."""

    def __init__(self, context: int, width: int):
        self.to_k = layers.Linear(context, width, bias=False)
        self.to_v = layers.Linear(context, width, bias=False)


class ImageToText(nnx.Module):
    """Pseudo-words out of what CLIP sees, and the UNet's keys and values that read them."""

    def __init__(self, config: ImageToTextConfig):
        self.config = config
        sizes = config.num_words, config.input_dim, config.hidden_dim, config.output_dim
        self.mapping = _mlps(*sizes)
        self.mapping_patch = _mlps(*sizes)
        self.kv = nnx.Dict(
            {path: KeysValues(config.output_dim, width) for path, width in config.cross_attention}
        )
        self.attention = WordAttention(config.output_dim) if config.attention else None

    def __call__(self, hidden: Float[Array, "b p c"]) -> Float[Array, "b n d"]:
        """Makes the words of pictures.

        Args:
            hidden: the last hidden state of CLIP's vision tower, not normalised: class token, then
                the patches; c = input_dim.

        Returns:
            num_words token embeddings for `inject`, of the config's dtype; d = output_dim.

        Raises:
            InputError: `hidden` has another shape.
        """
        config = self.config
        if hidden.ndim != 3 or hidden.shape[1] < 2 or hidden.shape[2] != config.input_dim:
            raise InputError(
                f"hidden states are {hidden.shape}, not (batch, 1 + patches, {config.input_dim}): "
                "give those of the vision tower that this network was made for"
            )
        x = hidden.astype(config.dtype)

        def word(mlps, _):
            of_class, of_patch = mlps
            # The last layer is linear: after the mean it gives the same for less.
            patches = _body(of_patch, x[:, 1:]).mean(1, dtype=jnp.float32).astype(x.dtype)
            return of_class["9"](_body(of_class, x[:, 0])) + of_patch["9"](patches)

        stacks = self.mapping, self.mapping_patch
        words = _per_word(word, stacks, None, policy=config.remat).swapaxes(0, 1)
        return words if self.attention is None else self.attention(words)


class TextualRestoration(nnx.Module):
    """Words of a degraded picture made those of a clean one, each by its own perceptron."""

    def __init__(self, config: TextualRestorationConfig):
        self.config = config
        width = config.input_dim
        self.mapping = _mlps(
            config.num_words, width, config.hidden_dim, width, silent=config.residual
        )
        self.attention = WordAttention(width) if config.attention else None
        self.task_embedding = Tasks(config.tasks, width) if config.tasks else None

    def __call__(
        self,
        words: Float[Array, "b n c"],
        task: Int[Array, "#b"] | Int[Array, ""] | int | None = None,
    ) -> Float[Array, "b n c"]:
        """Restores words.

        Args:
            words: of `ImageToText`; n = num_words, c = input_dim.
            task: in [0, tasks), the degradation of each picture or of all; None without `tasks`.

        Returns:
            Words of the config's dtype.

        Raises:
            InputError: `words` have another shape, or `task` is missing or unasked for.
        """
        config = self.config
        if words.ndim != 3 or words.shape[1:] != (config.num_words, config.input_dim):
            raise InputError(
                f"words are {words.shape}, not (batch, {config.num_words}, {config.input_dim}): "
                "give those of the network that this one was trained with"
            )
        if (task is None) == bool(config.tasks):
            remedy = "say which task each picture has" if config.tasks else "leave task out"
            raise InputError(f"the network was built with {config.tasks} tasks: {remedy}")
        words = x = words.astype(config.dtype)
        if task is not None:
            embedding = self.task_embedding.weight[...][jnp.asarray(task)].astype(x.dtype)
            x = x + jnp.broadcast_to(embedding, (len(x), x.shape[-1]))[:, None]

        def word(mlps, x):
            return mlps[0]["9"](_body(mlps[0], x))

        out = _per_word(word, (self.mapping,), x.swapaxes(0, 1), policy=config.remat)
        out = out.swapaxes(0, 1)
        out = words + out if config.residual else out
        return out if self.attention is None else self.attention(out)


class Tasks(nnx.Module):
    """One vector a task, zero at the start."""

    def __init__(self, count: int, features: int):
        self.weight = layers.param((count, features))


def cross_attention(of: Any) -> tuple[tuple[str, int], ...]:
    """Returns the attentions to the context of a UNet, sorted, for `ImageToTextConfig`.

    Args:
        of: the network, its flat parameters, or their shapes by name.
    """
    shapes = of.abstract_params() if hasattr(of, "abstract_params") else of
    keys = [name for name in unet.kv_names(shapes) if name.endswith(".to_k.kernel")]
    return tuple(sorted((key.removesuffix(".to_k.kernel"), shapes[key].shape[1]) for key in keys))


def kv(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the copied keys and values under the UNet's names, for the `kv` of its call.

    Args:
        params: flat parameters of an `ImageToText`, or their shapes by name.
    """
    return {k.removeprefix("kv."): array for k, array in params.items() if k.startswith("kv.")}


def with_kv(
    params: Mapping[str, Float[Array, "..."]], unet_params: Mapping[str, Float[Array, "..."]]
) -> dict[str, Float[Array, "..."]]:
    """Returns the parameters of an `ImageToText` with the UNet's own keys and values in them.

    Args:
        params: flat parameters of the `ImageToText`.
        unet_params: those of the UNet.

    Raises:
        InputError: the UNet attends to its context elsewhere, or with other widths.
    """
    copies = kv(params)
    own = {name: unet_params[name] for name in unet.kv_names(unet_params)}
    odd = sorted(own.keys() ^ copies.keys())
    odd += [k for k in own.keys() & copies.keys() if own[k].shape != copies[k].shape]
    if odd:
        raise InputError(
            f"the network's keys and values do not fit the UNet's: {len(odd)} are missing or of "
            f"another shape, {odd[0]} for one; build it with this UNet's cross_attention and width"
        )
    return dict(params) | {
        f"kv.{name}": jnp.array(array, params[f"kv.{name}"].dtype) for name, array in own.items()
    }


def inject(
    embeddings: Float[Array, "_ t c"],
    words: Float[Array, "b n c"],
    positions: Int[Array, " b"] | Int[Array, ""] | int,
) -> Float[Array, "b t c"]:
    """Puts words where the placeholder of each prompt stands.

    Args:
        embeddings: of the tokens of each picture's prompt, or of one for all, without positions.
        words: n at most t.
        positions: in [0, t), where the placeholder stands.

    Returns:
        Of the embeddings' dtype: the words from the placeholder on, then what stood behind it,
        n - 1 places further; what no longer fits is dropped.

    Raises:
        InputError: the shapes do not fit each other.
    """
    length, count = embeddings.shape[1], words.shape[1]
    fits = len(embeddings) in (1, len(words)) and count <= length
    if not fits or embeddings.shape[2] != words.shape[2]:
        raise InputError(
            f"words of shape {words.shape} cannot be put among embeddings of {embeddings.shape}"
        )
    start = jnp.broadcast_to(jnp.asarray(positions), len(words))[:, None]
    place = jnp.arange(length)
    kept = jnp.where(place < start, place, jnp.maximum(place - count + 1, 0))
    word = jnp.clip(place - start, 0, count - 1)
    is_word = (place >= start) & (place < start + count)
    embeddings = jnp.broadcast_to(embeddings, (len(words), *embeddings.shape[1:]))
    kept, new = (
        jnp.take_along_axis(source, index[..., None], axis=1)
        for source, index in ((embeddings, kept), (words.astype(embeddings.dtype), word))
    )
    return jnp.where(is_word[..., None], new, kept)
