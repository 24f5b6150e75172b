"""What a machine can do: GPUs by their data sheets, this one by asking it."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from llama_tasks.errors import RecipeError, did_you_mean
from llama_tasks.supervise.progress import memory_in_use

GIB = 2**30
PROBE_SECONDS = 0.3
#: Part of its peak that a device reaches over a whole training step; for GPUs a usual figure of dense training, for CPUs measured
#: (docs/performance.md: the loop reaches about so much of its own matrix products).
UTILISATION = {"gpu": 0.4, "cpu": 0.7}


@dataclass(frozen=True)
class Device:
    """A processor: bytes of memory, dense matrix FLOP/s in the precision of the training."""

    name: str
    memory: int
    flops: float
    utilisation: float


def _gpu(name: str, gigabytes: int, teraflops: float) -> Device:
    return Device(name, gigabytes * GIB, teraflops * 1e12, UTILISATION["gpu"])


#: NVIDIA's data sheets: memory, dense bfloat16 tensor-core peak with float32 sums (T4: float16; it has no
#: bfloat16). SXM where there are several forms.
GPUS = {
    "t4": _gpu("T4", 16, 65),
    "rtx3090": _gpu("RTX 3090", 24, 71),
    "rtx4090": _gpu("RTX 4090", 24, 165),
    "l4": _gpu("L4", 24, 121),
    "a10": _gpu("A10", 24, 125),
    "a100-40": _gpu("A100 40GB", 40, 312),
    "a100-80": _gpu("A100 80GB", 80, 312),
    "h100": _gpu("H100", 80, 989),
    "h200": _gpu("H200", 141, 989),
    "b200": _gpu("B200", 180, 2250),
}


def find(name: str | None, rows: int, width: int, dtype: torch.dtype) -> Device:
    """The GPU of that name; without one, this machine's own GPU where the table has it, else its CPU, measured by a product
    [rows, width] x [width, width]. Raises RecipeError for a name that the table does not have."""
    if name is not None:
        if name not in GPUS:
            raise RecipeError(f"--gpu {name}: not in the table ({', '.join(GPUS)}).{did_you_mean(name, list(GPUS))}")
        return GPUS[name]
    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        flops = product_rate(rows, width, dtype, "cuda")
        return Device(seen.name, seen.total_memory, flops, UTILISATION["gpu"])
    room = available_memory("cpu") + memory_in_use()  # what this process holds is in what it will need
    return Device("this CPU", room, product_rate(rows, width, dtype, "cpu"), UTILISATION["cpu"])


def product_rate(rows: int, width: int, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of matrix products on this machine: the best of some within a third of a second."""
    left, right = (
        torch.randn(rows, width, dtype=dtype, device=device),
        torch.randn(width, width, dtype=dtype, device=device),
    )
    best, end = float("inf"), time.perf_counter() + PROBE_SECONDS
    left @ right
    while time.perf_counter() < end:
        began = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * rows * width * width / best


def _container_room() -> list[int]:
    """What the limit of a container (cgroup v2) leaves; nothing where there is none. Files it has read can be forgotten."""
    limit, used, parts = (Path("/sys/fs/cgroup", f"memory.{name}") for name in ("max", "current", "stat"))
    if not (limit.exists() and used.exists() and parts.exists() and (allowed := limit.read_text().strip()).isdigit()):
        return []
    stat = dict(line.split() for line in parts.read_text().splitlines())
    files = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return [int(allowed) - int(used.read_text()) + files]


def available_memory(device: str) -> int:
    """Bytes that this process can still take: of the GPU; of the machine (MemAvailable) as far as a container's limit and
    `ulimit -v` allow."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    room = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        room = [int(line.split()[1]) * 1024]
    room += _container_room()
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room.append(space - pages * resource.getpagesize())
    return max(0, min(room))
