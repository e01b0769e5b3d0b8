"""Where pictures are: folders, data sets that were built, packages, and several of them together.

A place is a folder; `tfds:NAME` or `tfds:NAME/SPLIT`, a data set that `tdr data prepare` or
tensorflow_datasets has built, by its name or its folder; `package:NAME`, a package that carries
photographs; or several of these with `+` between them. A folder whose own name has a `+` is taken
for what it is.
"""

from pathlib import Path

from tdr_jax.data import decoded, mixtures, shards, sources, steady
from tdr_jax.errors import InputError

MIXINGS = ("repeats", "weights")
BUILT, PACKAGE, AND = "tfds:", "package:", "+"
VIEWS = ("left", "right", "clean")


def parts(place: str) -> list[str]:
    """The single places that a place names."""
    return [place] if AND not in place or Path(place).exists() else place.split(AND)


def located(place: str, data_dir: str) -> str:
    """A place whose built data sets are looked for in a folder of data sets; "" changes nothing."""
    found = [
        BUILT + str(Path(data_dir, part.removeprefix(BUILT)))
        if data_dir and part.startswith(BUILT)
        else part
        for part in parts(place)
    ]
    return AND.join(found)


def open_clean(place, *, task=None, use="train", store=None):
    """Opens pictures to train on: clean ones, of which examples are made, or built pairs.

    Args:
        place: see above; every picture of a folder is a clean one.
        task: the one task they serve, or None for any.
        use: "train" or "test": which split of a data set with several.
        store: keeps what is decoded, see `data.decoded`; None for a gibibyte of memory.

    Returns:
        a source, see `data.sources`.

    Raises:
        InputError: there are no such pictures.
    """
    return _opened(place, sources.Folder, task, use, store)


def open_any(place, *, task=None, use="test", store=None):
    """Opens pictures of whichever kind they are: clean ones, pairs, or two views with their target.

    Args:
        place: see above; of a folder, `pairs.split` tells whether it holds both sides, or it holds
            left/, right/ and clean/.
        task, use, store: see `open_clean`; the task is that of pairs.

    Raises:
        InputError: there are no such pictures, pairs do not hold, or some places hold pairs and
            others clean pictures.
    """
    source = _opened(place, _of_folder, task, use, store)
    of = source.sources if isinstance(source, sources.Concat) else [source]
    kinds = {sources.views_of(one) == ("image",) for one in of}
    if len(kinds) > 1:
        raise InputError(f"{place}: some hold pairs, some clean pictures; give them one by one")
    return source


def _opened(place, folder, task, use, store):
    store = store or decoded.Memory(1024)
    found = [_one(part, folder, task, use, store) for part in parts(str(place))]
    return found[0] if len(found) == 1 else sources.Concat(*((one, 1) for one in found))


def _one(place, folder, task, use, store):
    if place.startswith(PACKAGE):
        return sources.package_pictures(place.removeprefix(PACKAGE), task)
    if not place.startswith(BUILT):
        return folder(place, task=task, store=store)
    name, split = place.removeprefix(BUILT), None
    head, _, last = name.rpartition("/")
    if head and not shards.is_there(name) and shards.is_there(head):
        name, split = head, last
    return shards.Shards(shards.find(name), split, task, use, store=store)


def _of_folder(path, task, store):
    root = Path(path)
    if all((root / view).is_dir() for view in VIEWS):
        return sources.DualPixel(*(root / view for view in VIEWS), task, store=store)
    source = sources.Pairs.inside(root, task, store=store)
    if source is not None:
        return source
    folder = sources.Folder(root, store=store)
    inner = (path.relative_to(root).parent for path in folder.paths)
    mixed = next((path for path in inner if "degraded" in path.parts), None)
    if mixed is not None:
        raise InputError(
            f"{root} holds degraded pictures, in {mixed}; give the folder right above "
            "degraded/ and clean/, or a folder of clean pictures only"
        )
    return folder


def from_config(data):
    """Opens the pictures to train on.

    Args:
        data: the `data` part of a config: `path`, see `open_clean`, or ""; `path_task`, the one
            task these pictures serve, or "" for any; `path_repeats`, how often each comes up in an
            epoch; `pairs`, a tuple of (degraded folder, clean folder, task, repeats), where (left
            folder, right folder) in place of the degraded one are the views of a dual-pixel sensor,
            and with "" for the clean one the first is any place that holds both, see `open_any`;
            `mixing`, "repeats", or "weights" for a share of the examples for each task, as
            `weights` of `tasks` say, whatever the number of its pictures; `tfds_dir`, where built
            data sets are, or "" for what the environment says; `decoded` and `cache_mb`, see
            `decoded.open_store`; `on_damaged` and `check`, see `steady.of_config`.

    Raises:
        InputError: there is neither a place nor a pair of folders.
    """
    store, found = decoded.open_store(data), []
    if data.path:
        place = located(data.path, data.tfds_dir)
        pictures = open_clean(place, task=data.path_task or None, store=store)
        found.append((pictures, data.path_repeats))
    for degraded, clean, task, repeats in data.pairs:
        if not isinstance(degraded, str):
            pictures = sources.DualPixel(*degraded, clean, task, store=store)
        elif clean:
            pictures = sources.Pairs(degraded, clean, task, store=store)
        else:
            place = located(degraded, data.tfds_dir)
            pictures = open_any(place, task=task or None, use="train", store=store)
            if sources.views_of(pictures) == ("image",):
                raise InputError(f"{place} holds clean pictures only; pairs are wanted")
        found.append((pictures, repeats))
    if data.mixing not in MIXINGS:
        raise InputError(f"data.mixing is {data.mixing!r}; use one of {', '.join(MIXINGS)}")
    found = [(steady.of_config(pictures, data), repeats) for pictures, repeats in found]
    if not found:
        raise InputError(
            "config.data.path is empty; give a folder of pictures: --config.data.path=PHOTOS"
        )
    if data.mixing == "weights" and len(found) > 1:
        return mixtures.Mixture(*_shares(found, dict(zip(data.tasks, data.weights, strict=True))))
    return sources.Concat(*found) if len(found) > 1 or found[0][1] != 1 else found[0][0]


def _shares(found, weights):
    """(source, share): a task's weight, divided among its sources by their pictures and repeats."""
    sizes = {}
    for pictures, repeats in found:
        if getattr(pictures, "task", None) not in weights:
            raise InputError(
                "data.mixing=weights draws one of data.tasks first, so all pictures must say their "
                f"task, one of {', '.join(weights)}: data.path_task, or the third of data.pairs"
            )
        sizes[pictures.task] = sizes.get(pictures.task, 0) + len(pictures) * repeats
    return [
        (pictures, weights[pictures.task] * len(pictures) * repeats / sizes[pictures.task])
        for pictures, repeats in found
        if weights[pictures.task] > 0
    ]


def of_evaluation(config, opened=open_clean):
    """Opens the pictures of `config.eval_data`.

    None of them is ever replaced: the numbers would be of other pictures.

    Args:
        config: of a run.
        opened: `open_clean`, where examples are made of them, or `open_any`.
    """
    place = located(config.eval_data.path, config.data.tfds_dir)
    source = opened(place, use="test", store=decoded.Memory(config.data.cache_mb))
    steady.refuse_damaged(source, config.data)
    return source


def channels(source) -> set[int]:
    """How many channels degraded pictures of a source have: 3, or 6 where there are two views."""
    of = source.sources if isinstance(source, sources.Concat) else [source]
    return {3 * max(1, len(sources.views_of(one)) - 1) for one in of}
