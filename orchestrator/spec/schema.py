"""The study file's schema: frozen, strict pydantic models, one for each section. Allowed keys and values are defined here
and in the modules that this one imports.

Attribute docstrings are the meanings of the keys on the reference page (reference.py).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from orchestrator.spec.claims import Claims, Import, Target
from orchestrator.spec.data_policy import SkipBad
from orchestrator.spec.fault_tolerance import AnyWorkers, Checkpoint, OnFailure
from orchestrator.spec.integrations import Notify, Tracking
from orchestrator.spec.kinds import INTERNAL
from orchestrator.spec.pretrain import Pretrain, Probe, RecipeSpec, Transfer
from orchestrator.spec.values import Auto, CacheSize, Count, Name, Written
from vitmodel.config.base import Frozen
from vitmodel.data.descriptions import Description
from vitmodel.data.generated import DigitsConfig, FractalConfig


class ExternalData(Frozen):
    """A packed dataset, or one that the study packs from the files at `source`. What its index or its description states need
    not be stated here; a contradiction is an error."""

    written: ClassVar = Written(
        noun="dataset",
        forms="{generate: fractals, ...}, {generate: digits}, {url: FOLDER, train: COUNT, classes: COUNT}, "
        "{describe: NAME, url: FOLDER} or {describe: NAME, source: FOLDER}",
        example="{url: /data/pets, train: 3680, classes: 37}",
    )
    further_keys: ClassVar = {"generate": FractalConfig.model_fields["generate"]}  # of the other forms of a dataset

    url: str = Field(default="", examples=["/data/imagenet"])
    """Folder or address of the packed dataset; `${env:NAME}` is allowed. Default where there is a `source`: a folder in the
    study's storage."""
    source: str = Field(default="", examples=["/downloads/cifar10"])
    """Folder of the downloaded files, which the study packs when it first runs; needs `describe`."""
    describe: str = Field(default="", examples=["cifar10"])
    """Description of the dataset, with counts, classes and licence: the name of a known dataset (`vitscale data known`), or
    a YAML file relative to the study file."""
    dev: bool = False
    """Use the description's development split: a part of train to evaluate on, the rest to train on."""
    description: Description | None = Field(default=None, json_schema_extra=INTERNAL)  # of the file that `describe` names
    train: Count | None = Field(default=None, examples=["1281167"])
    """Number of training images. Default: as in the description or the index; required where neither can be read."""
    classes: Count | None = Field(default=None, examples=["1000"])
    """Number of classes. Default: as in the description or the index; required where neither can be read."""
    eval_split: Literal["val", "test"] | None = None
    """The split that runs are evaluated on. Default: as in the description; else test, or val where the index has no test."""
    licence: str = Field(default="", examples=["CC BY 4.0"])
    """Licence of the images, for the report."""
    image_size: int | None = Field(default=None, gt=0, examples=["224"])
    """Size of the stored images in pixels per side, needed by `resolution: hyperrule`; default: as in the index."""


def _dataset_kind(value: Any) -> str:
    return str(value.get("generate", "external")) if isinstance(value, dict) else "external"


DatasetSpec = Annotated[
    Annotated[FractalConfig, Tag("fractals")]
    | Annotated[DigitsConfig, Tag("digits")]
    | Annotated[ExternalData, Tag("external")],
    Discriminator(_dataset_kind),
    ExternalData.written,
]


class Resources(Frozen):
    """Worker groups and devices. Nothing in this section changes a result."""

    device: Literal["auto", "cpu", "a100", "h100", "h200", "tpuv3"] = Field(default="auto", examples=["h100"])
    """Device model, for estimates and for `precision: auto`; `auto`: cpu, or a100 where workers have GPUs."""
    workers: AnyWorkers = Field(default="auto", examples=["{min: 2, max: 8}"])
    """Workers of one run: a number, or the range of an elastic worker group; `auto`: the fewest that fit."""
    cpus_per_worker: Annotated[int, Field(gt=0)] | Auto = Field(default="auto", examples=["4"])
    """CPUs of one worker; `auto`: 4 with a GPU, else 1."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | Auto = Field(default="auto", examples=["1"])
    """GPUs of one worker; `auto`: 1 where the device is a GPU."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Auto = Field(default="auto", examples=["2"])
    """DeepSpeed ZeRO stage; `auto`: the lowest that fits."""
    micro_batch: Annotated[int, Field(gt=0)] | Auto = Field(default="auto", examples=["32"])
    """Images per worker and forward pass; gradient accumulation keeps the global batch exact."""
    max_concurrent: Annotated[int, Field(gt=0)] | Auto = Field(default="auto", examples=["4"])
    """Worker groups that run at the same time; `auto`: as many as the cluster holds."""
    bundle: Literal["auto", "cell", "run"] = Field(default="auto", examples=["cell"])
    """What shares a worker group: `auto`: small cells; `cell`: nothing but one cell; `run`: fine-tunes get their own groups
    as soon as their pretraining is done."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints of runs in progress."""
    cache: CacheSize = Field(default="auto", examples=["500MB"])
    """Memory for decoded images per worker; `auto`: 2 GiB, at most a quarter of the machine's memory."""
    stall_minutes: float = Field(default=15.0, gt=0)
    """Minutes without progress after which a worker group is stopped and restarted."""
    wait_minutes: float = Field(default=0.0, ge=0)
    """Minutes to wait for a growing cluster; 0: what does not fit now is refused."""


