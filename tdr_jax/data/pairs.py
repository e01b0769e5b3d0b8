"""Which clean picture belongs to which degraded one: by a rule that is told, of a whole set.

A rule says what names of the two sides have in common. The first one by which every degraded file
finds exactly one partner is the set's; what it leaves over is told. No file gets a partner by a
rule of its own: a name that stands alone is an error, never a guess.
"""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tdr_jax.errors import InputError
from tdr_jax.images.folders import list_pictures, listed

SHOWN = 10  # names in a line of error


class Rule(NamedTuple):
    """What two names have in common.

    Attributes:
        told: the rule in words, degraded side first.
        degraded, clean: match the whole name without its extension, in any case; where their groups
            are equal, the two belong together.
        foreign: matches no clean name of a set that has this rule; "" for nothing.
        marked: both sides carry a word of their own, so that they may share a folder.
    """

    told: str
    degraded: str
    clean: str
    foreign: str = ""
    marked: bool = False


EQUAL = Rule("equal names", r"(.*)", r"(.*)")
# Of data sets, as their archives and the folders of AirNet, PromptIR and BasicSR name them.
KNOWN = (
    Rule("rain-N and norain-N", r"(rain.*)", r"no(rain.*)", marked=True),  # Rain100L
    # Rain100, Rain200
    Rule("norain-Nx2 and norain-N", r"(?:no)?(rain-?\d+)x2", r"no(rain-?\d+)", marked=True),
    # RESIDE (0001_0.8_0.2 and 0001; 1400_3 and 1400; 1_1_0.90179 and 1), Rain14000 (901_14 and 901)
    Rule("ID_VALUES and ID", r"(\d+)(?:_\d+(?:\.\d+)?){1,2}", r"(\d+)"),
    Rule("NOISY and GT", r"((?:.*_)?)noisy(_.*|)", r"((?:.*_)?)gt(_.*|)", marked=True),  # SIDD
    Rule("_real and _mean", r"(.+)_real", r"(.+)_mean", marked=True),  # PolyU, CC15
    Rule("low and normal", r"low(.+)", r"normal(.+)", marked=True),  # LOL v2
    # O-HAZE, I-HAZE, NH-HAZE, Dense-Haze
    Rule("_hazy and _GT", r"(.+)_ha(?:ze|zy)", r"(.+)_gt", marked=True),
    Rule("NAME_haze and NAME", r"(.+)_ha(?:ze|zy)", r"(.+)", foreign=r".+_ha(?:ze|zy)"),
    Rule("N and Ngt", r"(\d+)", r"(\d+)gt"),  # SPA-Data
    Rule("blur_N and gt_N", r"blur_(\d+)", r"(?:gt|sharp)_(\d+)", marked=True),  # RealBlur
)
RULES = (EQUAL, *KNOWN)
VIEWS = (EQUAL, Rule("_L and _R", r"(.+)_l", r"(.+)_r"))  # of a dual-pixel sensor
# One picture for all of a scene, as `tdr guide --shared scene` names it: none has an underscore.
SCENE = Rule("SCENE_ANYTHING and SCENE", r"([^_]+)(?:_.*)?", r"([^_]+)", foreign=r".*_.*")
GUIDANCE = (*RULES, SCENE)

# Names of the folders that hold the two sides, without case.
DEGRADED_FOLDERS = frozenset(
    "degraded input inputs lq rain rainy rainy_image hazy haze synthetic low noisy blur blurry "
    "source left right inputl inputr inputc".split()
)
CLEAN_FOLDERS = frozenset(
    "clean target targets gt hq norain ground_truth groundtruth clear original high normal "
    "sharp".split()
)
COMPOSITES = frozenset(  # of CDD-11, beside clear/: four degradations and what they make together
    "low haze rain snow low_haze low_rain low_snow haze_rain haze_snow low_haze_rain "
    "low_haze_snow".split()
)


def normal(name: str) -> str:
    """Spells a name whose accents may be written in several ways in one way, Unicode's NFC."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class Matching:
    """What was paired with what.

    Attributes:
        rule: by which, in words.
        pairs: (degraded, clean), in the order of the degraded ones.
        missing: degraded names without a partner.
        unclear: (degraded name, the clean names that all fit).
        left_over: clean names that nothing asked for.
    """

    rule: str
    pairs: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unclear: tuple[tuple[str, tuple[str, ...]], ...]
    left_over: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every degraded name found exactly one partner."""
        return not self.missing and not self.unclear


