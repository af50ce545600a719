"""The command `onnxplain`: serve the models of a folder."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import uvicorn

from app.main import create_app
from app.settings import Settings


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="onnxplain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="start the service; every setting also as ONNXPLAIN_*")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.add_argument("--models", type=Path)
    arguments = parser.parse_args()
    given = {name: value for name in ("host", "port", "models") if (value := getattr(arguments, name)) is not None}
    settings = Settings(**given)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_level="warning", server_header=False)
