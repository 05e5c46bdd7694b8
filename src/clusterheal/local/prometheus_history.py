"""History into a Prometheus TSDB: OpenMetrics text, then `promtool tsdb create-blocks-from openmetrics`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from clusterheal.errors import PermanentError
from clusterheal.local.generator import Series
from clusterheal.local.processes import die_with_parent

# promtool reads the whole file again for every block that it makes, and makes 2 h blocks by default: 84 passes for
# a week. One block of at most 486 h (its next size up) takes one pass.
BLOCK_DURATION = "486h"


def write_openmetrics(series: Iterable[Series], paths: Sequence[Path], *, start: int, end: int) -> int:
    """Write the samples as OpenMetrics text, cut into as many equal spans of `[start, end]` as there are `paths`.

    Returns the number of samples. NaN values are left out: no sample.

    Raises:
        PermanentError: the disk is full or a path cannot be written.
    """
    bounds = np.linspace(start, end + 1, len(paths) + 1)
    count = 0
    files: list[TextIO] = []
    try:
        files = [path.open("w", encoding="utf-8") for path in paths]
        for one in series:
            cuts = np.searchsorted(one.times, bounds)
            for file, low, high in zip(files, cuts, cuts[1:], strict=False):
                count += _write_series(file, one, int(low), int(high))
        for file in files:
            file.write("# EOF\n")
            file.close()
    except OSError as exc:
        raise PermanentError(f"cannot write the metrics' history to {paths[0].parent}: {exc}; free some space") from exc
    finally:
        for file in files:
            _close(file)
    return count


def _close(file: TextIO) -> None:
    try:
        file.close()
    except OSError:  # the write that failed has been reported; the buffered rest cannot be written either
        return


def _write_series(file: TextIO, series: Series, low: int, high: int) -> int:
    values = series.values[low:high]
    present = ~np.isnan(values)
    if not present.any():
        return 0
    labels = ",".join(f'{k}="{escape_label(v)}"' for k, v in series.labels.items())
    prefix = f"{series.name}{{{labels}}} "
    digits = "%.12g" if series.name.endswith("_total") else "%.7g"
    line = prefix.replace("%", "%%") + digits + " %d\n"
    pairs = zip(values[present].tolist(), series.times[low:high][present].tolist(), strict=True)
    file.writelines(map(line.__mod__, pairs))
    return int(present.sum())


def escape_label(value: str) -> str:
    """A label value as the exposition formats want it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def create_blocks(files: Sequence[Path], data: Path) -> None:
    """Turn OpenMetrics files of disjoint spans into TSDB blocks under `data`, side by side, then remove the files.

    Raises:
        PermanentError: promtool is missing or failed; its message is included.
    """
    if shutil.which("promtool") is None:
        raise PermanentError("promtool is not on PATH; install it with: apt-get install prometheus")
    data.mkdir(parents=True, exist_ok=True)
    running = [
        subprocess.Popen(
            ["promtool", "tsdb", "create-blocks-from", f"--max-block-duration={BLOCK_DURATION}", "openmetrics", "-q",
             str(file), str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )
        for file in files
    ]  # fmt: skip
    failures = []
    for process in running:
        output, _ = process.communicate()
        if process.returncode != 0:
            failures.append(output.decode(errors="replace").strip()[-400:])
    for file in files:
        file.unlink(missing_ok=True)
    if failures:
        raise PermanentError(f"promtool could not build the history: {'; '.join(failures)}")


__all__ = ["create_blocks", "escape_label", "write_openmetrics"]
