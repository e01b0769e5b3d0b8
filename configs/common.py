"""The fields that every training config has, with their defaults."""

import dataclasses

from ml_collections import ConfigDict, config_dict

from tdr_jax import models


def get_config(argument: str = "") -> ConfigDict:
    """Every field of a training run, complete except for the data.

    Args:
        argument: must be empty; the other files of this folder take arguments.

    Returns:
        an unlocked config; `train.py` locks it.
    """
    parse(argument)
    config = ConfigDict()
    # "restore"; or a stage of textual degradation removal: "contrast", "reconstruct", "denoise",
    # "i2t", "tr" or "guided", see configs/tdr_towers.py, tdr_i2t.py, tdr_tr.py and tdr_guided.py;
    # or "text_encoder" or "estimate", see configs/text_encoder.py and estimator.py
    config.objective = "restore"
    config.seed = 0  # of the initial parameters, the batches and every draw of a step
    # A run that goes on in its workdir must be told what it began with, but for how long it is and
    # for what changes nothing of what is learnt; true to go on otherwise all the same.
    config.allow_changes = False
    config.init_from = ""  # weights to start from: a shipped name, a folder or a file
    config.init_base = ""  # weights of the network that a guided one is built around, likewise
    config.encoder = "minilm"  # text encoder: a shipped name or a sentence-transformers folder

    config.network = ConfigDict()
    config.network.name = "textpromptir"
    config.network.text_encoder = ""  # the text tower that learns beside the UNet; "denoise"
    config.network.prediction_type = "v_prediction"  # or "epsilon"; "denoise"
    config.network.layers = 0  # last layers that learn, 0 for everything; "text_encoder"
    # Any field of the network's own config: `declare` lists them, as None where they stay as
    # `network.name` has them.
    config.network.overrides = ConfigDict()
    config.network.overrides.dtype = "float32"  # of the computation; "bfloat16" on accelerators
    # What a block keeps for the backward pass, which computes the rest again: "none" of it is
    # computed again, all ("full"), all but what stands between its halves ("halves"), or all but
    # matrix products ("dots")
    config.network.overrides.remat = "none"
    config.network.overrides.scan_unroll = 1
    # Parts in which the stages at full size take a batch, one after the other; others take it in
    # fewer or more, by the size of their arrays. Small parts stay in a TPU's fast memory.
    config.network.overrides.microbatches = 1

    config.data = ConfigDict()
    # Clean pictures, degraded as they are read: a folder, package:skimage, or tfds:NAME, a data set
    # that was built (docs/data.md); several with + between them
    config.data.path = ""
    config.data.tfds_dir = ""  # folder of built data sets; "" for TFDS_DATA_DIR of the environment
    config.data.path_task = ""  # the one task these pictures serve; "" for any of data.tasks
    config.data.path_repeats = 1  # how often each of them comes up in an epoch
    # ((degraded folder, clean folder, task, repeats), ...); of a dual-pixel sensor
    # (((left folder, right folder), clean folder, task, repeats), ...). With "" for the clean
    # folder, the first is tfds:NAME or a folder that holds both, or several with + between them.
    config.data.pairs = ()
    # Of several sets: "repeats", each picture as often as its repeats say; or "weights", each task
    # as often as `weights` say, whatever the sizes of its sets
    config.data.mixing = "repeats"
    config.data.tasks = ("noise", "rain", "haze")
    config.data.weights = (1.0, 1.0, 1.0)  # how often each task is drawn
    config.data.sigmas = (15, 25, 50)
    config.data.sigma_range = ()  # (lowest, highest): any level in between instead of `sigmas`
    config.data.channels = 3  # 1 turns pictures grey before they are degraded
    config.data.dihedral = (0, 1, 2, 3, 4, 5, 6, 7)  # quarter turns; from 4 on mirrored first
    config.data.stages = ((1000, 64, 8),)  # (steps, crop, batch), one after another
    config.data.p_absent = 0.0  # share of examples that ask for what is not there
    config.data.p_keep_one = 0.0  # share with two degradations, one of them to stay
    config.data.p_joint = 0.0  # share with two degradations that are both asked for
    config.data.color_jitter = 0.0  # share in other light and colours; "estimate", "tr"
    config.data.p_partial_strength = (
        0.0  # share that asks for less than full strength, by a shorter vector
    )
    config.data.noise_mode = "uint8"
    # Who makes noise, rain and haze: "published" (tdr_jax/degradations/synthesis.py) or "realistic"
    # (tdr_jax/degradations/realistic.py); "restore", "guided" and "estimate"
    config.data.synthesis = "published"
    config.data.noise_shares = (0.5, 0.4, 0.1)  # Gaussian, a camera's, JPEG; "realistic"
    # ((task, recipe, weight), ...): what makes a task's damage instead, drawn by weight, such as
    # (("blur", "motion", 1.0), ("blur", "defocus+jpeg", 0.5)); docs/degradations.md
    config.data.recipes = ()
    # The next three are for the stages of textual degradation removal.
    config.data.cover = ()  # (least, most) share of the shorter side that a square takes; () for
    # squares of the drawn pictures' own size
    config.data.oversample = (1.0, 1.0)  # how much finer a square is when it is degraded
    config.data.distinct = 0  # examples of the run, whose features are kept; 0 for ever new ones
    config.data.typos = 0.0  # share of sentences with typing mistakes; "text_encoder"
    # Where a picture cannot be read: "stop", or "skip", to take another of its folder, always the
    # same one, in its place
    config.data.on_damaged = "stop"
    config.data.check = "headers"  # before step 0; "all" decodes every picture, as --check_data
    config.data.workers = 0
    config.data.cache_mb = 1024  # decoded pictures to keep, MiB in each process, or in `decoded`
    # Folder on a local disk for decoded pictures, which all processes map; "" for their memory
    config.data.decoded = ""

    config.guidance = ConfigDict()  # the second picture; "guided"
    config.guidance.kinds = ()  # some of "file", "view", "part" and "other" (tdr_jax/data/guidance)
    config.guidance.weights = ()  # how often each kind is drawn
    # Folder of guidance with the names of the pictures, or in it a folder for each level of the
    # damage that is made of them (noise50/); "file"
    config.guidance.path = ""
    config.guidance.size = 512  # its side in pixels
    # "full": all of it; "crop": the window of a crop's size that DINOv2 finds most like the crop
    config.guidance.window = "full"
    # Of DINOv2's resized positions: 0.1 as in Facebook's code, 0 as in transformers'
    config.guidance.dinov2_offset = 0.0
    config.guidance.dinov2 = ""  # folder or hub id; random:NAME for a trial without weights; "crop"

    config.stack = ConfigDict()  # the frozen networks
    config.stack.path = ""  # folder of diffusers, hub id, or a shipped name
    config.stack.vae = ""  # the autoencoder, where the folder is still to be made; "denoise"
    config.stack.image_encoder = ""  # CLIP's vision tower, where the folder has none
    config.stack.image_to_text = ""  # the first stage's mapper, where the folder has none
    config.stack.dtype = "float32"  # of frozen parameters and computation
    config.stack.remat = "none"  # of the UNet's blocks, likewise
    config.stack.template = "a photo of a S"  # S is where the words go

    config.loss = ConfigDict()
    config.loss.l1 = 1.0
    config.loss.charbonnier = 0.0
    config.loss.psnr = 0.0  # NAFNet's: the negative PSNR in dB
    config.loss.fft = 0.0
    config.loss.coarse = 0.0  # of mean colours; "reconstruct"
    config.loss.kl = 0.0  # of latents; "reconstruct"
    config.loss.align = 0.0  # of guidance's features, degraded against clean; "guided"
    config.loss.denoise = 0.0  # denoising error of the clean picture; "tr"
    config.loss.words = 0.0  # distance to the clean picture's words; "tr"
    # Of cosines of pairs of sentences, SupCon's over all of a batch, and cross-entropy of what a
    # linear probe reads; "text_encoder"
    config.loss.cosine = 0.0
    config.loss.same = 0.0
    config.loss.meaning = 0.0
    config.loss.mixup = (
        0.0  # Beta parameter of blending two pictures, without sentences; 0 for none
    )

    config.optim = ConfigDict()
    config.optim.lr = 2e-4
    # ((regex on parameter names, rate), ...): other rates than lr by name, 0 to leave them still
    config.optim.lr_of = ()
    # "constant", "cosine", "paper", "executed", "cosine_epochs" or "cosine_restarts"
    config.optim.schedule = "cosine"
    config.optim.warmup = 100  # steps; "cosine"
    config.optim.end = 0.0  # floor, as a fraction of lr; "cosine" and "cosine_epochs"
    # This and the next two: "paper", "executed" and "cosine_epochs".
    config.optim.warmup_epochs = 15
    config.optim.max_epochs = 150
    config.optim.steps_per_epoch = 26405
    config.optim.periods = ()  # steps of each cycle; "cosine_restarts", with the next two
    config.optim.restart_weights = ()
    config.optim.eta_mins = ()  # floors of the cycles, as rates; None to stay at the peak
    config.optim.b1 = 0.9  # this and the next three: torch's defaults of AdamW
    config.optim.b2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.01
    config.optim.no_decay = ""  # regex on parameter names; "" decays all, as torch does
    config.optim.mu_dtype = "float32"  # of the first moment; "bfloat16" for less memory
    config.optim.clip = 1.0  # largest global norm of the gradient; 0 for none
    config.accumulate = 1  # parts a batch is cut into, for less memory
    config.ema = 0.999  # decay of the averaged parameters; 0 for none

    config.mesh = ConfigDict()  # how the devices share the state; batches are cut over all of them
    config.mesh.fsdp = 1  # devices that hold one copy of it together; 0 for all
    # ((regex on parameter names, dimension), ...): what is cut otherwise than along its largest
    # dimension that divides; None leaves it whole
    config.mesh.rules = ()
    config.mesh.min_size = 2**14  # smaller parameters are left whole

    config.log_every = 10
    config.peak_tflops = 0.0  # of one device, for the MFU; 0 for that of its kind, if it is known
    config.save_every = 500
    config.keep = 2  # checkpoints
    config.eval_every = 1000  # 0 for the end only
    config.panel_every = 500  # 0 for no pictures
    config.eval_data = ConfigDict()
    # Clean pictures as for `data.path`, or pairs; "" for no evaluation. "text_encoder" has
    # sentences of its own.
    config.eval_data.path = ""
    config.eval_data.settings = ("noise15", "noise25", "noise50", "rain", "haze")
    config.eval_data.limit = 0  # pictures; 0 for all
    # Centre crop in pixels, 0 for whole pictures, where pictures are restored; other objectives
    # are measured on examples of the last stage's size, one a picture.
    config.eval_data.size = 0
    # Folder of guidance with the names of the pictures; "" for another view of each; "guided"
    config.eval_data.guidance = ""
    return declare(config)


