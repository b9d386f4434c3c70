"""Samples of what the machine does: CPU, memory, disk, network, and GPUs where nvidia-smi is.

Figures have the names that MLflow gives its own, so that its pages show them as such.
"""

import shutil
import subprocess
import time
from typing import Any

import psutil

SMI_FIELDS = "index,utilization.gpu,memory.used,memory.total,power.draw"
SMI_SECONDS = 5.0
MIB = 2**20 / 1e6


class Machine:
    """Counts disk and network from its making on; CPU from one sample to the next."""

    def __init__(self, folder: str) -> None:
        self.folder = folder  # whose disk is told
        self.smi = shutil.which("nvidia-smi")
        self.network, self.disk = psutil.net_io_counters(), psutil.disk_io_counters()
        self.own = psutil.Process()
        psutil.cpu_percent()  # the first answer is about nothing

    def sample(self) -> dict[str, float]:
        """What the machine does now, and has done since the last time."""
        figures = {**self._machine(), **self._traffic(), **gpus(self.smi)}
        return {f"system/{name}": round(value, 1) for name, value in figures.items()}

    def _machine(self) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(self.folder)
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "own_memory_megabytes": self.own.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
        }

    def _traffic(self) -> dict[str, float]:
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        told = {
            "network_receive_megabytes": _since(self.network, network, "bytes_recv"),
            "network_transmit_megabytes": _since(self.network, network, "bytes_sent"),
        }
        if disk is not None and self.disk is not None:  # some containers count none
            told["disk_read_megabytes"] = _since(self.disk, disk, "read_bytes")
            told["disk_write_megabytes"] = _since(self.disk, disk, "write_bytes")
        return told


def _since(before: Any, now: Any, name: str) -> float:
    return (getattr(now, name, 0) - getattr(before, name, 0)) / 1e6


def gpus(smi: str | None) -> dict[str, float]:
    """Use, memory and power of each GPU, by the tool that comes with its driver."""
    if smi is None:
        return {}
    words = [smi, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            words, capture_output=True, check=True, text=True, timeout=SMI_SECONDS
        )
    except (OSError, subprocess.SubprocessError):  # a driver that is out of order
        return {}
    return read_smi(told.stdout)


def read_smi(text: str) -> dict[str, float]:
    """Read the table of nvidia-smi; what a card does not tell is left out."""
    figures: dict[str, float] = {}
    for line in text.splitlines():
        index, *cells = (cell.strip() for cell in line.split(","))
        values = [_number(cell) for cell in cells]
        if len(values) != 4:
            continue
        use, used, total, power = values
        share = 100 * used / total if used is not None and total else None
        told = {
            "utilization_percentage": use,
            "memory_usage_megabytes": None if used is None else used * MIB,
            "memory_usage_percentage": share,
            "power_usage_watts": power,
        }
        figures |= {f"gpu_{index}_{name}": v for name, v in told.items() if v is not None}
    return figures


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # such as [N/A]
        return None


def row(machine: Machine, number: int) -> dict[str, Any]:
    """A sample as a row of metrics."""
    return {"step": number, "time": time.time(), **machine.sample()}
