"""The study file: YAML to a frozen, checked `Study`.

All mistakes of a file are reported together, each with file, line, key, what is allowed and an example. Reads the YAML,
descriptions of datasets and headers of weights files; decides nothing about which runs there will be.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pydantic import ValidationError

from orchestrator.secrets import names_in
from orchestrator.spec.describe import as_tuples
from orchestrator.spec.errors import combined, faults
from orchestrator.spec.expand import expand
from orchestrator.spec.references import check_models, check_names
from orchestrator.spec.schema import Storage, Study
from orchestrator.spec.values import Size, as_count
from orchestrator.spec.yamltree import YamlTree
from vitmodel.config.base import UserError


@dataclass(frozen=True)
class StudyFile:
    """A study and the tree it was read from, for messages with line numbers."""

    study: Study
    tree: YamlTree

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the file names; their values are not written anywhere."""
        return variables_of(self.study)


def read_study(path: Path) -> StudyFile:
    """Read and check a study file. Raises UserError, or CombinedUserError where there are several mistakes."""
    tree = YamlTree(path, keys=tuple(Study.model_fields))
    data, errors = expand(tree)
    study: Study | None = None
    try:
        study = Study.model_validate(as_tuples(data))
    except ValidationError as error:
        errors += faults(tree, error, Study)
    errors += check_names(tree) + check_models(tree, data)
    unreadable = {error.field for error in tree.faults}
    errors = tree.faults + [error for error in errors if error.field not in unreadable]
    if errors or study is None:
        raise combined(errors)
    return StudyFile(study, tree)


def variables_of(study: Study) -> tuple[str, ...]:
    """The environment variables that a study's addresses name. The storage folder's name is not a secret and stays readable."""
    return names_in(study.model_copy(update={"storage": Storage()}).model_dump_json(serialize_as_any=True))


def resolve_size(size: Size, available: int) -> int:
    """A size such as 16k, 10% or all as a number of images. Raises UserError where the dataset has fewer."""
    if size == "all":
        return available
    percent = isinstance(size, str) and size.endswith("%")
    images = round(Fraction(str(size)[:-1]) / 100 * available) if percent else as_count(size)
    if not isinstance(images, int) or not 0 < images <= available:
        raise UserError(
            f"size {size} is not within the dataset", field="sizes", allowed=f"1 to {available}, a percentage, or all"
        )
    return images