def declare(config):
    """Give the command line every field of the network, and of what a guided one is built around.

    A field that is None stays as the network has it by its name, so that another name on the
    command line brings its own sizes.

    Args:
        config: its network is chosen.

    Returns:
        the same config.
    """
    overrides = config.network.overrides
    for field, value in list(overrides.items()):
        if value is None:  # of another network, where one config is made of another
            del overrides[field]
    network = models.build(config.network.name, **overrides).config
    for part in filter(None, (network, getattr(network, "base", None))):
        part = getattr(part, "config", part)
        for field in dataclasses.fields(part):
            if field.name not in overrides and field.name != "overrides":
                kind = type(getattr(part, field.name))
                overrides[field.name] = config_dict.placeholder(kind)
    return config


def fit(config, device: str) -> None:
    """Set how a network is computed to what suits a kind of device; what is learnt stays the same.

    Args:
        config: with the fields of `get_config`.
        device: "tpu"; "" leaves everything as it is.

    Raises:
        ValueError: if the kind is unknown.
    """
    if device not in ("", "tpu"):
        raise ValueError(f"device={device} is unknown; known: tpu")
    if device == "tpu":
        settings = config.network.overrides
        settings.dtype, settings.remat = "bfloat16", "full"
        settings.microbatches, settings.scan_unroll = 32, 1


