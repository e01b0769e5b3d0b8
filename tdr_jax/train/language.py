"""The job of fine-tuning a text encoder on pairs of sentences."""

from pathlib import Path

import jax
import numpy as np

from tdr_jax import disk, text
from tdr_jax.data import pipeline
from tdr_jax.data.sentence_pairs import SentencePairs
from tdr_jax.degradations.vocabulary import MEANINGS
from tdr_jax.errors import InputError
from tdr_jax.objectives import text_encoder as tasks
from tdr_jax.text import intent, phrasings
from tdr_jax.train import assemble


class TextEncoder:
    """A BERT, all of it or its last layers; see `tdr_jax.train.jobs` for what a job is.

    Args:
        config: `encoder`, where it starts; `network.layers`, how many of its last layers learn;
            `network.overrides`; `data.stages`, ((steps, tokens, batch), ...); `data.typos`.
        workdir: folder of the run.
    """

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        assemble.check_lengths(config)
        _check(config)
        self.encoder = text.TextEncoder.from_pretrained(config.encoder)
        whole, layers = self.encoder.network, config.network.layers
        depth = whole.config.num_hidden_layers
        if not 0 <= layers < depth:
            raise InputError(
                f"config.network.layers is {layers}, but {config.encoder} has {depth} layers; give "
                f"1 to {depth - 1} for the last of them, or 0 for everything"
            )
        for _, tokens, _ in config.data.stages:
            if not 3 <= tokens <= self.encoder.max_length:
                raise InputError(
                    f"config.data.stages has sentences of {tokens} tokens; give 3 to "
                    f"{self.encoder.max_length}, as {config.encoder} takes"
                )
        try:
            whole = whole.replace(**config.network.overrides)
        except (TypeError, ValueError) as error:
            raise InputError(f"config.network.overrides: {error}") from None
        meanings = len(MEANINGS) if config.loss.meaning else 0
        self.network = tasks.LastLayers(whole, layers, meanings)
        self.task = tasks.TextEncoder(self.network, config.loss)
        self.frozen = (self.encoder.params if layers else {},)

    def initial_params(self):
        return self.network.cut(self.encoder.params)

    def batches(self, step: int):
        pairs = SentencePairs(
            phrasings.part("training"),
            self.encoder.tokenizer,
            self.config.seed,
            typos=self.config.data.typos,
            lower=self.encoder.lower,
        )
        return pipeline.stream(
            pairs,
            self.config.data,
            step=step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def shapes(self, batch: int, crop: int):
        """What a whole batch looks like, examples in the first axis; `crop` counts tokens."""
        meanings = len(MEANINGS)
        return {
            "tokens": jax.ShapeDtypeStruct((batch, 2, crop), "int32"),
            "mask": jax.ShapeDtypeStruct((batch, 2, crop), "bool"),
            "meaning": jax.ShapeDtypeStruct((batch, 2, meanings), "float32"),
            "label": jax.ShapeDtypeStruct((batch,), "float32"),
        }

    def evaluator(self):
        return None

    def export(self, params, step: int) -> Path:
        """Writes the encoder, and the head that reads its vectors, to `text_encoder/`."""
        whole = self.network.join(self.encoder.params, jax.device_get(params))
        encoder = self.encoder.with_params(whole)
        # The probe reads vectors of norm 1. It tells "none" better than a head fitted afterwards,
        # to sentences that the encoder has learnt by then.
        probe = params.get(tasks.PROBE) if encoder.normalise else None
        kernel = None if probe is None else tasks.SHARPNESS * np.asarray(probe).T
        head = intent.fit(encoder, kernel=kernel, seed=self.config.seed)
        target = self.workdir / "text_encoder"
        with disk.replacing_folder(target) as folder:
            encoder.save(folder)
            head.save(folder)
        return target


def _check(config) -> None:
    """Refuses fields that mean nothing here, or that change what is learnt, with an InputError."""
    wanted = (
        ("panel_every", 0, "sentences have no pictures to show"),
        ("init_from", "", "config.encoder says where it starts"),
        ("eval_data.path", "", "measure the run with scripts/measure_language.py"),
    )
    for field, value, why in wanted:
        found = config
        for name in field.split("."):
            found = found[name]
        if found != value:
            raise InputError(
                f"config.{field} is {found!r} for objective 'text_encoder'; set it to {value!r}: "
                f"{why}"
            )
    if not config.encoder:
        raise InputError(
            "config.encoder is empty; give minilm or the folder of a BERT: --config.encoder=FOLDER"
        )
    if not 0 <= config.data.typos <= 1:
        raise InputError(f"config.data.typos is {config.data.typos}; give a share from 0 to 1")
    if not (config.loss.cosine or config.loss.same or config.loss.meaning):
        raise InputError(
            "config.loss.cosine, same and meaning are 0; there is nothing to learn: set one"
        )
    if config.loss.same and config.accumulate > 1:
        raise InputError(
            f"config.accumulate is {config.accumulate}, but config.loss.same compares all "
            "sentences of a batch; set one of them to 1 or 0"
        )
