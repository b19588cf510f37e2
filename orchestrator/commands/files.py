"""Files that a user names: a missing or unwritable one is an error of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

from vitmodel.config.base import UserError


def check_file(path: Path) -> None:
    """Raise UserError where this is not a file."""
    if not path.is_file():
        raise UserError("this is a folder; give a file" if path.is_dir() else "no such file", file=str(path))


def check_folder(path: Path) -> None:
    """Raise UserError where this is not a folder."""
    if not path.is_dir():
        raise UserError("this is a file; give a folder" if path.is_file() else "no such folder", file=str(path))


@contextmanager
def writing(path: Path, field: str = "") -> Iterator[None]:
    """Raise UserError for `path` where the body cannot write it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", file=str(path), field=field) from None
    except SafetensorError as error:
        raise UserError(f"cannot be written: {error}", file=str(path), field=field) from None


def check_writable(folder: Path, field: str = "") -> None:
    """Create the folder if it does not exist. Raise UserError where no file can be written to it."""
    with writing(folder, field):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