# How often each example of a set comes up in an epoch of the all-in-one papers: PromptIR's (clean
# pictures 3 times at each of 3 levels of noise) and AdaIR's. TextPromptIR takes rain 200 times.
THREE_TASKS = {"noise": 9, "rain": 120, "haze": 1}
FIVE_TASKS = THREE_TASKS | {"blur": 5, "low_light": 20}
# Examples in these epochs: 5,144 clean pictures; pairs of rain 200, haze 72,135, blur 2,103 and low
# light 485; and of CDD-11, every pair once.
EPOCHS = {"all": 142_431, "five": 162_646, "cdd11": 13_013}
# Folders of the sets on which the all-in-one papers train, as AirNet and PromptIR lay them out.
PAPERS = {"rain": ("rainy", "gt"), "haze": ("synthetic", "original")}


def pairs_of(place: str, task: str, repeats: int) -> tuple[str, str, str, int]:
    """The entry of `data.pairs` for a set of pairs.

    Args:
        place: a folder of the papers' layout for rain or haze, or of any layout for other tasks; or
            tfds:NAME, or several with + between them.
        task: what separates the pairs.
        repeats: how often each comes up in an epoch.
    """
    whole = place.startswith("tfds:") or "+" in place or task not in PAPERS
    sides = (place, "") if whole else tuple(f"{place}/{side}" for side in PAPERS[task])
    return (*sides, task, repeats)


def parse(argument: str, **defaults):
    """Read the part of a config's name after the colon.

    Args:
        argument: "name=value,name=value"; "+" separates the items of a list.
        **defaults: the names that are understood and what they are otherwise; a default's type is
            the value's type.

    Returns:
        dict of the defaults with what the argument changes.

    Raises:
        ValueError: if the argument names something else or a value does not fit.
    """
    values = dict(defaults)
    for part in filter(None, argument.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"config argument {part!r} is unknown; known: {known}")
        kind = type(defaults[name])
        try:
            values[name] = tuple(value.split("+")) if kind is tuple else kind(value)
        except ValueError:
            raise ValueError(f"config argument {part!r}: give {kind.__name__}") from None
    return values
