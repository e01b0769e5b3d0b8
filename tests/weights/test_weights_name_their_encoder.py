"""Weights say which text encoder they were trained with, and another one is not taken unasked."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from tdr_jax import cli, images, models, text, weights
from tdr_jax.errors import InputError
from tdr_jax.infer import Restorer
from tests.support import tiny_bert

SIZES = dict(
    dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 1, 2, 2), text_dim=32
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Two encoders of one width, saved as "first" and "second"."""
    root = tmp_path_factory.mktemp("encoders")
    first = text.TextEncoder.from_pretrained(tiny_bert.make(root / "first"))
    params = {name: np.asarray(value) * 1.5 for name, value in first.params.items()}
    first.with_params(params).save(root / "second")
    return first, text.TextEncoder.from_pretrained(root / "second")


@pytest.fixture(scope="module")
def network():
    network = models.build("textpromptir-tiny", **SIZES)
    return network, network.init(0)


@pytest.fixture
def saved(encoders, network, tmp_path):
    return weights.save(tmp_path / "net.safetensors", *network, encoder=encoders[0])


def test_the_name_and_the_digest_of_its_parameters_are_recorded(encoders, network, tmp_path):
    first, second = encoders
    assert first.record.name == "first" and len(first.record.digest) == 16
    assert first.record.digest != second.record.digest
    again = first.save(tmp_path / "elsewhere")  # in another folder, under other files
    assert text.TextEncoder.from_pretrained(again).record.digest == first.record.digest

    path = weights.save(tmp_path / "folder", *network, encoder=first)
    said = json.loads(path.with_name("config.json").read_text())["metadata"]
    assert said == {"encoder": "first", "encoder_sha256": first.record.digest}
    loaded, params = weights.load(tmp_path / "folder")
    assert loaded.encoder == first.record
    assert loaded.replace(remat=True).encoder == first.record
    assert weights.load(weights.save(tmp_path / "again", loaded, params).parent)[0].encoder


def test_the_record_travels_with_pytorchs_names(encoders, saved, tmp_path):
    out = tmp_path / "torch.safetensors"
    assert cli.main(["convert", str(saved), "-o", str(out), "--to", "safetensors"]) == 0
    assert weights.load(out)[0].encoder == encoders[0].record


def test_another_encoder_is_refused_with_both_names(encoders, saved):
    first, second = encoders
    with pytest.raises(InputError) as refused:
        Restorer.from_pretrained(saved, second)
    assert str(first.record) in str(refused.value) and str(second.record) in str(refused.value)
    with pytest.raises(InputError, match="was trained with the text encoder first"):
        Restorer(*weights.load(saved), second)
    with pytest.raises(InputError, match="was trained with the text encoder first"):
        Restorer.from_pretrained(saved, second.folder)
    assert Restorer.from_pretrained(saved, first).encoder is first


def test_who_insists_gets_it_and_is_told(encoders, saved, caplog):
    with caplog.at_level(logging.WARNING):
        restorer = Restorer.from_pretrained(saved, encoders[1], insist=True)
    assert restorer.encoder is encoders[1]
    (line,) = caplog.messages
    assert str(encoders[0].record) in line and str(encoders[1].record) in line
    caplog.clear()
    Restorer.from_pretrained(saved, encoders[0], insist=True)
    assert not caplog.messages


def test_a_recorded_encoder_is_found_by_its_name(encoders, saved, monkeypatch):
    with pytest.raises(InputError, match=r"first \(.*\), which is not here; .*--encoder FOLDER"):
        Restorer.from_pretrained(saved)
    monkeypatch.chdir(encoders[0].folder.parent)
    assert Restorer.from_pretrained(saved).encoder.record == encoders[0].record


def test_weights_without_a_record_take_any_encoder_of_their_width(encoders, network, tmp_path):
    path = weights.save(tmp_path / "old.safetensors", *network)
    for encoder in encoders:
        assert Restorer.from_pretrained(path, encoder).encoder is encoder
    with pytest.raises(InputError, match="gives 384"):  # minilm, as before
        Restorer.from_pretrained(path)


def test_the_shipped_weights_name_the_shipped_encoder():
    network, _ = weights.load("textpromptir-compact")
    assert network.encoder == text.TextEncoder.from_pretrained("minilm").record
    with pytest.raises(InputError, match=r"encoder minilm \(.*\), not with minilm-tasks \("):
        weights.with_encoder(network, "minilm-tasks")


@pytest.mark.parametrize("command", ["restore", "eval"])
def test_the_command_takes_the_other_one_only_where_it_is_named(
    command, encoders, saved, tmp_path, capsys, caplog
):
    picture = tmp_path / "in" / "a.png"
    picture.parent.mkdir()
    images.write_rgb(picture, np.full((32, 32, 3), 128, np.uint8))
    if command == "restore":
        words = [str(picture), "-o", str(tmp_path / "out.png"), "--prompt", "remove the noise"]
    else:
        words = ["--data", str(picture.parent), "--tasks", "noise25", "--prompt", "remove it"]
    words = [command, *words, "--model", str(saved)]
    assert cli.main(words) == 2  # its encoder has no known name
    assert "was trained with the text encoder first" in capsys.readouterr().err
    assert cli.main([*words, "--encoder", str(encoders[1].folder)]) == 0
    told = [line for line in caplog.messages if "was trained with" in line]
    assert len(told) == 1 and str(encoders[1].record) in told[0]


def test_networks_without_sentences_record_nothing(encoders, tmp_path):
    network = models.build("nafnet", width=8, enc_blk_nums=(1,), dec_blk_nums=(1,))
    network = dataclasses.replace(network, encoder=encoders[0].record)
    loaded, _ = weights.load(weights.save(tmp_path / "n.safetensors", network, network.init(0)))
    assert loaded.encoder is None
