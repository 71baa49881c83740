"""What libraries have to say goes to a file: the terminal has one progress display and nothing else."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def noise_to(file: Path) -> Iterator[None]:
    """For the length of the block, of this process: log records and warnings."""
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
