"""A typed client, sync and async: `Client("http://127.0.0.1:8000").explain_picture("shapes", "star.jpg")`.

Answers are frozen dataclasses with NumPy arrays. When the service is busy (429, 503) or not up yet, the client waits as
long as `Retry-After` says and asks again; what cannot be answered raises `ServiceError` with the service's own sentence.
"""

from onnxplain_client.answers import ClassScore, Heatmap, Importance, PictureExplanation, ServiceError, TableExplanation
from onnxplain_client.clients import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "ClassScore",
    "Client",
    "Heatmap",
    "Importance",
    "PictureExplanation",
    "ServiceError",
    "TableExplanation",
]
