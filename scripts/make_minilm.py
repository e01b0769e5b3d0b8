"""Makes the shipped float16 copy of a sentence-transformers BERT.

    python scripts/make_minilm.py SOURCE [DESTINATION]

SOURCE is the folder of sentence-transformers/all-MiniLM-L6-v2 (any saved sentence-transformers
BERT works); DESTINATION is tdr_jax/assets/minilm. Weights are rounded to float16; the position ids
and the pooler, which a mean over tokens does not use, are left out. LICENSE and README.md of the
destination are not touched. Takes a few seconds.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
)
DROPPED = ("pooler.", "embeddings.position_ids")
DESTINATION = Path(__file__).resolve().parents[1] / "tdr_jax" / "assets" / "minilm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path, nargs="?", default=DESTINATION)
    args = parser.parse_args()

    args.destination.mkdir(parents=True, exist_ok=True)
    weights = safetensors.numpy.load_file(args.source / "model.safetensors")
    kept = {k: v.astype(np.float16) for k, v in weights.items() if not k.startswith(DROPPED)}
    overflowing = [k for k, v in kept.items() if not np.isfinite(v).all()]
    if overflowing:
        parser.error(f"too large for float16: {', '.join(overflowing)}")
    target = args.destination / "model.safetensors"
    safetensors.numpy.save_file(kept, target, metadata={"format": "pt"})
    target.chmod(0o644)  # the library leaves it readable by its owner alone
    config = json.loads((args.source / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = "float16"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (args.destination / "config.json").write_text(text, encoding="utf-8")
    for name in COPIED:
        (args.destination / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(args.source / name, args.destination / name)
    print(f"{len(kept)} tensors, {target.stat().st_size / 1e6:.1f} MB in {args.destination}")


if __name__ == "__main__":
    main()
