"""The Dockerfiles build from files that are there, and their containers start and stop well."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.support.programs import lint

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "docker"
EXTRAS = {"Dockerfile.gpu": "cuda", "Dockerfile.tpu": "tpu"}
both = pytest.mark.parametrize("name", EXTRAS)


def instructions(name):
    """The (instruction, arguments) of a Dockerfile, continued lines joined."""
    text = (FOLDER / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def arguments(name, wanted):
    return [given for instruction, given in instructions(name) if instruction == wanted]


@both
def test_hadolint_finds_nothing(name):
    assert lint("hadolint", FOLDER / name) == ""


@both
@pytest.mark.parametrize(
    "right, wrong, code",
    [
        (r":3\.11\.\d+-slim-bookworm", "", "DL3006"),
        (r":3\.11\.\d+-slim-bookworm", ":latest", "DL3007"),
        ("--no-cache-dir ", "", "DL3042"),
        (r"\[\"python\", \"train.py\"\]", "python train.py", "DL3025"),
        ("USER 1000", "USER root", "DL3002"),
        ("USER 1000", "USR 1000", "unexpected"),
    ],
)
def test_a_mistake_is_found(name, right, wrong, code):
    text, count = re.subn(right, wrong, (FOLDER / name).read_text())
    assert count
    assert code in lint("hadolint", "-", text=text)


@both
def test_what_is_copied_is_there_and_is_sent(name):
    sources = [source for given in arguments(name, "COPY") for source in given.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in ignored if line and not line.startswith("#")]
    assert ignored[0] == "*"
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert sent == {Path(source).parts[0] for source in sources}


@both
def test_the_folders_of_the_code_arrive_whole(name):
    # One file of the package comes earlier, to install from; the package itself must follow.
    copied = [given.split() for given in arguments(name, "COPY")]
    for folder in ("tdr_jax", "configs"):
        assert [folder, folder] in copied


@both
def test_versions_are_those_that_are_tested(name):
    (base,) = arguments(name, "FROM")
    tag = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-bookworm", base)
    assert tag[1] == "3.11"
    (install,) = (given for given in arguments(name, "RUN") if "pip install" in given)
    assert "--constraint constraints.txt" in install
    extras = re.search(r"\.\[([\w,]+)\]", install)[1].split(",")
    assert extras == [EXTRAS[name], "gcs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])


@both
def test_python_is_the_process_that_is_told_to_stop(name):
    (start,) = arguments(name, "ENTRYPOINT")
    assert json.loads(start) == ["python", "train.py"]
    assert not arguments(name, "CMD") and not arguments(name, "STOPSIGNAL")
    (user,) = arguments(name, "USER")
    assert user.isdigit() and int(user) > 0


def test_the_two_images_differ_in_their_accelerator_only():
    def common(name):
        rest = [line for line in instructions(name) if line[0] != "ENV"]
        return [(word, given.replace(EXTRAS[name], "ACCELERATOR")) for word, given in rest]

    gpu, tpu = (common(name) for name in EXTRAS)
    assert gpu == tpu
