"""Configuration of packing: the format of the files, and descriptions of known datasets.

Reads no files; orchestrator.spec.describe reads the YAML of a description.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from vitmodel.config.base import Frozen, UserError, suggest

SplitName = Literal["train", "val", "test"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class FolderFormat(Frozen):
    """A folder of class folders, or train/, val/ and test/ with class folders each."""

    format: Literal["folder"]


class IdxFormat(Frozen):
    """Files of the MNIST family: *images-idx3-ubyte and *labels-idx1-ubyte, plain or gzipped."""

    format: Literal["idx"]


class CifarFormat(Frozen):
    """CIFAR-10 or CIFAR-100 in the binary version: the .tar.gz, or its unpacked .bin files."""

    format: Literal["cifar"]
    labels: Literal["fine", "coarse"] = "fine"


class ParquetFormat(Frozen):
    """Parquet files in the Hugging Face image layout: a column of {bytes, path} and a column of class numbers."""

    format: Literal["parquet"]
    image: str = "image"
    label: str = "label"


class TarsFormat(Frozen):
    """WebDataset tars, packed again in this project's order, without the members of the extensions in `ignore`."""

    format: Literal["tars"]
    ignore: tuple[str, ...] = ()


class ListsFormat(Frozen):
    """Images named in text files, one per line. Columns are separated by blanks; lines that start with # are skipped."""

    format: Literal["lists"]
    lists: dict[SplitName, tuple[str, ...]] = Field(min_length=1)
    image: str = "{0}"  # path of an image, from the line's columns
    label: int = Field(default=1, ge=0)  # column of the class number
    first_label: int = Field(default=0, ge=0)  # the class number that becomes 0


class FlowersFormat(Frozen):
    """Oxford Flowers-102: jpg/image_00001.jpg and following, imagelabels.mat, setid.mat."""

    format: Literal["flowers"]
    train: tuple[Literal["trnid", "valid"], ...] = ("trnid", "valid")  # test is always tstid


Format = Annotated[
    FolderFormat | IdxFormat | CifarFormat | ParquetFormat | TarsFormat | ListsFormat | FlowersFormat,
    Field(discriminator="format"),
]
FORMATS: dict[str, type[Frozen]] = {
    get_args(kind.model_fields["format"].annotation)[0]: kind for kind in get_args(get_args(Format)[0])
}


def parse_format(name: str, texts: dict[str, str]) -> Format:
    """A format with these keys as text; the values of a list are separated by commas. Raises UserError."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}{suggest(name, list(FORMATS))}", allowed=", ".join(FORMATS))
    fields = {key: field for key, field in FORMATS[name].model_fields.items() if key != "format"}
    known = ", ".join(fields) or "none"
    if unknown := next((key for key in texts if key not in fields), ""):
        raise UserError(f"format {name} has no key {unknown!r}{suggest(unknown, list(fields))}", allowed=known)
    values = {key: tuple(text.split(",")) if isinstance(fields[key].default, tuple) else text for key, text in texts.items()}
    try:
        return TypeAdapter[Format](Format).validate_python({"format": name, **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"format {name}, key {first['loc'][-1]!r}: {first['msg']}; a description can give all keys") from None


class LabelSets(Frozen):
    """All correct classes of the images of one split, from a JSON list of lists in the order of the images' names
    (ImageNet ReaL, Beyer et al. 2020). An image with an empty list is not evaluated."""

    split: SplitName
    file: str


class PackConfig(Frozen):
    """Everything that determines the bytes of a packed dataset, in addition to the files of the source."""

    path: str
    files: Format
    seed: int = 0
    resize: int | None = Field(default=None, ge=8)  # pixels of the shorter side of larger images
    hold_out: dict[SplitName, Fraction] = Field(default={})  # cut off a source with one split, by a hash of the keys
    dev: Fraction | None = None  # pack the train split alone: this fraction of it as val, the rest as train
    label_sets: LabelSets | None = None
    class_names: tuple[str, ...] = ()
    skip_bad: float = Field(default=0.0, ge=0, lt=1)  # fraction of images that may be unreadable
    source: str = ""
    licence: str = ""
    command: str = ""


class Download(Frozen):
    """A file to download by hand, and what must be done with it before packing."""

    url: str
    then: str = ""


class Description(Frozen):
    """A known dataset: origin, content and splits of its files, and the command that packs them."""

    name: str = Field(pattern=r"^[a-z0-9._-]{1,64}$")
    title: str
    homepage: str
    paper: str
    licence: str
    downloads: tuple[Download, ...] = Field(min_length=1)
    files: Format
    classes: int = Field(gt=1)
    class_names: tuple[str, ...] = ()
    splits: dict[SplitName, int]  # images in each after packing; 0: unknown
    eval_split: Literal["val", "test"]
    hold_out: dict[SplitName, Fraction] = Field(default={})
    dev: Fraction | None = None  # the ViT paper's development set (Table 4 and appendix B.1.1), as a fraction of train
    dev_files: Format | None = None  # lists that name the development set, in place of a seeded cut
    label_sets: LabelSets | None = None
    note: str = ""
    pack: str

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if "train" not in self.splits or self.eval_split not in self.splits:
            raise ValueError("splits must contain train and the eval_split")
        if self.dev_files is not None and self.dev is None:
            raise ValueError("dev_files requires dev, the fraction of train that they hold out")
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")
        return self
