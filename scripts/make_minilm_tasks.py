"""Makes the shipped "minilm-tasks" out of what a run of configs/text_encoder.py wrote.

    python scripts/make_minilm_tasks.py RUN/text_encoder [DESTINATION]

DESTINATION is tdr_jax/assets/minilm-tasks. Only the tensors that differ from the packaged MiniLM
are written, rounded to float16, with a note of what they belong to; the head is copied. The words
of the sentences that it was fitted to go into tdr_jax/assets/wordings/typed.txt. README.md of the
destination is not touched. Takes a few seconds.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from tdr_jax.text import encoder_files, intent, phrasings, spelling

BASE = "minilm"
DESTINATION = encoder_files.SHIPPED[intent.SHIPPED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path, nargs="?", default=DESTINATION)
    args = parser.parse_args()

    before = safetensors.numpy.load_file(encoder_files.folder_of(BASE) / "model.safetensors")
    after = safetensors.numpy.load_file(args.source / "model.safetensors")
    if before.keys() != after.keys():
        parser.error(f"{args.source} is not a fine-tuned {BASE}: it has other tensors")
    changed = {
        name: value.astype(np.float16)
        for name, value in after.items()
        if not np.array_equal(value, before[name].astype(np.float32))
    }
    args.destination.mkdir(parents=True, exist_ok=True)
    target = args.destination / "changed.safetensors"
    safetensors.numpy.save_file(changed, target, metadata={"format": "pt"})
    target.chmod(0o644)
    (args.destination / "base.json").write_text(json.dumps({"base": BASE}) + "\n")
    shutil.copyfile(args.source / intent.HEAD, args.destination / intent.HEAD)
    words = spelling.words_of(w.sentence for w in phrasings.part("training"))
    spelling.TYPED.write_text("\n".join(words) + "\n")
    print(f"{len(changed)} tensors, {target.stat().st_size / 1e6:.1f} MB in {args.destination}")


if __name__ == "__main__":
    main()
