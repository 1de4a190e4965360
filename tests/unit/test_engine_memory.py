"""Memory that a joiner has touched before costs no page faults while the others wait for it."""

import resource

import pytest
import torch

from holdtrue.engine import keep_freed_memory, warm_memory

SIZE_BYTES, PAGE_BYTES = 128 * 2**20, 4096


def faults_of_filling(size_bytes: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.empty(2**23, dtype=torch.uint8).fill_(1) for _ in range(size_bytes // 2**23)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert len(blocks) == size_bytes // 2**23
    return after - before


def test_warm_memory_is_taken_again_without_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("this C library keeps no freed memory")
    warm_memory(SIZE_BYTES)
    assert faults_of_filling(SIZE_BYTES // 2) < SIZE_BYTES // 2 // PAGE_BYTES // 10


def test_nothing_is_warmed_for_a_model_without_parameters() -> None:
    warm_memory(0)
