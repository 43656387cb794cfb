"""Devices of this machine as devices of a problem."""

import os
from collections.abc import Mapping
from dataclasses import replace

import psutil
import torch

from mottle.core.errors import ConfigError
from mottle.core.naming import suggestion
from mottle.placement.problem import Device
from mottle.placement.tracing.rates import DEVICE_CLASSES, DeviceClass, cpu_class

HOST = "host"
"""Class of this machine's processor."""


def here(name: str, classes: Mapping[str, DeviceClass] = DEVICE_CLASSES) -> tuple[Device, DeviceClass]:
    """A torch device of this machine, with what is free on it now, less the reserve.

    Args:
        name: `cpu`, `cuda` or `cuda:1`.
    Raises:
        ConfigError: no such device here, or a GPU that `classes` does not know.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is neither a torch device nor written as name=class: {str(error).splitlines()[0]}") from None
    if device.type == "cpu":
        free = psutil.virtual_memory().available
        kind = cpu_class(os.cpu_count() or 1, psutil.virtual_memory().total)
        return Device(name, HOST, free - int(free * kind.reserve)), kind
    if device.type != "cuda" or not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"there is no device {name!r} in this machine; declare one that is elsewhere as name=class, such as gpu0=a100-40gb"
        )
    sort = _named(torch.cuda.get_device_name(device), classes)
    free, whole = torch.cuda.mem_get_info(device)
    kind = replace(classes[sort], mem=whole)
    return Device(name, sort, free - (whole - kind.budget)), classes[sort]


def _named(product: str, classes: Mapping[str, DeviceClass]) -> str:
    """The class that a product's name contains, the longest such: `NVIDIA A100-SXM4-40GB` is an `a100-40gb`."""
    folded = product.lower().replace(" ", "").replace("-", "")
    fitting = [name for name in classes if all(part in folded for part in name.split("-"))]
    if not fitting:
        raise ConfigError(f"{product!r} is no device class that is known; {suggestion(product, classes)}. Pass its rates in `classes`")
    return max(fitting, key=len)
