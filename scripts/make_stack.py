"""Puts the parts of a stack, trained one after another, into one folder.

    python scripts/make_stack.py --stack runs/unet/stack --image-encoder runs/vision/image_encoder \
--image-to-text runs/i2t/image_to_text --textual-restoration runs/tr/textual_restoration -o STACK
"""

import argparse
import sys

from tdr_jax import weights
from tdr_jax.diffusion import tdr_pipeline

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", required=True, help="folder of diffusers")
    for part in tdr_pipeline.READERS:
        parser.add_argument(f"--{part.replace('_', '-')}", help=f"becomes {part}/")
    parser.add_argument("--dtype", default="float16", help="of the files (default: %(default)s)")
    parser.add_argument("-o", "--output", required=True, help="folder, made if missing")
    args = parser.parse_args()
    try:
        given = {part: getattr(args, part) for part in tdr_pipeline.READERS}
        folder = weights.save_tdr_pipeline(
            args.output, weights.load_tdr_pipeline(args.stack, **given), dtype=args.dtype
        )
    except ValueError as error:
        sys.exit(f"make_stack: error: {error}")
    print(folder)
