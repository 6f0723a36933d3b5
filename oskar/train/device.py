"""The device a run computes on."""

import torch

from oskar.errors import InputError


def choose_device(setting: str) -> torch.device:
    """The device of ``train.device``; "auto" takes a GPU if there is one."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise InputError(f"train.device = {setting!r} is no device", fix="use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"train.device = {setting!r}, but there is no GPU", fix="use train.device=cpu")
    return device
