# SPDX-License-Identifier: Apache-2.0
"""Measure training windows per second from each source: ``flavr benchmark-data``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from flavr_jax.data import array_record, mixture, pipeline, sources
from flavr_jax.data.sequences import ArrayClip, Clip, regular
from flavr_jax.profiling import data_throughput


@dataclasses.dataclass(frozen=True)
class Options:
    """Count windows per second: drawn on the device, cut from clips in its memory, read from disk.

    Without --source, septuplets of 448×256 with camera-like noise are drawn and packed into a
    temporary folder, once for each encoding.
    """

    source: tuple[Path, ...] = ()
    """Folders of a data set to read instead of drawn septuplets, packed or in its own layout."""
    dataset: str = "vimeo90k-train"
    """Name of the data set; for packed folders any known name will do."""
    crop: int = 224
    """Side of a window in pixels."""
    batch: int = 24
    """Windows per batch."""
    encodings: tuple[array_record.Encoding, ...] = ("png", "jpeg", "raw")
    """Encodings in which drawn clips are packed."""
    clips: int = 48
    """Number of clips to draw; at least one batch is drawn."""
    synthetic: bool = True
    """Also measure synthetic clips, and clips in the device's memory, which takes minutes on a CPU;
    --no-synthetic leaves both out."""
    threads: int = 8
    """Reading threads in each process of the loader."""
    workers: tuple[int, ...] = (0, max(1, (os.cpu_count() or 2) // 2))
    """Numbers of loader processes to measure; 0 reads in this process."""
    seconds: float = 10.0
    """Length of each measurement, which begins when the batches that the loader has prepared are
    used up."""
    json: Path | None = None
    """Append the measurements to this file, one line per source."""


def main(options: Options) -> None:
    """Print a line for each source as soon as it is measured, then a table."""
    where = f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, jax {jax.__version__}"
    print(f"{options.crop}×{options.crop}; {where}", flush=True)
    table = Table("source", "windows/s", "ms", title=f"{options.crop}×{options.crop}; {where}")
    for name, draw, in_store in _sources(options):
        batches = data_throughput.batches_per_second(draw, options.seconds, warm_up=2 + in_store)
        rate = options.batch * batches
        table.add_row(name, f"{rate:.1f}", f"{1e3 / batches:.1f}")
        print(f"{name}: {rate:.1f} windows/s", flush=True)
        if options.json is not None:
            figures = {"source": name, "windows_per_second": rate, "crop": options.crop}
            with options.json.open("a") as file:
                file.write(json.dumps({**figures, "where": where}) + "\n")
    Console().print(table)


def _sources(options: Options) -> Iterator[tuple[str, Callable[[], mixture.Batch], int]]:
    """Yield the name of each source, a function that makes a batch, and its stored batches.

    Their number is an upper bound; that many are drawn before the measurement begins.
    """
    mixed = mixture.MixtureConfig(crop=options.crop, batch_size=options.batch)
    numbers = itertools.count()

    def key() -> Any:
        return jax.random.key(next(numbers))

    for share, name in ((0.0, "synthetic"), (1.0, "rendered")) if options.synthetic else ():
        drawn = dataclasses.replace(mixed, rendered_share=share)
        for outputs in (1, 7):
            draw = jax.jit(lambda key, n=outputs, drawn=drawn: mixture.draw(key, n, drawn, None))
            yield f"{name}, {4 + outputs} frames", lambda draw=draw: draw(key()), 0
    septuplets: list[ArrayClip] = []
    if options.synthetic or not options.source:
        septuplets = data_throughput.septuplets(max(options.clips, options.batch))
    if septuplets:
        real = dataclasses.replace(mixed, synthetic_share=0.0)
        cut = jax.jit(lambda key, bank: mixture.draw(key, 1, real, bank))
        bank = data_throughput.bank(septuplets)
        yield "clips held on the device, 5 frames", lambda: cut(key(), bank), 0
    augment = jax.jit(lambda key, windows: mixture.from_windows(key, windows, mixed))
    for name, found in _on_disk(options, septuplets):
        for workers in options.workers:
            reading = pipeline.LoaderConfig(
                options.crop, options.batch, threads=options.threads, workers=workers
            )
            loader = pipeline.Loader(found, 1, reading)
            title = f"{name}, {workers or 'no'} worker processes, 5 frames"
            in_store = pipeline.BUFFERED_BATCHES * (1 + workers)
            yield title, lambda loader=loader: augment(key(), next(loader)), in_store


def _on_disk(options: Options, septuplets: list[ArrayClip]) -> Iterator[tuple[str, list[Clip]]]:
    """Yield the clips of each folder, or the drawn clips in each encoding."""
    for source in options.source:
        read = sources.data_set(options.dataset).read(source)
        yield str(source), [each.clip for each in read]
    if options.source:
        return
    with tempfile.TemporaryDirectory() as folder:
        for encoding in options.encodings:
            packed = Path(folder) / encoding
            array_record.pack([regular(clip, 2) for clip in septuplets], packed, encoding=encoding)
            yield f"packed as {encoding}", [each.clip for each in array_record.read(packed)]
