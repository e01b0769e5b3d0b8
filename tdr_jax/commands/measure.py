"""What `tdr eval` does: a network, a table of the field or pictures of elsewhere; and its files."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from tdr_jax import disk
from tdr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Files:
    """What is written of a measurement beside the table that is printed.

    Attributes:
        output: folder for table.md, table.json, pictures.csv and report.html, or None.
        save: folder for the restored and the clean pictures of every row, or None.
        panels: folder for input, restored and clean side by side, or None.
        shown: how many pictures of each row are in report.html.
    """

    output: str | Path | None = None
    save: str | Path | None = None
    panels: str | Path | None = None
    shown: int = 12

    def check(self) -> None:
        """Refuse folders that are files, and a negative number, with an InputError."""
        for folder in (self.output, self.save, self.panels):
            if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
                raise InputError(f"{folder} is a file; give a folder to write to")
        if self.shown < 0:
            raise InputError(f"--shown is {self.shown}; give a number of pictures")

    def gallery(self):
        """What takes each result, and what it kept to be shown."""
        from tdr_jax.evaluate import pages

        kept = pages.Gallery(self.shown)

        def take(row, result):
            if self.output is not None and self.shown:
                kept(row, result)
            if self.save is not None:
                _save(Path(self.save) / getattr(row, "name", row), result)

        return take, kept

    def write(self, rows, about: dict, kept, title: str, benchmark=None, seed: int = 0) -> None:
        """Write what was measured; `benchmark` has the headings and cells of a table beside."""
        if self.output is None:
            return
        from tdr_jax.evaluate import pages, report

        folder = Path(self.output)
        paths = report.write(rows, folder, about)
        disk.write_text(folder / "pictures.csv", report.to_csv(rows))
        beside = pages.beside(*benchmark) if benchmark else ""
        page = pages.page(rows, about, kept, title=title, benchmark=beside, seed=seed)
        disk.write_text(folder / "report.html", page)
        for path in (*paths, folder / "pictures.csv", folder / "report.html"):
            print(f"wrote {path}", file=sys.stderr)


def network(
    model,
    encoder,
    source,
    settings,
    files: Files,
    *,
    how=None,
    insist: bool = False,
    **options,
) -> list:
    """Measure a network, print the table and write the files.

    Args:
        model, encoder: weights and text encoder, names or paths.
        source, settings: see `evaluators.evaluate`.
        files: what to write.
        how: an `evaluators.How`.
        insist: take the encoder although the weights name another.
        **options: of `evaluators.evaluate`.

    Returns:
        the rows.

    Raises:
        InputError: weights, pictures or arguments that cannot be used.
    """
    from tdr_jax import distributed
    from tdr_jax.evaluate import evaluators, protocols, report

    # What can be wrong is found before anything takes time.
    noise = options.get("noise", "uint8")
    rows = protocols.settings_of(settings, options.get("wrong_prompt"), noise)
    files.check()
    source = protocols.open_source(source)
    how = how or evaluators.HOW
    loaded = _load(model, encoder, how, insist)
    evaluators.check(loaded[0], loaded[2], rows, options.get("prompt"), options.get("guidance"))
    take, kept = files.gallery()
    rows = evaluators.evaluate(
        *loaded,
        source,
        settings,
        how=how,
        panels=files.panels,
        progress=progress,
        each=take,
        **options,
    )
    if distributed.is_lead():
        print(report.markdown(rows), end="")
        about = _about(loaded, model, encoder, how, options) | _pyiqa(how.measure, files.save)
        _say_pyiqa(about)
        files.write(rows, about, kept, f"{loaded[0].name}", seed=options.get("seed", 0))
    return rows


def benchmark(
    name: str, root, model, encoder, files: Files, *, how, insist: bool = False, **options
) -> None:
    """Measure a network on the sets of a table of the field, beside what others published.

    Args:
        name: of `evaluate.benchmarks.BENCHMARKS`.
        root: folder that holds the sets.
        model, encoder, files, how, insist, **options: as for `network`.

    Raises:
        InputError: none of the sets is there; or as for `network`.
    """
    from tdr_jax.evaluate import benchmarks, evaluators, report

    chosen = benchmarks.benchmark(name)
    files.check()
    parts = benchmarks.open_parts(chosen, root)
    loaded = _load(model, encoder, how, insist)
    take, kept = files.gallery()
    measured, rows = {}, []
    for place, part in enumerate(parts):
        scores: list = []
        for setting, source in part.source.items():
            row_name = part.column.name + (f"-{setting.name}" if len(part.source) > 1 else "")
            (row,) = evaluators.evaluate(
                *loaded,
                source,
                [setting],
                how=how,
                progress=lambda _, done, total, named=row_name: progress(named, done, total),
                each=lambda _, result, named=row_name: take(named, result),
                **options,
            )
            scores += row.scores
            rows.append(dataclasses.replace(row, setting=row_name))
        if scores:
            parts[place] = dataclasses.replace(part, pictures=len(scores))
            measured[part.column.name] = report.Row(part.column.name, tuple(scores))
    size = f"{loaded[0].size / 1e6:.1f}M"
    heads, cells = benchmarks.beside(name, (f"**{loaded[0].name}**", size), measured, parts)
    notes = [part.note for part in parts if part.note]
    print(f"{chosen.title}. {how.measure.protocol.name}: {how.measure.protocol}\n")
    print(benchmarks.markdown(heads, cells))
    print("PSNR dB / SSIM; the others' as their sources tell them, not measured here.")
    for note in notes:
        print(f"{'' if 'not measured' in note else '* '}{note}")
    about = {"benchmark": name, "data": str(root)}
    about |= _about(loaded, model, encoder, how, options) | _pyiqa(how.measure, files.save)
    about["notes"] = "; ".join(notes)
    _say_pyiqa(about)
    cells[0][0] = loaded[0].name
    table = (heads, cells, notes)
    files.write(rows, about, kept, chosen.title, table, options.get("seed", 0))


def outputs(pred, target, degraded, files: Files, measure, limit: int | None) -> None:
    """Measure pictures that were restored elsewhere.

    Args:
        pred, target, degraded: folders, see `evaluate.outputs.Outputs`.
        files: what to write.
        measure: a `scoring.Measure`.
        limit: only the first so many.

    Raises:
        InputError: pictures that cannot be used.
    """
    from tdr_jax.data.pairs import left_over
    from tdr_jax.evaluate import outputs as elsewhere
    from tdr_jax.evaluate import report

    files.check()
    pictures = elsewhere.Outputs(pred, target, degraded)
    if line := left_over(pictures.matching, target):
        print(line.replace("degraded one", "restored one"), file=sys.stderr)
    take, kept = files.gallery()
    name = Path(pred).resolve().name
    row = elsewhere.evaluate(pictures, measure, name, limit=limit, each=take, progress=progress)
    print(report.markdown([row]), end="")
    about: dict[str, Any] = {
        "restored": str(pred),
        "target": str(target),
        "degraded": degraded and str(degraded),
        "paired by": pictures.matching.rule,
        "protocol": f"{measure.protocol.name}: {measure.protocol}",
        "source": measure.protocol.source,
        "limit": limit,
    }
    files_of_pictures = all(path.suffix.lower() != ".npy" for path in pictures.pred.values())
    if (command := measure.protocol.pyiqa) and files_of_pictures:
        about["pyiqa"] = command.format(pred=pred, target=target)
    _say_pyiqa(about)
    files.write([row], about, kept, name)


def progress(setting: str, done: int, total: int) -> None:
    """Say on a terminal how far a row is."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{setting}: {done}/{total} pictures", end=end, file=sys.stderr, flush=True)


