"""Fine-tune a text encoder, so that sentences which ask for the same get the same vector.

    python train.py --config configs/text_encoder.py --workdir runs/text
    python train.py --config configs/text_encoder.py:encoder=FOLDER,layers=2 --workdir runs/bert
    python scripts/measure_language.py --encoder runs/text/text_encoder

The first is the recipe of the shipped "minilm-tasks"; about a quarter of an hour on two CPU cores.
The run ends with the folder `text_encoder/`, which transformers and sentence-transformers load, and
in it the head that `tdr_jax.text.intent` reads.

Arguments:
    encoder: minilm, or the folder of a BERT in the format of Hugging Face or sentence-transformers.
    layers: how many of its last layers learn; 0 for all of them.
    steps, batch: another length, another number of pairs in a batch.
    tokens: to which sentences are cut or padded.
"""

from configs import common

LONG = 40  # tokens of the longest sentence


def get_config(argument: str = ""):
    """The recipe.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: the argument is unknown.
    """
    given = common.parse(argument, encoder="minilm", layers=0, steps=700, batch=32, tokens=16)
    config = common.get_config()
    config.objective = "text_encoder"
    config.encoder = given["encoder"]
    config.network.name = "bert"
    config.network.layers = given["layers"]
    del config.network.overrides.microbatches
    steps, tokens, batch = given["steps"], given["tokens"], given["batch"]
    # Few sentences are longer; the last steps show them too, as padding all to them costs much.
    last = steps // 5
    stages = ((steps - last, tokens, batch), (last, LONG, batch // 2))
    config.data.stages = stages if last else stages[:1]
    config.data.typos = 0.3
    # The loss of TextPromptIR's first stage, and a probe; `same` would add the contrastive one.
    config.loss.cosine, config.loss.meaning = 1.0, 1.0
    config.optim.lr = 2e-4
    # The probe begins at zero; words keep their vectors, as most of them are not in the sentences.
    # With network.layers they are not among what learns, and the second rate is nobody's.
    config.optim.lr_of = (("^meaning", 1e-2), ("^embeddings|^meaning", 0.0))
    config.optim.warmup = 30
    config.ema = 0.98
    config.log_every, config.save_every, config.panel_every = 20, 100, 0
    return common.declare(config)
