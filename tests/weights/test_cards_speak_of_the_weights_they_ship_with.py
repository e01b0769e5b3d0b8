"""A model card and the weights beside it change together, or this fails."""

import shutil

import pytest

from scripts import fingerprint
from tdr_jax import weights

FOLDERS = sorted(path.parent for path in weights.ASSETS.glob(f"*/{fingerprint.CARD}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_cards_tell_the_fingerprints_of_the_weights_beside_them(folder):
    told = fingerprint.told((folder / fingerprint.CARD).read_text())
    assert told == fingerprint.weights(folder), (
        "the weights are not those that the card speaks of: measure what it tells again, then run "
        f"python scripts/fingerprint.py {folder}"
    )


def test_all_weights_have_a_card():
    files = weights.ASSETS.rglob("*.safetensors")
    alone = [file for file in files if not any(folder in file.parents for folder in FOLDERS)]
    assert FOLDERS and not alone


def test_one_other_byte_is_noticed_and_a_new_card_is_the_remedy(tmp_path):
    folder = tmp_path / "guided-compact"
    shutil.copytree(weights.ASSETS / folder.name, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    card = folder / fingerprint.CARD
    before = card.read_text()
    assert fingerprint.told(before) != fingerprint.weights(folder)
    fingerprint.write(folder)
    assert fingerprint.told(card.read_text()) == fingerprint.weights(folder)
    assert (
        card.read_text().partition(fingerprint.TITLE)[0] == before.partition(fingerprint.TITLE)[0]
    )