def _load(model, encoder, how, insist: bool):
    """(network, parameters, text encoder), ready for what is asked of devices."""
    import jax

    from tdr_jax import weights
    from tdr_jax.infer.rows import check_network, make_mesh
    from tdr_jax.runtime import enable_compilation_cache

    if how.over_rows:
        make_mesh(how.over_rows)
    if not 0 <= how.devices <= jax.local_device_count():
        raise InputError(
            f"--devices is {how.devices}, but there are {jax.local_device_count()}; on a CPU, set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={how.devices}"
        )
    loaded, params = weights.load(model)
    if how.over_rows > 1:
        check_network(loaded)
    enable_compilation_cache()
    loaded, text_encoder = weights.with_encoder(loaded, encoder, insist=insist)
    return loaded, params, text_encoder


def _about(loaded, model, encoder, how, options) -> dict[str, Any]:
    network, _, text_encoder = loaded
    protocol = how.measure.protocol
    channels = "grey" if network.config.channels[1] == 1 else "RGB"
    return {
        "network": network.name,
        "weights": str(model),
        "encoder": str(encoder or text_encoder.name) if text_encoder else None,
        "protocol": f"{channels}, {protocol.name}: {protocol}",
        "source": protocol.source,
        "ensemble": how.ensemble,
        **{name: options.get(name) for name in ("seed", "prompt", "limit")},
        "guidance": str(options["guidance"]) if options.get("guidance") else None,
    }


def _pyiqa(measure, save) -> dict[str, str]:
    if not measure.protocol.pyiqa:
        return {}
    root = Path(save or "SAVED") / "ROW"
    return {"pyiqa": measure.protocol.pyiqa.format(pred=root / "restored", target=root / "clean")}


def _say_pyiqa(about: dict) -> None:
    if command := about.get("pyiqa"):
        saved = "" if "SAVED" not in command else " (of files that --save SAVED writes)"
        print(f"the same with pyiqa{saved}: {command}", file=sys.stderr)


def _save(folder: Path, result) -> None:
    from tdr_jax.images.files import write_rgb

    name = Path(result.example.name).with_suffix(".png")
    for part, picture in (("restored", result.restored), ("clean", result.example.clean)):
        write_rgb(folder / part / name, _colour(picture))


def _colour(picture):
    import numpy as np

    return np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.float32)
