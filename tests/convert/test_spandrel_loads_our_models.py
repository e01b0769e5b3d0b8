"""spandrel loads what we export, PromptIR and TextPromptIR by our plug-in, and answers as we do."""

import copy
import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file

from tests.support import torchvision_shim  # noqa: F401

# isort: split
import spandrel
import spandrel_extra_arches

from tdr_jax import cli, convert, models, text
from tdr_jax.convert import spandrel_plugin
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer

SMALL = dict(dim=8, num_blocks=(1, 1, 2, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4))
CASES = {
    "textpromptir": (
        "TextPromptIR",
        dict(SMALL, text_dim=384, text_hidden=(24, 16), input_shuffle=2),
    ),
    "promptir": ("PromptIR", dict(SMALL, prompt_dim=(6, 8, 12), prompt_len=3)),
    "restormer": ("Restormer", SMALL),
    "restormer BiasFree": ("Restormer", dict(SMALL, LayerNorm_type="BiasFree")),
    "restormer dual": ("Restormer", dict(SMALL, inp_channels=6, dual_pixel_task=True)),
    "nafnet": (
        "NAFNet",
        dict(width=8, enc_blk_nums=(1, 2), middle_blk_num=1, dec_blk_nums=(1, 1)),
    ),
}
PROMPT = "Please remove the noise."
HEIGHT, WIDTH = 44, 54  # multiples of nothing that a network wants


@functools.cache
def encoder():
    return text.TextEncoder.from_pretrained()


def registry(prompt=PROMPT, extra="before", encoder=encoder):
    """A registry of its own for each test, with Restormer added before our plug-in or after it."""
    own = spandrel.MAIN_REGISTRY.copy()
    if extra == "before":
        own.add(*spandrel_extra_arches.EXTRA_REGISTRY)
    spandrel_plugin.install(prompt, encoder(), registry=own)
    if extra == "after":
        own.add(*spandrel_extra_arches.EXTRA_REGISTRY)
    return own


def load(state, **kwargs):
    return spandrel.ModelLoader(registry=registry(**kwargs)).load_from_state_dict(dict(state))


def shaken(network):
    """Random parameters, those that start as ones and zeros too; answers mostly in [0, 1]."""
    rng = np.random.default_rng(0)
    params = {
        name: np.asarray(value) + 0.1 * rng.standard_normal(value.shape, np.float32)
        for name, value in network.init(1).items()
    }
    last = "ending.kernel" if "ending.kernel" in params else "output.kernel"
    return params | {last: 0.1 * params[last]}


def photo(channels=3):
    """A crop of a photograph, a second view of it beside the first if six channels are wanted."""
    views = [skimage.data.astronaut()[y : y + HEIGHT, 200 : 200 + WIDTH] for y in (20, 21)]
    return np.concatenate(views, -1)[..., :channels].astype(np.float32) / 255


