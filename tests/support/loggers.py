"""Detectron2's loggers, which its commands configure for the whole process."""

import contextlib
import logging

from detectron2.utils.logger import _cached_log_stream, setup_logger


@contextlib.contextmanager
def loggers_kept():
    """Start with loggers as they are before Detectron2 configures them, and restore them after.

    Each run adds handlers of its own, and keeps messages from pytest's handler.
    """
    loggers = [logging.getLogger(name) for name in (None, "detectron2", "fvcore", "d2_seesaw")]
    kept = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers[1:]:
        logger.handlers[:], logger.propagate = [], True
        _set_level(logger, logging.NOTSET)
    setup_logger.cache_clear()
    try:
        yield
    finally:
        for logger, handlers, level, propagate in kept:
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:], logger.propagate = handlers, propagate
            _set_level(logger, level)
        setup_logger.cache_clear()
        _cached_log_stream.cache_clear()


def _set_level(logger, level):
    """Set a level if it differs. Each setting goes through all loggers of the process."""
    if logger.level != level:
        logger.setLevel(level)
