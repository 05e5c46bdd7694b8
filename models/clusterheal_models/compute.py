"""Where training runs: on which device, with how many processes, and whether the data fits there.

The processes are those of `torchrun` (DDP): each has a part of every batch, and together they compute what one would.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from clusterheal.errors import InvalidInput

MEMORY_SHARE = 0.4  # of what is free: activations and the optimiser need the rest
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together; alone, `rank` is 0 and `size` 1."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process reports, writes checkpoints and exports."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch that all processes drew alike."""
        return rows[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes, elementwise; every process gets it."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def least(self, value: int) -> int:
        """Smallest value of any process."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MIN)
        return int(shared)

    def any(self, condition: bool) -> bool:
        """Whether it holds in any process: they have to leave a loop together."""
        return not self.least(int(not condition))

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def resolve_device(wanted: str) -> torch.device:
    """`auto` takes CUDA when there is one; under `torchrun` each process takes a GPU of its own.

    Raises:
        InvalidInput: CUDA was asked for and torch sees none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InvalidInput(f"device: expected auto, cpu or cuda, got {wanted!r}")
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise InvalidInput("device cuda was asked for, but torch sees no CUDA device; check the image, or ask for cpu")
    if wanted == "cpu" or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda", dist.get_node_local_rank(fallback_rank=0) % torch.cuda.device_count())


@contextmanager
def join(wanted_device: str) -> Iterator[World]:
    """The processes that `torchrun` started, over NCCL on GPUs and gloo on CPUs; without `torchrun`, this one alone."""
    device = resolve_device(wanted_device)
    if not dist.is_torchelastic_launched():
        yield World(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(device=device, rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def reproducible(device: torch.device, *, threads: int) -> Iterator[None]:
    """Fixed thread count, kernels that give the same sums each time, and the caller's random state untouched."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    on_cuda = device.type == "cuda"
    torch.set_num_threads(threads)
    if on_cuda:  # warn only: a median's value is deterministic, and nothing flows back through it
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng(devices=[device] if on_cuda else []):
            yield
    finally:
        torch.set_num_threads(before)
        if on_cuda:
            torch.use_deterministic_algorithms(strict)


def can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` pays and works: CUDA, Triton, and the C compiler that Triton's launcher needs."""
    compilers = (os.environ.get("CC"), "gcc", "cc", "clang")
    has_compiler = any(shutil.which(c) for c in compilers if c)
    return device.type == "cuda" and find_spec("triton") is not None and has_compiler


def fits(n_bytes: int, device: torch.device) -> bool:
    """Whether data of this size may stay on the device for the whole training."""
    return n_bytes <= MEMORY_SHARE * free_bytes(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had: on a GPU, for numpy, or for a tensor on the CPU (torch has no class for it)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device; on the CPU within the container's limit.

    What caches files counts as free there: the kernel gives it up, and a dataset just written fills all there is.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = 1024 * _field(MEMINFO, "MemAvailable:")
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text()) - _field(CGROUP / "memory.stat", "inactive_file ")
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def _field(file: Path, name: str) -> int:
    """The number after `name` in one of the kernel's files."""
    return int(file.read_text().split(name, 1)[1].split(None, 1)[0])
