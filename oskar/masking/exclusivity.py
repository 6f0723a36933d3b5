"""Exclusivity: no target may be read off a visible token of another modality at its place and time (A16, A17)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from oskar.config import MaskingConfig
from oskar.modalities import Modality


def hidden_joints(visible_video: Tensor, joint_cells: Tensor, grid: tuple[int, ...], radius: int) -> Tensor:
    """Joints, bool ``[B, N_s]``, one of whose cells ``[B, N_s, C]`` is a visible video token, or near one."""
    near = widen(visible_video, grid, radius)
    return (near.gather(1, joint_cells.clamp_min(0).flatten(1)).view_as(joint_cells) & (joint_cells >= 0)).any(-1)


def hidden_cells(visible_joints: Tensor, joint_cells: Tensor, grid: tuple[int, ...], radius: int) -> Tensor:
    """Video tokens, bool ``[B, N_v]``, whose cell (or one within ``radius``) holds a visible joint."""
    n_cells = grid[0] * grid[1] * grid[2]
    counts = torch.zeros(len(joint_cells), n_cells, dtype=torch.int32, device=joint_cells.device)
    is_held = visible_joints[..., None] & (joint_cells >= 0)
    counts.scatter_add_(1, joint_cells.clamp_min(0).flatten(1), is_held.flatten(1).int())
    return widen(counts > 0, grid, radius)


def widen(is_set: Tensor, grid: tuple[int, ...], radius: int) -> Tensor:
    """Grow a set of cells, bool ``[B, T*Y*X]``, by ``radius`` patches in space; time stays exact."""
    if radius == 0:
        return is_set
    steps, rows, columns = grid
    planes = is_set.view(-1, steps, rows, columns).float()
    return (F.max_pool2d(planes, 2 * radius + 1, stride=1, padding=radius) > 0).flatten(1)


def forbidden_targets(
    visible: Mapping[Modality, Tensor], joint_cells: Tensor, grid: tuple[int, ...], config: MaskingConfig
) -> dict[Modality, Tensor]:
    """Tokens that exclusivity takes from the target, for the modalities ``video`` and ``skeleton``."""
    forbidden: dict[Modality, Tensor] = {}
    if config.exclusivity in ("both", "video_to_joints"):
        forbidden["skeleton"] = hidden_joints(visible["video"], joint_cells, grid, config.exclusivity_radius)
    if config.exclusivity in ("both", "joints_to_video"):
        forbidden["video"] = hidden_cells(visible["skeleton"], joint_cells, grid, config.exclusivity_radius)
    return forbidden
