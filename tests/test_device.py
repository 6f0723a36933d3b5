"""Threads of a run: a core is left to every data worker, and the old number comes back."""

import os

import pytest
import torch

from oskar.train.device import cpu_threads


@pytest.mark.parametrize(("n_cores", "before", "n_workers", "expected"), [(4, 4, 1, 3), (4, 2, 1, 2), (2, 2, 5, 1)])
def test_a_core_is_left_to_every_worker(
    n_cores: int, before: int, n_workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: n_cores)
    found_at_start = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        with cpu_threads(n_workers) as n_threads:
            assert n_threads == torch.get_num_threads() == expected
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(found_at_start)
