"""PromptIR and TextPromptIR for spandrel, which loads the models of chaiNNer and ComfyUI.

spandrel takes both for Restormer, because they hold every name it asks for, and then fails to load
them. `install` registers architectures that are asked before Restormer is. Importing this module
imports torch and spandrel, whose classes it extends; nothing else in the package imports it.
"""

import copy
import functools
import inspect
import os
from collections.abc import Callable

import spandrel
import torch
from spandrel.util import KeyCondition

from tdr_jax import models
from tdr_jax.convert import io, recognise, tables, torch_modules
from tdr_jax.errors import InputError

PROMPT_VARIABLE = "TDR_PROMPT"

_PROMPTIR = KeyCondition.has_all(
    "patch_embed.proj.weight",
    "encoder_level1.0.attn.temperature",
    "latent.0.attn.temperature",
    *(f"prompt{level}.prompt_param" for level in (1, 2, 3)),
    *(f"noise_level{level}.attn.temperature" for level in (1, 2, 3)),
    *(f"reduce_noise_level{level}.weight" for level in (1, 2, 3)),
)
_TEXTPROMPTIR = KeyCondition.has_all(
    "patch_embed.proj.weight",
    "linear1.weight",
    "linear2.weight",
    "encoder_level1.0.attn.fusion.conv.weight",
    "encoder_level1.0.attn.linear1_1.weight",
    "latent.0.ffn.linear7_2.weight",
)


class PromptIRArch(spandrel.Architecture[torch_modules.PromptIR]):
    """Finds and loads PromptIR checkpoints, the authors' Lightning files among them."""

    def __init__(self):
        super().__init__(id="PromptIR", detect=lambda state: _PROMPTIR(_bare(state)))

    def load(self, state_dict: spandrel.StateDict) -> spandrel.ImageModelDescriptor:
        """Builds the network that the shapes describe, and fills it.

        Raises:
            InputError: a tensor that tells a hyper-parameter is missing.
            RuntimeError: by torch, other tensors are missing, left over or misshapen.
        """
        hyper, state = _read(torch_modules.PromptIR, state_dict)
        return _describe(self, torch_modules.PromptIR(**hyper), state, hyper)


class Prompted(torch_modules.TextPromptIR):
    """TextPromptIR that remembers what it was asked for, so that it maps pictures to pictures.

    Args:
        vector_of: from a prompt and the width wanted to a float32 tensor of that width.
        **hyper: of TextPromptIR.
    """

    def __init__(self, vector_of: Callable, **hyper):
        super().__init__(**hyper)
        self.hyper = hyper
        self.sentence: torch.Tensor | None = None  # not in the state dict, as it is no weight
        self._vector_of = vector_of

    def set_prompt(self, prompt) -> None:
        """Asks for something else from now on.

        Args:
            prompt: words, or a vector of `text_dim` numbers from the encoder of the training.

        Raises:
            InputError: there are no words, or the vector has another length than the network takes.
        """
        self.sentence = self._vector_of(prompt, self.linear1.in_features)[None]

    def forward(self, images, text=None):
        if text is None and self.sentence is None:
            raise InputError(
                "TextPromptIR has no prompt: give one to spandrel_plugin.install(prompt=...), to "
                f"the model's set_prompt, or in the environment variable {PROMPT_VARIABLE}"
            )
        text = self.sentence if text is None else text
        return super().forward(images, text.to(images).expand(images.shape[0], -1))


class TextPromptIRArch(spandrel.Architecture[Prompted]):
    """Finds and loads TextPromptIR checkpoints.

    Args:
        prompt: words or a vector that every loaded model starts with; without one, what the
            environment variable TDR_PROMPT says when a model is loaded.
        encoder: as in `install`.
    """

    def __init__(self, prompt=None, encoder="minilm"):
        super().__init__(id="TextPromptIR", detect=lambda state: _TEXTPROMPTIR(_bare(state)))
        self._prompt, self._vector_of = prompt, _vector_function(encoder)

    def load(self, state_dict: spandrel.StateDict) -> spandrel.ImageModelDescriptor:
        """Builds the network that the shapes describe, fills it and sets the prompt, if any.

        Raises:
            InputError: a tensor that tells a hyper-parameter is missing, or the prompt does not
                fit.
            RuntimeError: by torch, other tensors are missing, left over or misshapen.
        """
        hyper, state = _read(torch_modules.TextPromptIR, state_dict)
        model = Prompted(self._vector_of, **hyper)
        prompt = self._prompt
        if prompt is None:
            prompt = os.environ.get(PROMPT_VARIABLE) or None
        if prompt is not None:
            model.set_prompt(prompt)
        return _describe(self, model, state, hyper)