def through(descriptor, image):
    return descriptor(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def assert_equal(ours, theirs):
    """Equal to 1e-5 of the largest value, where the networks did more than pass their input on."""
    ours = np.clip(ours, 0, 1)
    assert ours.std() > 0.02
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Architecture in spandrel, name, overrides, parameters, state dict, photo and our answer."""
    arch, overrides = CASES[request.param]
    name = request.param.split()[0]
    network = models.build(name, **overrides)
    params = shaken(network)
    image = photo(network.config.channels[0])
    inputs = [image[None]]
    if name == "textpromptir":
        inputs.append(encoder().encode([PROMPT]))
    answer = np.asarray(jax.jit(network.apply)(params, *inputs)[0])
    assert np.abs(answer - image[..., :3]).max() > 0.05
    state = convert.to_torch(name, params, **overrides)
    return arch, name, overrides, params, state, image, answer


def containers(folder, state, ours):
    """Saves a state dict as everything that spandrel unwraps, and Lightning's as we unwrap it."""
    averaged = {f"module.{name}": tensor for name, tensor in state.items()}
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    content = {
        "bare.pth": state,
        "basicsr.pth": {"params": raw, "params_ema": averaged},
    }
    if ours:
        steps = [{"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": [{"lr": 2e-4}]}]
        content["lightning.ckpt"] = {
            "epoch": 3,
            "state_dict": {f"net.{name}": tensor for name, tensor in state.items()},
            "optimizer_states": steps,
        }
    save_file(state, folder / "exported.safetensors")
    for name, saved in content.items():
        torch.save(saved, folder / name)
    return sorted(folder.iterdir())


def test_every_container_loads_and_the_answer_is_ours(case, tmp_path):
    arch, name, overrides, params, state, image, answer = case
    loader = spandrel.ModelLoader(registry=registry())
    for path in containers(tmp_path, state, arch in ("PromptIR", "TextPromptIR")):
        descriptor = loader.load_from_file(path)
        assert descriptor.architecture.id == arch
        assert (descriptor.input_channels, descriptor.output_channels) == (image.shape[-1], 3)
        assert_equal(answer, through(descriptor, image))
        back = convert.from_torch(name, descriptor.model.state_dict(), **overrides)
        assert back.keys() == params.keys()
        assert all(np.array_equal(back[key], params[key]) for key in params)


@pytest.mark.parametrize("extra", ["before", "after", "never"])
def test_nothing_else_takes_our_models_and_we_take_no_others(case, extra):
    arch, state = case[0], case[4]
    takers = [
        support.architecture.id
        for support in registry(extra=extra).architectures("detection")
        if support.detect(state)
    ]
    ours = arch in ("PromptIR", "TextPromptIR")
    wanted = [arch] if ours or arch == "NAFNet" else []
    wanted += ["Restormer"] if arch != "NAFNet" and extra != "never" else []
    assert takers == wanted


def test_shipped_weights_answer_as_restorer_does(tmp_path):
    cli.main(["convert", "textpromptir-compact", "-o", str(tmp_path / "compact.safetensors")])
    own = spandrel.MAIN_REGISTRY.copy()
    spandrel_plugin.install(registry=own)
    loader = spandrel.ModelLoader(registry=own)
    descriptor = loader.load_from_file(tmp_path / "compact.safetensors")
    assert descriptor.size_requirements.multiple_of == 16
    descriptor.model.set_prompt(PROMPT)
    noisy = photo() + 0.1 * np.random.default_rng(0).standard_normal(photo().shape, np.float32)
    ours = Restorer.from_pretrained()(noisy, PROMPT)
    theirs = through(descriptor, noisy)
    assert np.abs(theirs - photo()).mean() < 0.6 * np.abs(noisy - photo()).mean()
    assert_equal(ours, theirs)


@pytest.fixture(scope="module")
def prompted():
    """State dict of a small TextPromptIR that reads sentences of the shipped encoder's width."""
    overrides = CASES["textpromptir"][1]
    params = shaken(models.build("textpromptir", **overrides))
    return convert.to_torch("textpromptir", params, **overrides)


def test_a_prompt_is_changed_without_touching_other_models(prompted):
    first = load(prompted)
    start = through(first, photo())
    second = spandrel_plugin.with_prompt(first, "Take the rain away.")
    other = through(second, photo())
    assert np.abs(start - other).max() > 1e-4
    assert np.array_equal(through(first, photo()), start)
    copied = copy.deepcopy(first)
    copied.model.set_prompt("Take the rain away.")
    assert np.array_equal(through(copied, photo()), other)
    first.model.set_prompt("Take the rain away.")
    assert np.array_equal(through(first, photo()), other)
    weight = first.model.output.weight
    assert second.model.output.weight is weight and copied.model.output.weight is not weight


def test_the_environment_gives_the_prompt_when_nobody_does(prompted, monkeypatch):
    monkeypatch.setenv(spandrel_plugin.PROMPT_VARIABLE, PROMPT)
    assert np.array_equal(
        through(load(prompted, prompt=None), photo()), through(load(prompted), photo())
    )
    monkeypatch.delenv(spandrel_plugin.PROMPT_VARIABLE)
    silent = load(prompted, prompt=None)
    with pytest.raises(InputError, match="no prompt.*set_prompt.*TDR_PROMPT"):
        through(silent, photo())


def test_another_width_wants_its_encoder_or_a_vector(prompted):
    wide = prompted | {"linear1.weight": torch.zeros(24, 768).normal_()}
    with pytest.raises(InputError, match="768 numbers.*gives 384.*folder.*vector of 768 numbers"):
        load(wide)
    vector = np.linspace(-1, 1, 768, dtype=np.float32)
    answer = through(load(wide, prompt=vector), photo())

    class Encoder:
        def encode(self, sentences):
            return np.stack([vector for _ in sentences])

    assert np.array_equal(through(load(wide, encoder=Encoder), photo()), answer)
    with pytest.raises(InputError, match="768 numbers, but the prompt holds 5"):
        load(wide, prompt=np.zeros(5))
    with pytest.raises(InputError, match="words or a vector"):
        load(wide, prompt=object())


def test_only_text_models_take_a_prompt(case):
    if case[0] != "TextPromptIR":
        with pytest.raises(InputError, match=f"{case[0]} takes no prompt"):
            spandrel_plugin.with_prompt(load(case[4]), PROMPT)


def test_dead_tensors_of_the_authors_files_are_dropped_and_strangers_are_not(prompted):
    dead = ("prompt1_1.prompt_param", "latent.0.attn.linear1.weight", "chnl_reduce3.weight")
    whole = prompted | {name: torch.zeros(1) for name in dead}
    assert load(whole).model.state_dict().keys() == prompted.keys()
    with pytest.raises((InputError, RuntimeError), match="latent.0.attn.linear9.weight"):
        load(prompted | {"latent.0.attn.linear9.weight": torch.zeros(1)})


def test_bfloat16_is_near_and_float16_is_refused(case):
    arch, state, image, answer = case[0], *case[4:]
    if arch in ("PromptIR", "TextPromptIR"):
        descriptor = load(state)
        with pytest.raises(spandrel.UnsupportedDtypeError):
            descriptor.half()
        narrow = torch.from_numpy(image).permute(2, 0, 1)[None].bfloat16()
        rough = descriptor.bfloat16()(narrow)[0].permute(1, 2, 0).float().numpy()
        assert np.abs(rough - np.clip(answer, 0, 1)).mean() < 0.02


def test_the_comfyui_module_of_the_documentation_works(prompted, monkeypatch):
    own = spandrel.MAIN_REGISTRY.copy()
    page = Path(__file__).parents[2] / "docs" / "spandrel.md"
    (code,) = re.findall(r"```python\n([^`]*NODE_CLASS_MAPPINGS[^`]*)```", page.read_text("utf-8"))
    install = functools.partial(spandrel_plugin.install, registry=own)
    monkeypatch.setattr(spandrel_plugin, "install", install)
    module = {}
    exec(code, module)
    (node,) = module["NODE_CLASS_MAPPINGS"].values()
    loaded = spandrel.ModelLoader(registry=own).load_from_state_dict(dict(prompted))
    wanted = {"upscale_model": loaded, "prompt": PROMPT}
    assert node.INPUT_TYPES()["required"].keys() == wanted.keys()
    (answer,) = getattr(node(), node.FUNCTION)(**wanted)
    assert isinstance(answer, spandrel.ImageModelDescriptor) and loaded.model.sentence is None
    assert np.array_equal(through(answer, photo()), through(load(prompted), photo()))


def test_installing_twice_is_an_error_unless_asked_for():
    own = registry()
    with pytest.raises(spandrel.DuplicateArchitectureError):
        spandrel_plugin.install(registry=own)
    assert spandrel_plugin.install(registry=own, ignore_duplicates=True) == []
