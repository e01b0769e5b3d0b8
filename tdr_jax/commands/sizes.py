"""How large pictures are, told from the beginnings of their files."""

from pathlib import Path

TURNED = (5, 6, 7, 8)  # EXIF orientations that put width for height
ORIENTATION = 0x0112


def of(path: Path) -> tuple[int, int] | None:
    """Read the height and width of a picture as it is seen.

    Args:
        path: of a picture file.

    Returns:
        None if its beginning does not tell, for whatever reason: reading the file itself will say.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except Exception:  # of a damaged file Pillow raises whatever its parsers do
        return None
    return (width, height) if turned else (height, width)


def in_batches(buckets: list[tuple[int, int] | None], batch: int) -> list[list[int]]:
    """Put pictures together that go through one program.

    Args:
        buckets: what each goes through; None for what goes alone.
        batch: the most that go together.

    Returns:
        which pictures go together, as evenly many as can be, in the order of the first of each.
    """
    groups: dict[object, list[int]] = {}
    for index, bucket in enumerate(buckets):
        groups.setdefault(("alone", index) if bucket is None else bucket, []).append(index)
    parts = []
    for members in groups.values():
        each = -(-len(members) // -(-len(members) // batch))
        parts += [members[i : i + each] for i in range(0, len(members), each)]
    return sorted(parts)