def match(degraded: Sequence[str], clean: Sequence[str], rules: Sequence[Rule] = RULES) -> Matching:
    """Pairs the names of two sides by the first rule that holds for all of them.

    For each rule in turn, relative paths are compared before names alone. A weaker rule never goes
    against a stronger one: neither does a name get another partner by it, nor a partner another
    name.

    Args:
        degraded: relative paths with forward slashes.
        clean: likewise; each may serve several degraded ones (RESIDE, CDD-11).
        rules: in the order in which they are tried.

    Returns:
        the matching; where no rule holds for all names, that of the rule which holds for most.
    """
    settled: dict[str, str] = {}  # what the rules so far say, name by name
    best = _matching(rules[0].told, degraded, clean, {})
    for rule, by_path in itertools.product(rules, (True, False)):
        found = _fits(rule, by_path, degraded, clean)
        owned = set(settled.values())
        for name, fits in found.items():
            if name in settled:
                found[name] = fits if fits == [settled[name]] else []
            elif not owned.isdisjoint(fits):
                found[name] = []
        told = rule.told if by_path else f"{rule.told}, in whatever folder"
        made = _matching(told, degraded, clean, found)
        if made.holds:
            return made
        best = max(best, made, key=lambda one: (len(one.pairs), -len(one.missing)))
        settled = dict(made.pairs) | settled
    return best


def _fits(
    rule: Rule, by_path: bool, degraded: Iterable[str], clean: Iterable[str]
) -> dict[str, list[str]]:
    """The clean names that fit each degraded name; {} where the rule is none of this set."""
    side, other, foreign = (re.compile(part, re.IGNORECASE | re.DOTALL) for part in rule[1:4])
    keyed: dict[tuple, list[str]] = {}
    for name in clean:
        folder, stem = _parts(name)
        if rule.foreign and foreign.fullmatch(stem):
            return {}
        if found := other.fullmatch(stem):
            keyed.setdefault((folder if by_path else "", *found.groups()), []).append(name)
    fits = {}
    for name in degraded if keyed else ():
        folder, stem = _parts(name)
        if found := side.fullmatch(stem):
            near = keyed.get((folder if by_path else "", *found.groups()), [])
            same = [one for one in near if normal(one) == normal(name)]  # its extension, too
            fits[name] = same if len(same) == 1 else near
    return fits


def _parts(name: str) -> tuple[str, str]:
    folder, name = os.path.split(normal(name))
    return folder, os.path.splitext(name)[0]


def _matching(
    told: str, degraded: Sequence[str], clean: Sequence[str], fits: dict[str, list[str]]
) -> Matching:
    pairs = tuple((name, fits[name][0]) for name in degraded if len(fits.get(name, ())) == 1)
    unclear = tuple((name, tuple(fits[name])) for name in degraded if len(fits.get(name, ())) > 1)
    used = {name for _, name in pairs}.union(*(names for _, names in unclear))
    missing = tuple(name for name in degraded if not fits.get(name))
    return Matching(told, pairs, missing, unclear, tuple(n for n in clean if n not in used))


class Sides(NamedTuple):
    """The pictures of a folder that holds both sides: name -> path, and what belongs to neither."""

    degraded: dict[str, Path]
    clean: dict[str, Path]
    neither: tuple[Path, ...] = ()


def split(folder: str | os.PathLike) -> Sides | None:
    """Finds the two sides in a folder, wherever it is plain which is which.

    That is where subfolders beside each other have names of both sides (input/ and target/, also
    within each scene, as GoPro's blur/ and sharp/), or where all names follow one rule that marks
    both sides (SIDD's NOISY and GT).

    Args:
        folder: searched with the folders in it.

    Returns:
        the sides, names without the side's folder; None for a folder of one side only.

    Raises:
        InputError: as for `listed`.
    """
    files = listed(folder)
    inside: dict[str, set[str]] = {}  # folder -> folders in it
    for name in files:
        parts = name.split("/")[:-1]
        for i, part in enumerate(parts):
            inside.setdefault("/".join(parts[:i]), set()).add(part)
    sides = {parent: _sides(children) for parent, children in inside.items()}
    # A scene may lack one of the sides that the others have.
    words = [set().union(*(both[side] for both in sides.values())) for side in (0, 1)]
    for parent, both in sides.items():
        if not any(both):
            sides[parent] = tuple(inside[parent] & names for names in words)
    degraded, clean, neither = {}, {}, []
    for name, path in files.items():
        for side, key in _side_of(name, sides):
            (degraded if side == 0 else clean)[key] = path
            break
        else:
            neither.append(path)
    if degraded and clean:
        return Sides(degraded, clean, tuple(neither))
    for rule in KNOWN:
        if rule.marked and (found := _by_marks(rule, files)):
            return found
    return None


