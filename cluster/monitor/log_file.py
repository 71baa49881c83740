"""Sends log records and warnings to a file, so that the terminal has one progress display and nothing else."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def logs_to(file: Path) -> Iterator[None]:
    """While the block runs, log records and warnings of this process go to `file`."""
    handler = logging.FileHandler(file, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, ray_logger = logging.getLogger(), logging.getLogger("ray")
    kept = ray_logger.handlers[:], ray_logger.propagate
    root.addHandler(handler)
    ray_logger.handlers, ray_logger.propagate = [], True
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        ray_logger.handlers, ray_logger.propagate = kept
        handler.close()
