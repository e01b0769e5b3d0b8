"""CLIP's vision tower: pictures to hidden states of their patches, and to one vector.

Parameters carry the names of transformers' CLIPVisionModel, without a prefix and with the layer
index stacked away: `encoder.layers.3.self_attn.q_proj.weight` there is
`encoder.layers.blocks.self_attn.q_proj.kernel` at index 3. Architecture: Radford et al. 2021,
arXiv 2103.00020, section 2.4.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Shaped

from tdr_jax.models import vit
from tdr_jax.nn import layers
from tdr_jax.nn.typing import Array

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes under their Hugging Face names (defaults: CLIP ViT-B/32's), then how to compute.

    `with_projection` adds the product into the space that both towers share.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    with_projection: bool = False
    dtype: str = "float32"
    remat: bool | str = False
    scan_unroll: int = 1

    def __post_init__(self):
        vit.check_sizes(self)
        vit.check_patches(self)


SIZES = {
    "clip-vision": {},
    "clip-vit-b-32-openai": {},
    "clip-vit-b-16-openai": dict(patch_size=16),
    "clip-vit-l-14-openai": dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
    ),
    "clip-vit-h-14-laion": dict(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=1024,
    ),
    "clip-vit-tiny": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
        projection_dim=16,
    ),
    # Of the pipeline that this project trains itself; never a pretrained CLIP.
    "tdr-tiny/image_encoder": dict(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=64,
        with_projection=True,
    ),
}


def normalise(pictures: Shaped[Array, "*n 3"]) -> Float32[Array, "*n 3"]:
    """Turns pictures into the pixel values that CLIP's vision tower reads.

    Args:
        pictures: RGB in [0, 1].

    Returns:
        Less the mean of CLIP's training pictures, divided by their standard deviation.
    """
    mean, std = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)
    return (pictures - mean) / std


class VisionEmbeddings(nnx.Module):
    """Class token, patches and positions."""

    def __init__(self, config: ClipVisionConfig):
        size = config.hidden_size
        self.class_embedding = layers.param((size,), std=size**-0.5)
        self.patch_embedding = vit.Patches(config, bias=False)
        count = 1 + (config.image_size // config.patch_size) ** 2
        self.position_embedding = layers.Embedding(count, size)

    def __call__(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b t c"]:
        """Maps pictures to the class token and their patches.

        Args:
            pictures: as in `ClipVision.__call__`.

        Returns:
            Class token first, then the patches by rows, with positions, of the pictures' dtype;
            c = hidden_size.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        patches = self.patch_embedding(pictures)
        positions = self.position_embedding.weight[...]
        return vit.add_positions(self.class_embedding[...], patches, positions)


class ClipVision(nnx.Module):
    """The vision tower: a vision transformer that is normalised once before its first layer too."""

    def __init__(self, config: ClipVisionConfig):
        size, eps = config.hidden_size, config.layer_norm_eps
        self.dtype = config.dtype
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = layers.LayerNorm(size, eps=eps)  # the checkpoints' own spelling
        self.encoder = vit.Encoder(config, causal=False)
        self.post_layernorm = layers.LayerNorm(size, eps=eps)
        self.visual_projection = (
            layers.Linear(size, config.projection_dim, bias=False)
            if config.with_projection
            else None
        )

    def __call__(
        self, pictures: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b c"]]:
        """Runs the tower.

        Args:
            pictures: RGB as `normalise` gives them; any size from one patch on. What is left over
                of whole patches is cut off, positions are resized to the size.

        Returns:
            The last layer's output, class token first, then the patches by rows, not normalised;
            and the normalised class token. Both of the config's dtype; c = hidden_size.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        x = self.encoder(self._start(pictures))
        return x, self.post_layernorm(x[:, 0])

    def hidden_states(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "l b t c"]:
        """Runs the tower and keeps what every layer gives.

        Args:
            pictures: as in `__call__`.

        Returns:
            The normalised embeddings, then the output of each layer, of the config's dtype;
            l = num_hidden_layers + 1.

        Raises:
            InputError: not RGB pictures, or smaller than one patch.
        """
        return self.encoder.states(self._start(pictures))

    def project(self, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Carries pictures into the space that both towers share.

        Args:
            pictures: as in `__call__`.

        Returns:
            Of the config's dtype, not scaled to unit length; d = projection_dim.

        Raises:
            InputError: built without projection, not RGB pictures, or smaller than one patch.
        """
        return vit.projection(self.visual_projection)(self(pictures)[1])

    def _start(self, pictures):
        return self.pre_layrnorm(self.embeddings(pictures.astype(self.dtype)))
