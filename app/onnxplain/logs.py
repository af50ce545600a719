"""Log lines: JSON objects for machines, short text for a terminal."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and whatever `extra` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """`INFO onnxplain: message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _ORDINARY)
        text = super().format(record)
        return f"{text} {extra}" if extra else text


def configure(level: str, *, json: bool) -> None:
    """Send all logs to stderr in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter("%(levelname)s %(name)s: %(message)s"))
    # No line says from where, by which thread or process it was written, so none of that is looked up (logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What every request logs is said by the access line, with more in it.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
