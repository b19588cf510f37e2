"""Commands on datasets: pack, index, verify, known."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.files import check_folder, check_writable
from orchestrator.commands.options import Storage
from orchestrator.prepare import prepare
from orchestrator.spec.describe import find_description, known_names, read_description
from orchestrator.spec.schema import ExternalData
from vitmodel.config.base import UserError, suggest
from vitmodel.data.descriptions import FORMATS, Format, PackConfig, parse_format
from vitmodel.data.index import DatasetIndex

if TYPE_CHECKING:
    from orchestrator.execution.packing import PackOptions

app = typer.Typer(no_args_is_help=True, help="Pack, index and verify datasets of WebDataset shards.")

DEFAULT_SHARES = "val=10%", "test=10%"  # of a source without splits

Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Processes on this machine. Default: one for each core.")
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="EXT", help="Extension of tar members to leave out, such as txt. Can be repeated."),
]
Source = Annotated[str, typer.Option("--source", metavar="TEXT", help="Origin of the images, stored in index.json.")]
Licence = Annotated[str, typer.Option("--licence", metavar="TEXT", help="Licence of the images, stored in index.json.")]
DatasetFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a dataset with an index.json.")]


@app.command("pack")
def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Folder or file of images; a known dataset, with --from; a dataset of a study, with --study."
        ),
    ],
    dest: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="Folder to write the dataset to; not with --study.")
    ] = None,
    *,
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY", help="Pack dataset SOURCE of this study file into its storage folder.")
    ] = None,
    downloads: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Downloaded files of the known dataset SOURCE.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}. Default: recognised from the files."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Key of the format, such as labels=coarse, image=photo or ignore=txt. Can be repeated."
        ),
    ] = None,
    workers: Workers = None,
    ray: Annotated[bool, typer.Option("--ray", help="Pack in Ray tasks, one for each shard, instead of processes.")] = False,
    resize: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", min=8, help="Scale larger images down to this shorter side. Default: keep all sizes."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=SHARE",
            help=f"Share of a source without splits to hold out, by a hash of the keys. Can be repeated. "
            f"Default: {' and '.join(DEFAULT_SHARES)}.",
        ),
    ] = None,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Pack the development split of a known dataset: part of its train split becomes val."),
    ] = False,
    skip_bad: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Share of images that may be unreadable, such as 0.1%; they are left out."),
    ] = None,
    storage: Storage = None,
) -> None:
    """Pack images into shards with an index.

    If it is interrupted, the same command resumes it. `vitscale data known` lists the known datasets.
    """
    from orchestrator.execution.packing import PackOptions, pack_described, pack_visibly

    options = PackOptions(
        workers=workers,
        on_ray=ray,
        resize=resize,
        skip_bad=_share(skip_bad or "0%", "--skip-bad"),
        command="vitscale " + shlex.join(sys.argv[1:]),
    )
    described: dict[str, Any] = {"--format": kind, "--key": key, "--split": split}  # a description sets these
    if study is not None:
        described |= {"--from": downloads, "--dev": dev, "--resize": resize, "--skip-bad": skip_bad, "DEST": dest}
        _refuse(described, "--study: the study file sets it")
        _pack_of_study(study, source, storage, options)
        return
    if dest is None:
        raise UserError("required: the folder to write the dataset to", field="DEST")
    _refuse({"--storage": storage}, "DEST; it is the storage folder for --study")
    if downloads is not None or (not Path(source).exists() and find_description(source)):
        _refuse(described, f"the known dataset {source}: its description sets it")
        if downloads is None:
            raise UserError(f"required: {source} is a known dataset", field="--from", allowed="the folder of its downloads")
        description = _known(source)
        check_writable(dest.parent, "DEST")
        _print_counts(pack_described(description, downloads, dest, options, dev=dev), dest)
    else:
        _refuse({"--dev": dev}, "a source without description; it is for known datasets")
        config = PackConfig(
            path=str(Path(source).absolute()),
            files=_format(Path(source), kind, key or []),
            hold_out=_shares(split or list(DEFAULT_SHARES)),
            resize=options.resize,
            skip_bad=options.skip_bad,
            source=source,
            command=options.command,
        )
        check_writable(dest.parent, "DEST")
        _print_counts(pack_visibly(config, dest, options), dest)


def _refuse(options: dict[str, Any], other: str) -> None:
    """No option is silently ignored."""
    for name, value in options.items():
        if value:
            raise UserError(f"cannot be combined with {other}", field=name)


@app.command("index")
def index(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with WebDataset .tar files.")],
    *,
    workers: Workers = None,
    ignore: Ignore = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the order of the shards.")] = 0,
    source: Source = "",
    licence: Licence = "",
) -> None:
    """Write an index for existing WebDataset tars, in place.

    The tars stay as they are. A dataset that `vitscale data pack` wrote has its index already.
    """
    from vitmodel.data.external_tars import index_tars

    check_folder(folder)
    check_writable(folder, "FOLDER")
    command = "vitscale " + shlex.join(sys.argv[1:])
    left_out = tuple(extension.lstrip(".").lower() for extension in ignore or ())
    made = index_tars(folder, seed=seed, source=source, licence=licence, command=command, ignore=left_out, processes=workers)
    _print_counts(made, folder)


@app.command("verify")
def verify(folder: DatasetFolder, workers: Workers = None) -> None:
    """Check every byte of a dataset against its index.

    Exit codes: 0 the dataset is complete and unchanged; 1 there are problems, one per line; 2 user error.
    """
    import vitmodel.data.verify

    check_folder(folder)
    problems = vitmodel.data.verify.verify(folder, processes=workers)
    print("\n".join(problems) or f"{folder}: complete and unchanged")
    raise typer.Exit(1 if problems else 0)


@app.command("known")
def known() -> None:
    """List the known datasets and how to pack them.

    For each: name, title, classes, licence; the files to download, with what to do with them; the command that packs them.
    """
    for name in known_names():
        description = read_description(Path(find_description(name) or name))
        print(f"{name}: {description.title}; {description.classes} classes; licence: {description.licence}")
        for file in description.downloads:
            print(f"    {file.url}{f'  ({file.then})' if file.then else ''}")
        print(f"    {description.pack}")


def _pack_of_study(study: Path, name: str, storage: str | None, options: PackOptions) -> None:
    from orchestrator.execution.packing import pack_missing, pack_visibly

    prepared = prepare(study, storage)
    spec = prepared.file.study.datasets.get(name)
    if spec is None:
        names = list(prepared.plan.datasets)
        raise UserError(f"no dataset {name!r} in this study{suggest(name, names)}", file=str(study), allowed=", ".join(names))
    root = Path(prepared.plan.datasets[name])
    if isinstance(spec, ExternalData):
        if not pack_missing(prepared.file, prepared.plan.datasets, (name,), options):
            message = "cannot be packed: the study states neither its description nor its downloads"
            raise prepared.file.tree.error(message, ("datasets", name), "describe and source")
        return
    _print_counts(pack_visibly(spec, root, options), root)


def _known(name: str) -> Any:
    path = find_description(name)
    if path is None:
        raise UserError(f"no known dataset {name!r}{suggest(name, known_names())}", allowed=", ".join(known_names()))
    return read_description(path)


def _format(path: Path, kind: str | None, keys: list[str]) -> Format:
    from vitmodel.data.open_source import detect_format

    texts = {}
    for key in keys:
        name, separator, text = key.partition("=")
        if not separator:
            raise UserError(f"invalid key {key!r}", field="--key", allowed="KEY=VALUE, such as labels=coarse")
        texts[name] = text
    return parse_format(kind or detect_format(path), texts)


def _shares(texts: list[str]) -> dict[Any, float]:
    shares = {}
    for text in texts:
        split, _, share = text.partition("=")
        if split not in ("val", "test"):
            raise UserError(f"split {split!r} cannot be held out", field="--split", allowed="val or test, such as val=10%")
        if value := _share(share, "--split"):
            shares[split] = value
    if sum(shares.values()) >= 1:
        raise UserError("the shares leave no images for train", field="--split", allowed="less than 100% in total")
    return shares


def _share(text: str, field: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UserError(f"invalid share {text!r}", field=field, allowed="0% to below 100%, such as 10% or 0.1")
    return value


def _print_counts(index: DatasetIndex, root: Path) -> None:
    counts = ", ".join(f"{split} {part.samples:,}" for split, part in index.splits.items())
    print(f"{root}: {counts} images of {index.classes} classes")
