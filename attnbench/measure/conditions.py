"""Under which conditions a timing was taken, and which of them spoil it: other work, stolen time, drift, throttling.

Interleaved rounds cancel most of it; what is found is recorded and shown, not corrected. Standard library only.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

OTHERS = 0.10  # of the machine's CPU time, taken by other processes
STOLEN = 0.02  # of the machine's CPU time, taken by other virtual machines
DRIFT = 0.05  # of the reference's time, between the first and the last third of the rounds
FEWEST = 9  # rounds that tell a drift
CLOCK = 0.90  # of the highest clock that the GPU was seen at

_STAT = Path("/proc/stat")
_GPU_FIELDS = ("clocks.sm", "temperature.gpu", "clocks_throttle_reasons.active")
_HARMLESS = 0x1  # nvidia-smi's bit "GPU idle"


@dataclass(frozen=True, slots=True)
class Gpu:
    """The state of one GPU: MHz, degrees Celsius, reasons for a lower clock as bits, and who computes on it."""

    clock: float | None
    temperature: float | None
    throttle: int
    processes: frozenset[int]


class Watch:
    """Looks at the machine when made and when asked; ``gpu`` is what nvidia-smi calls the GPU in use, if any."""

    def __init__(self, gpu: str | None = None) -> None:
        self._gpu_index = gpu
        self._begin = time.monotonic()
        self._cpu = cpu_seconds()
        self._gpu = None if gpu is None else gpu_state(gpu)

    def report(self, own_seconds: float, own_processes: frozenset[int], reference: Sequence[float]) -> dict[str, Any]:
        """Return what was seen, with ``flags``: a sentence for each thing that spoils a timing.

        Args:
            own_seconds: CPU seconds that the measured processes used.
            own_processes: their ids, which may compute on the GPU.
            reference: the reference's times, one per round, in order.
        """
        wall = max(time.monotonic() - self._begin, 1e-9)
        found: dict[str, Any] = {"seconds": round(wall, 1)}
        now = cpu_seconds()
        if now is not None and self._cpu is not None:
            busy, stolen, total = (after - before for after, before in zip(now, self._cpu, strict=True))
            found |= {
                "others_cpu": round(max(busy - own_seconds, 0.0) / max(total, 1e-9), 3),
                "stolen_cpu": round(stolen / max(total, 1e-9), 3),
            }
        found["load"] = round(os.getloadavg()[0], 2)
        moved = drift(reference)
        if moved is not None:
            found["drift"] = round(moved, 4)
        if self._gpu_index is not None:
            found |= _gpu_report(self._gpu, gpu_state(self._gpu_index), own_processes)
        return {**found, "flags": flags(found)}


def flags(found: dict[str, Any]) -> list[str]:
    """Return a sentence for each condition beyond its bound."""
    said = []
    if found.get("others_cpu", 0.0) > OTHERS:
        said.append(f"other processes took {100 * found['others_cpu']:.0f} % of the CPU")
    if found.get("stolen_cpu", 0.0) > STOLEN:
        said.append(f"{100 * found['stolen_cpu']:.0f} % of the CPU time was stolen by other virtual machines")
    if abs(found.get("drift", 0.0)) > DRIFT:
        word = "slower" if found["drift"] > 0 else "faster"
        said.append(f"the reference became {100 * abs(found['drift']):.0f} % {word} during the rounds")
    if found.get("gpu_throttle"):
        said.append(f"the GPU lowered its clock (reasons {found['gpu_throttle']:#x})")
    if found.get("gpu_others"):
        said.append(f"{found['gpu_others']} other process(es) computed on the GPU")
    clocks = found.get("gpu_clock_MHz")
    if clocks and min(clocks) < CLOCK * max(clocks):
        said.append(f"the GPU's clock changed from {clocks[0]:.0f} to {clocks[1]:.0f} MHz")
    return said


def drift(times: Sequence[float]) -> float | None:
    """Return by what share the last third of ``times`` is slower than the first, by medians; None for a few."""
    third = len(times) // 3
    if len(times) < FEWEST:
        return None
    return exp(log(median(times[-third:])) - log(median(times[:third]))) - 1


def cpu_seconds() -> tuple[float, float, float] | None:
    """Return (busy, stolen, all) CPU seconds of the whole machine since its start; None where it does not say."""
    try:
        line = _STAT.read_text(encoding="ascii").partition("\n")[0].split()[1:]
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, waiting, hard, soft, stolen = (int(word) / ticks for word in line[:8])
    except (OSError, ValueError):
        return None
    busy = user + nice + system + hard + soft
    return busy, stolen, busy + stolen + idle + waiting


def gpu_state(index: str) -> Gpu | None:
    """Ask nvidia-smi about one GPU; None where it is not there or does not answer."""
    card = _ask(f"--id={index}", f"--query-gpu={','.join(_GPU_FIELDS)}")
    users = _ask(f"--id={index}", "--query-compute-apps=pid")
    words = [word.strip() for word in card[0].split(",")] if card else []
    if len(words) != len(_GPU_FIELDS):
        return None
    clock, temperature = (_number(word) for word in words[:2])
    throttle = int(words[2], 16) if words[2][:2] == "0x" else 0
    return Gpu(clock, temperature, throttle & ~_HARMLESS, frozenset(int(pid) for pid in users if pid.strip().isdigit()))


def _gpu_report(before: Gpu | None, after: Gpu | None, own: frozenset[int]) -> dict[str, Any]:
    if before is None or after is None:
        return {}
    # Others are those of before, when none of ours computed: in a container ids are of another name space.
    found: dict[str, Any] = {
        "gpu_throttle": before.throttle | after.throttle,
        "gpu_others": len(before.processes - own),
        "gpu_temperature_C": after.temperature,
    }
    if before.clock and after.clock:
        found["gpu_clock_MHz"] = [before.clock, after.clock]
    return found


def _ask(*words: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, *words, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 (fixed words)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