class Budget(Frozen):
    """Limits. The number of runs is checked on the plan, hours on the plan and again while runs finish."""

    max_runs: int = Field(default=2000, gt=0, le=100_000)
    """Largest number of runs."""
    gpu_hours: float | None = Field(default=None, gt=0, examples=["500"])
    """Largest number of GPU-hours; beyond it the study ends with exit code 4."""
    wall_hours: float | None = Field(default=None, gt=0, examples=["24"])
    """Longest duration of the study in hours."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0, examples=["2.5"])
    """Price of one GPU-hour, in any currency."""
    cost: float | None = Field(default=None, gt=0, examples=["1000"])
    """Largest cost in the currency of `price_per_gpu_hour`, which it needs."""

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Budget:
        if self.cost is not None and self.price_per_gpu_hour is None:
            raise ValueError("cost needs price_per_gpu_hour")
        return self

    @property
    def gpu_limits(self) -> list[tuple[float, str]]:
        """Every limit as GPU-hours, and as text."""
        limits = [] if self.gpu_hours is None else [(self.gpu_hours, f"{self.gpu_hours:g} GPU-hours")]
        if self.cost is not None and self.price_per_gpu_hour is not None:
            hours = self.cost / self.price_per_gpu_hour
            limits.append((hours, f"{self.cost:g}, {hours:g} GPU-hours at {self.price_per_gpu_hour:g} each"))
        return limits


class Storage(Frozen):
    """The store: the folder of all runs."""

    path: str = "runs"
    """Folder of all runs; on a cluster it must be shared by all nodes."""


class Report(Frozen):
    """Text at the head of the report."""

    title: str = Field(default="", examples=["ViT against ResNet"])
    """Title; default: the study's name."""
    note: str = Field(default="", examples=["Pretrained on ImageNet-21k."])
    """Text below the title."""


# The axes of a study that trains nothing and only reads imported tables.
NO_PRETRAINING = Pretrain.model_construct(data="", resolution=1, sizes=(), models=(), lengths=(), recipe=RecipeSpec())


class Study(Frozen):
    """A whole study file."""

    name: Name = Field(examples=["my-study"])
    """Name of the study, of its folder in the store and of its MLflow experiment."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, examples=["[0, 1, 2]"])
    """Axis of seeds: every run is trained once per seed."""
    datasets: dict[Name, DatasetSpec] = Field(default={}, examples=["{pets: {url: /data/pets, train: 3680, classes: 37}}"])
    """Datasets by name."""
    pretrain: Pretrain = Field(
        default=NO_PRETRAINING,
        examples=[
            "{data: pets, resolution: 224, sizes: [all], lengths: [{epochs: 8}], models: [S/16], recipe: {preset: augreg}}"
        ],
    )
    """What is pretrained; a study with `imports` may have no pretraining."""
    transfer: Transfer | None = None
    """Fine-tuning of every pretrained model."""
    probe: Probe | None = None
    """Few-shot linear probes of every pretrained model."""
    resources: Resources = Resources()
    """Worker groups and devices."""
    budget: Budget = Budget()
    """Limits on runs, GPU-hours, duration and cost."""
    storage: Storage = Storage()
    """The store."""
    tracking: Tracking = Tracking()
    """MLflow."""
    notify: Notify | None = None
    """Webhook for events of the study."""
    on_failure: OnFailure = OnFailure()
    """What happens after a failed run."""
    on_bad_sample: Annotated[Literal["fail"] | SkipBad, SkipBad.written] = Field(
        default="fail", examples=["{skip_up_to: 0.1%}"]
    )
    """What happens with samples that cannot be read: the run fails, or they are replaced up to a share."""
    report: Report = Report()
    """Text at the head of the report."""
    imports: tuple[Import, ...] = Field(default=(), examples=["[{name: table6, table: data/table6.csv}]"])
    """Tables of published results, whose rows join those of the study."""
    claims: Claims = Claims()
    """Which claims are judged, and how."""
    targets: tuple[Target, ...] = Field(default=(), examples=["[{variant: L/16, dataset_size: 300M}]"])
    """Runs whose results are forecast."""