def install(
    prompt=None,
    encoder="minilm",
    *,
    ignore_duplicates: bool = False,
    registry: spandrel.ArchRegistry = spandrel.MAIN_REGISTRY,
) -> list[spandrel.ArchSupport]:
    """Makes spandrel load PromptIR and TextPromptIR.

    spandrel-extra-arches, which brings Restormer, may be installed before, afterwards or never.

    Args:
        prompt: what TextPromptIR models are asked for, in words or as a vector; without one, the
            environment variable TDR_PROMPT decides when a model is loaded. `set_prompt` of a loaded
            model changes it, `with_prompt` makes a second model.
        encoder: turns words into vectors: a name or folder for `tdr_jax.text.TextEncoder`, or an
            object with its `encode`. Read when words are first turned into a vector.
        ignore_duplicates: when installed already, keep what is there, its prompt and encoder too.
        registry: of spandrel; all loaders without one of their own use the main one.

    Returns:
        What was added to the registry.

    Raises:
        spandrel.DuplicateArchitectureError: installed already, unless `ignore_duplicates`.
    """
    return registry.add(
        *(
            spandrel.ArchSupport.from_architecture(arch, before=(spandrel.ArchId("Restormer"),))
            for arch in (PromptIRArch(), TextPromptIRArch(prompt, encoder))
        ),
        ignore_duplicates=ignore_duplicates,
    )


def with_prompt(descriptor: spandrel.ImageModelDescriptor, prompt) -> spandrel.ImageModelDescriptor:
    """Returns a second TextPromptIR with another prompt; both share their weights.

    Args:
        descriptor: a loaded TextPromptIR; stays as it is.
        prompt: as in `Prompted.set_prompt`.

    Raises:
        InputError: `descriptor` is no TextPromptIR, or the prompt does not fit it.
    """
    if not isinstance(descriptor.model, Prompted):
        raise InputError(f"{descriptor.architecture.name} takes no prompt; TextPromptIR does")
    model = copy.copy(descriptor.model)
    model.set_prompt(prompt)
    return _describe(descriptor.architecture, model, model.state_dict(), model.hyper)


def _bare(state_dict: spandrel.StateDict) -> spandrel.StateDict:
    """Takes prefixes off the names, Lightning's `net.` too, which spandrel leaves."""
    return io.unwrapped(state_dict, [])[0]


def _read(module: type[torch.nn.Module], state_dict: spandrel.StateDict) -> tuple[dict, dict]:
    """Returns the arguments that `module` needs for these tensors, and the live ones among them."""
    state_dict = _bare(state_dict)
    name, overrides = recognise.recognise(state_dict)
    network = models.build(name, **overrides)
    arguments = inspect.signature(module).parameters
    hyper = {field: getattr(network.config, field) for field in arguments}
    table = tables.TABLES[network.kind]
    return hyper, {key: t for key, t in state_dict.items() if not table.is_dead(key)}


def _describe(architecture, model, state, hyper) -> spandrel.ImageModelDescriptor:
    """The descriptor's constructor also loads `state` into the model, strictly."""
    dim, shuffle = hyper["dim"], hyper.get("input_shuffle", 1)
    return spandrel.ImageModelDescriptor(
        model,
        state,
        architecture=architecture,
        purpose="Restoration",
        tags=[f"{dim}dim", *([f"{hyper['text_dim']}text"] if "text_dim" in hyper else [])],
        supports_half=False,
        supports_bfloat16=True,
        scale=1,
        input_channels=hyper["inp_channels"],
        output_channels=hyper["out_channels"],
        size_requirements=spandrel.SizeRequirements(multiple_of=8 * shuffle),
        # Both look at means over all they are given, so tiles differ from the whole.
        tiling=spandrel.ModelTiling.DISCOURAGED,
    )


def _vector_function(encoder) -> Callable:
    """Returns a function from (words or vector, width wanted) to a vector.

    It is a function, not an object, so that copies of a model share the encoder.
    """

    @functools.cache
    def load():
        if not isinstance(encoder, (str, os.PathLike)):
            return encoder
        from tdr_jax import text

        return text.TextEncoder.from_pretrained(encoder)

    def vector_of(prompt, width: int) -> torch.Tensor:
        words = isinstance(prompt, str)
        given = load().encode([prompt.strip()])[0] if words else prompt
        try:
            vector = torch.as_tensor(given, dtype=torch.float32, device="cpu").clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a prompt is words or a vector of numbers, not {prompt!r}") from error
        if vector.shape == (width,):
            return vector
        source = "the text encoder gives" if words else "the prompt holds"
        raise InputError(
            f"this checkpoint takes a sentence as {width} numbers, but {source} {vector.numel()}; "
            "give spandrel_plugin.install(encoder=...) the folder of the sentence-transformers "
            f"model that it was trained with, or as the prompt a vector of {width} numbers"
        )

    return vector_of
