"""What is to be packed, as frozen configuration: the format of the files, and a ready description of a known dataset.

Reads nothing; the YAML of a description is read by orchestrator.spec.describe.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen

Split = Literal["train", "val", "test"]
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
    """Parquet files in the Hugging Face image layout: a column of {bytes, path}, and one of class numbers."""

    format: Literal["parquet"]
    image: str = "image"
    label: str = "label"


class TarsFormat(Frozen):
    """WebDataset tars, packed anew in our order. Members with these extensions are left behind."""

    format: Literal["tars"]
    ignore: tuple[str, ...] = ()


class ListsFormat(Frozen):
    """Images named in text files, one a line: columns apart by blanks, lines that start with # passed over."""

    format: Literal["lists"]
    lists: dict[Split, tuple[str, ...]] = Field(min_length=1)
    image: str = "{0}"  # path of an image, made of the line's columns
    label: int = Field(default=1, ge=0)  # column of the class
    first_label: int = Field(default=0, ge=0)  # the class that is ours 0


class FlowersFormat(Frozen):
    """Oxford Flowers-102: jpg/image_00001.jpg and on, imagelabels.mat, setid.mat."""

    format: Literal["flowers"]
    train: tuple[Literal["trnid", "valid"], ...] = ("trnid", "valid")  # test is tstid


Format = Annotated[
    FolderFormat | IdxFormat | CifarFormat | ParquetFormat | TarsFormat | ListsFormat | FlowersFormat,
    Field(discriminator="format"),
]


class LabelSets(Frozen):
    """Several right answers for the images of one split, from a JSON list of lists in the order of the images' names
    (ImageNet ReaL, Beyer et al. 2020). An image with an empty list does not count."""

    split: Split
    file: str


class PackConfig(Frozen):
    """Everything that decides the bytes of a packed dataset, apart from the source's files."""

    path: str
    files: Format
    seed: int = 0
    resize: int | None = Field(default=None, ge=8)  # the shorter side of images that are larger
    hold_out: dict[Split, Fraction] = Field(default={})  # where the source has one split: what is cut off it by key hash
    dev: Fraction | None = None  # pack the train split alone: this part of it as val, the rest as train
    label_sets: LabelSets | None = None
    class_names: tuple[str, ...] = ()
    skip_bad: float = Field(default=0.0, ge=0, lt=1)  # fraction of images that may be unreadable
    source: str = ""
    licence: str = ""
    command: str = ""


class Download(Frozen):
    """A file to fetch by hand: where from, and what must be done to it before packing."""

    url: str
    then: str = ""


class Description(Frozen):
    """A known dataset: where its files come from, what is in them, how they are split, and how they are packed."""

    name: str = Field(pattern=r"^[a-z0-9._-]{1,64}$")
    title: str
    homepage: str
    paper: str
    licence: str
    downloads: tuple[Download, ...] = Field(min_length=1)
    files: Format
    classes: int = Field(gt=1)
    class_names: tuple[str, ...] = ()
    splits: dict[Split, int]  # images in each after packing; 0: left open
    eval_split: Literal["val", "test"]
    hold_out: dict[Split, Fraction] = Field(default={})
    dev: Fraction | None = None  # the ViT paper's development set (Table 4 and appendix B.1.1), as a part of train
    dev_files: Format | None = None  # where lists name the development set: they, in place of a seeded cut
    label_sets: LabelSets | None = None
    note: str = ""
    pack: str

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if "train" not in self.splits or self.eval_split not in self.splits:
            raise ValueError("splits must have train and the eval_split")
        if self.dev_files is not None and self.dev is None:
            raise ValueError("dev_files need dev, the part of train that they judge on")
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")
        return self
