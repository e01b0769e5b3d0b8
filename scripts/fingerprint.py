"""Tells model cards which weights they speak of: the SHA-256 of every file of weights beside them.

    python scripts/fingerprint.py tdr_jax/assets/tdr-tiny

A card and its weights change together or a test fails: measure its tables again, then run this.
"""

import hashlib
import re
import sys
from pathlib import Path

CARD, TITLE = "README.md", "## Fingerprints\n"
LINE = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)  # as sha256sum writes and checks them


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in a folder and below, by its path from there."""
    files = sorted(folder.rglob("*.safetensors"))
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def told(card: str) -> dict[str, str]:
    """The same, as a card tells it."""
    return {name: digest for digest, name in LINE.findall(card)}


def write(folder: Path) -> None:
    """Puts the fingerprints at the end of a folder's card."""
    path = folder / CARD
    text = path.read_text().partition(TITLE)[0].rstrip("\n")
    lines = "".join(f"{digest}  {name}\n" for name, digest in weights(folder).items())
    said = "The files that this card speaks of (SHA-256):"
    path.write_text(f"{text}\n\n{TITLE}\n{said}\n\n```\n{lines}```\n")


if __name__ == "__main__":
    for each in sys.argv[1:]:
        write(Path(each))
