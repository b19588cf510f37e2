"""The devices that a plan reckons with: peak speed, memory, expected utilisation."""

from __future__ import annotations

from orchestrator.spec.schema import Resources
from vitmodel.config.base import Frozen


class Device(Frozen):
    """One accelerator, or one CPU core. Peaks: vendors' dense bf16; CPU: fp32 GEMM of one core, measured."""

    name: str
    peak_flops: float
    memory_bytes: float
    vit_utilisation: float = 0.4
    resnet_utilisation: float = 0.25
    step_seconds: float = 0.01
    is_gpu: bool = True


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="cpu",
            peak_flops=1.0e11,
            memory_bytes=4 * 2**30,
            vit_utilisation=0.35,
            resnet_utilisation=0.35,
            step_seconds=0.004,
            is_gpu=False,
        ),
        Device(name="a100", peak_flops=312e12, memory_bytes=80e9),
        Device(name="h100", peak_flops=989e12, memory_bytes=80e9),
        Device(name="h200", peak_flops=989e12, memory_bytes=141e9),
        Device(name="tpuv3", peak_flops=61.5e12, memory_bytes=16e9),
    )
}


def device_of(resources: Resources) -> Device:
    """The stated device; `auto` is a CPU core, or an A100 where GPUs are requested."""
    if resources.device != "auto":
        return DEVICES[resources.device]
    return DEVICES["a100" if resources.gpus_per_worker == 1 else "cpu"]