def _sides(children: set[str]) -> tuple[set[str], set[str]]:
    """Which subfolders of one folder hold degraded and which clean pictures."""
    lower = {child: child.casefold() for child in children}
    names = set(lower.values())
    if "clear" in names and names - {"clear"} and names - {"clear"} <= COMPOSITES:
        return {c for c in children if lower[c] != "clear"}, {
            c for c in children if lower[c] == "clear"
        }
    degraded = {child for child in children if lower[child] in DEGRADED_FOLDERS}
    clean = {child for child in children if lower[child] in CLEAN_FOLDERS}
    return (degraded, clean) if degraded and len(clean) == 1 else (set(), set())


def _side_of(name: str, sides: dict) -> Iterator[tuple[int, str]]:
    parts = name.split("/")
    for i, part in enumerate(parts[:-1]):
        both = sides["/".join(parts[:i])]
        for side, folders in enumerate(both):
            if part in folders:
                # Several folders of one side keep their names, which tell their files apart.
                keep = parts[: i + (len(folders) > 1)]
                yield side, "/".join([*keep, *parts[i + 1 :]])


def _by_marks(rule: Rule, files: dict[str, Path]) -> Sides | None:
    side, other = (re.compile(part, re.IGNORECASE | re.DOTALL) for part in rule[1:3])
    degraded = {name: path for name, path in files.items() if side.fullmatch(_parts(name)[1])}
    clean = {name: path for name, path in files.items() if other.fullmatch(_parts(name)[1])}
    apart = len(degraded) + len(clean) == len(degraded | clean) == len(files)
    return Sides(degraded, clean) if degraded and clean and apart else None


def find(
    folder: str | os.PathLike,
    names: Iterable[str],
    what: str,
    rules: Sequence[Rule] = GUIDANCE,
) -> list[Path]:
    """Finds the picture of a folder that goes with each name of a set.

    Args:
        folder: searched with the folders in it.
        names: relative paths with forward slashes; each must have its picture.
        what: such as "guidance", for the error.
        rules: see `match`.

    Returns:
        a path for each name.

    Raises:
        InputError: there is no such folder, some names have no picture in it, which lists them, or
            several fit one.
    """
    root, names = Path(folder), list(names)
    found = {path.relative_to(root).as_posix(): path for path in list_pictures(root)}
    matching = match(names, list(found), rules)
    refuse_missing(matching, root, what)
    return [found[name] for _, name in matching.pairs]


def refuse_missing(matching: Matching, root: Path, what: str) -> None:
    """Refuses a matching in which a degraded name stands alone.

    Args:
        matching: of names and those in a folder.
        root: the folder.
        what: its pictures are, such as "clean picture".

    Raises:
        InputError: lists the names without a partner, or says which partners fit one name.
    """
    if matching.unclear:
        name, fits = matching.unclear[0]
        first, second = (root / one for one in fits[:2])
        raise InputError(f"{first} and {second} both fit {name}; keep one of them")
    if matching.missing:
        by = f"the other {len(matching.pairs)} have one by the rule: {matching.rule}"
        raise InputError(
            f"{root}: no {what} for {shown(matching.missing)}; "
            + (by if matching.pairs else "give each a picture of its name, any extension")
            + ", and all of a set go by one rule"
        )


def shown(names: Sequence[str]) -> str:
    """Names in a line: the first of them, and how many there are where that is not all."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def of_folders(
    degraded_dir: str | os.PathLike,
    clean_dir: str | os.PathLike,
    rules: Sequence[Rule] = RULES,
    what: str = "clean picture",
) -> tuple[list[tuple[Path, Path]], Matching]:
    """Finds the clean picture of every degraded one.

    Args:
        degraded_dir, clean_dir: folders, searched with the folders in them.
        rules: see `match`.
        what: the second folder holds, for the error.

    Returns:
        (degraded, clean) paths, sorted by the degraded one; and by which rule, and what of the
        clean ones was left over.

    Raises:
        InputError: a folder is missing or empty, several clean pictures fit a degraded one, or none
            does.
    """
    clean, degraded = listed(clean_dir), listed(degraded_dir)
    matching = match(list(degraded), list(clean), rules)
    refuse_missing(matching, Path(clean_dir), what)
    return [(degraded[one], clean[other]) for one, other in matching.pairs], matching


def left_over(matching: Matching, clean_dir: str | os.PathLike) -> str:
    """A line about the clean pictures that belong to no degraded one; "" where there are none."""
    names = matching.left_over
    if not names:
        return ""
    which = "picture belongs" if len(names) == 1 else "pictures belong"
    return f"{clean_dir}: {len(names)} {which} to no degraded one: {shown(names)}"
