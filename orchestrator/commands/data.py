"""Verbs on datasets: pack, index, verify, known."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from orchestrator.commands.options import Storage
from orchestrator.prepare import prepare
from orchestrator.spec.describe import find_description, known_names, read_description
from orchestrator.spec.schema import ExternalData
from vitmodel.config.base import UserError, suggest
from vitmodel.data.descriptions import Format, PackConfig
from vitmodel.data.index import DatasetIndex

app = typer.Typer(no_args_is_help=True, help="Pack, index and verify datasets of WebDataset shards.")

FORMATS = ("folder", "idx", "cifar", "parquet", "tars", "flowers")  # lists need a description
SHARES = "val=10%", "test=10%"  # of a source that has no splits of its own

Workers = Annotated[int | None, typer.Option(min=1, help="processes; default: one a core")]
Ignore = Annotated[list[str] | None, typer.Option(help="extension of tar members to leave out; may be repeated")]


@app.command("pack")
def pack(
    source: Annotated[str, typer.Argument(help="a folder or file; or the name of a known dataset, with --from")],
    dest: Annotated[Path | None, typer.Argument(help="folder of the packed dataset")] = None,
    *,
    study: Annotated[Path | None, typer.Option(help="pack SOURCE, a dataset of this study, into its storage")] = None,
    downloads: Annotated[Path | None, typer.Option("--from", help="folder of a known dataset's downloads")] = None,
    kind: Annotated[str | None, typer.Option("--format", help=f"{', '.join(FORMATS)}; default: told by the files")] = None,
    workers: Workers = None,
    ray: Annotated[bool, typer.Option("--ray", help="one Ray task a shard, in place of processes")] = False,
    resize: Annotated[int | None, typer.Option(help="shorter side in pixels of images that are larger")] = None,
    split: Annotated[list[str] | None, typer.Option(help=f"share cut off by key hash; default: {' '.join(SHARES)}")] = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="a known dataset's development split: train without it, and it as val")
    ] = False,
    coarse: Annotated[bool, typer.Option("--coarse", help="CIFAR-100's 20 superclasses")] = False,
    image_column: Annotated[str | None, typer.Option(help="of parquet files")] = None,
    label_column: Annotated[str | None, typer.Option(help="of parquet files")] = None,
    ignore: Ignore = None,
    skip_bad: Annotated[str, typer.Option(help="share of images that may be unreadable, such as 0.1%")] = "0%",
    seed: Annotated[int, typer.Option(help="of the samples' order")] = 0,
    licence: Annotated[str, typer.Option(help="for index.json")] = "",
    storage: Storage = None,
) -> None:
    """Pack images into shards with an index; a killed packing goes on where it stopped."""
    from orchestrator.execution.packing import pack_described, pack_visibly

    how: dict[str, Any] = {"workers": workers, "on_ray": ray}
    own: dict[str, Any] = {"seed": seed, "resize": resize, "skip_bad": _percent(skip_bad, "--skip-bad")}
    own["command"] = "vitscale " + shlex.join(sys.argv[1:])
    files = {
        "image": image_column,
        "label": label_column,
        "labels": "coarse" if coarse else None,
        "ignore": tuple(ignore or ()),
    }
    free = {"--format": kind, "--split": split, "--licence": licence, "--coarse": coarse, "--ignore": ignore}
    free |= {"--image-column": image_column, "--label-column": label_column}
    if study is not None:
        _refuse({**free, "--from": downloads, "--dev": dev, "--resize": resize, "DEST": dest, "--seed": seed}, "--study")
        _pack_of_study(study, source, storage, how)
    elif dest is None:
        raise UserError("no folder to pack into", field="DEST")
    elif downloads is not None or (not Path(source).exists() and find_description(source)):
        _refuse(free, "a known dataset")
        if downloads is None:
            raise UserError(f"where the files of {source} lie is not given", field="--from", allowed="a folder")
        _say(pack_described(_known(source), downloads, dest, dev=dev, own=own, **how), dest)
    else:
        _refuse({"--dev": dev, "--storage": storage}, "a dataset that is not described")
        format_ = _format(Path(source), kind, {key: value for key, value in files.items() if value})
        own |= {"path": str(Path(source).absolute()), "source": source, "licence": licence}
        config = PackConfig(files=format_, hold_out=_shares(split or list(SHARES)), **own)
        _say(pack_visibly(config, dest, **how), dest)


def _refuse(options: dict[str, Any], beside: str) -> None:
    """No option is ignored in silence."""
    for name, value in options.items():
        if value:
            raise UserError(f"has no meaning beside {beside}, which says it itself", field=name)


@app.command("index")
def index(
    folder: Path,
    *,
    workers: Workers = None,
    ignore: Ignore = None,
    seed: Annotated[int, typer.Option(help="of the shards' order")] = 0,
    source: Annotated[str, typer.Option(help="for index.json")] = "",
    licence: Annotated[str, typer.Option(help="for index.json")] = "",
) -> None:
    """Index WebDataset tars that someone else wrote, where they are."""
    from vitmodel.data.verify import index_tars

    command = "vitscale " + shlex.join(sys.argv[1:])
    left_out = tuple(extension.lstrip(".").lower() for extension in ignore or ())
    made = index_tars(folder, seed=seed, source=source, licence=licence, command=command, ignore=left_out, processes=workers)
    _say(made, folder)


@app.command("verify")
def verify(folder: Path, workers: Workers = None) -> None:
    """Check every byte of a dataset against its index."""
    from vitmodel.data.verify import verify as check

    problems = check(folder, processes=workers)
    print("\n".join(problems) or "whole")
    raise typer.Exit(1 if problems else 0)


@app.command("known")
def known() -> None:
    """Known datasets: what they are, where their files come from, and how to pack them."""
    for name in known_names():
        description = read_description(Path(find_description(name) or name))
        print(f"{name}: {description.title}; {description.classes} classes; {description.licence}")
        for file in description.downloads:
            print(f"    {file.url}{f'  ({file.then})' if file.then else ''}")
        print(f"    {description.pack}")


def _pack_of_study(study: Path, name: str, storage: str | None, how: dict[str, Any]) -> None:
    from orchestrator.execution.packing import pack_missing, pack_visibly

    prepared = prepare(study, storage)
    spec = prepared.file.study.datasets.get(name)
    if spec is None:
        raise UserError(f"{name} is no dataset of this study", allowed=", ".join(prepared.plan.datasets))
    root = Path(prepared.plan.datasets[name])
    if isinstance(spec, ExternalData):
        if not pack_missing(prepared.file, prepared.plan.datasets, (name,), **how):
            raise prepared.file.tree.error("the study does not say how it is packed", ("datasets", name), "describe and source")
        return
    _say(pack_visibly(spec, root, **how), root)


def _known(name: str) -> Any:
    path = find_description(name)
    if path is None:
        raise UserError(f"no known dataset {name!r}{suggest(name, known_names())}", allowed=", ".join(known_names()))
    return read_description(path)


def _format(path: Path, kind: str | None, keys: dict[str, Any]) -> Any:
    from vitmodel.data.opening import detect_format

    name = kind or detect_format(path)
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}{suggest(name, list(FORMATS))}", field="--format", allowed=", ".join(FORMATS))
    try:
        return TypeAdapter(Format).validate_python({"format": name, **keys})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"format {name}: {first['loc'][-1]}: {first['msg']}", field="--format") from None


def _shares(texts: list[str]) -> dict[Any, float]:
    shares = {}
    for text in texts:
        split, _, share = text.partition("=")
        if split not in ("val", "test"):
            raise UserError(f"no split {split!r} to cut off", field="--split", allowed="val=10%, test=10%")
        if value := _percent(share, "--split"):
            shares[split] = value
    if sum(shares.values()) >= 1:
        raise UserError("nothing is left to train on", field="--split")
    return shares


def _percent(text: str, field: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UserError(f"{text!r} is no share", field=field, allowed="such as 10% or 0.1")
    return value


def _say(index: DatasetIndex, root: Path) -> None:
    counts = ", ".join(f"{split} {part.samples:,}" for split, part in index.splits.items())
    print(f"{root}: {counts} images of {index.classes} classes")
