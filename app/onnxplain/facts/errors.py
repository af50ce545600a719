"""The domain errors: what can go wrong, in words that tell the caller what to do. Knows no HTTP.

ExplainError
├── ModelError
│   ├── ModelNotFound          no model of that name is registered
│   ├── LayerNotFound          the model has no such layer to explain
│   ├── MethodNotApplicable    the model cannot be explained by this method
│   ├── ModelRefused           a model file that the service will not load
│   ├── ModelConflict          the registry does not allow this change now
│   ├── ModelUnavailable       the model is registered but not ready, or in quarantine
│   └── UnsupportedOperator    an operator of the graph has no gradient rule
├── InputError
│   ├── MalformedInput         the bytes are not what their media type says
│   ├── UnsupportedMediaType   a media type that is not read here
│   ├── NotAcceptable          no answer of the wanted media type exists
│   ├── InputTooLarge          more bytes, pixels or cells than the limit
│   ├── BadParameter           a parameter is unknown or out of range
│   ├── BadPicture             a picture that cannot be explained rightly
│   ├── BadTable               a table that the model cannot take
│   ├── InputRefusedByModel    the model's runtime failed on these values
│   └── TooExpensive           the work costs more than one request may
├── AccessError
│   ├── KeyMissing             no API key was sent
│   ├── KeyRefused             the API key does not allow this
│   ├── UploadsOff             this service does not let models be changed
│   └── HostRefused            the request names a host that is not this service
└── EngineError
    ├── Busy                   no worker is free and the queue is full
    ├── DeadlineExceeded       the answer was not ready in time
    ├── Cancelled              the caller left, or the service is stopping
    ├── InputCrashedRuntime    this input made the native runtime crash
    └── WorkerLost             a worker process died for a reason of its own
"""

from __future__ import annotations


class ExplainError(Exception):
    """Base of every domain error. `str(error)` is a sentence with the remedy, safe to show to a caller."""

    code = "error"
    title = "The request failed"


class ModelError(ExplainError):
    """Something about the model."""


class ModelNotFound(ModelError):
    """No model of that name is registered."""

    code = "model_not_found"
    title = "Unknown model"


class LayerNotFound(ModelError):
    """The model has no such layer to explain."""

    code = "layer_not_found"
    title = "Unknown layer"


class MethodNotApplicable(ModelError):
    """The model cannot be explained by this method."""

    code = "method_not_applicable"
    title = "This method does not fit the model"


class ModelRefused(ModelError):
    """A model file that the service will not load."""

    code = "model_refused"
    title = "The model was refused"


class ModelConflict(ModelError):
    """The registry does not allow this change now."""

    code = "model_conflict"
    title = "The registry does not allow this"


class ModelUnavailable(ModelError):
    """The model is registered but not ready, or in quarantine after crashes."""

    code = "model_unavailable"
    title = "The model is not ready"


class UnsupportedOperator(ModelError):
    """An operator on the way from the score to the explained tensor has no gradient rule.

    Attributes:
        operator: qualified operator type, such as `NonMaxSuppression`.
        node: the node's name, or its first output where it has none.
    """

    code = "unsupported_operator"
    title = "No gradient rule"

    def __init__(self, message: str, operator: str = "", node: str = "") -> None:
        super().__init__(message)
        self.operator = operator
        self.node = node


class InputError(ExplainError):
    """Something about what the caller sent."""


class MalformedInput(InputError):
    """The bytes are not what their media type says."""

    code = "malformed_input"
    title = "The body cannot be read"


class UnsupportedMediaType(InputError):
    """A media type that is not read here."""

    code = "unsupported_media_type"
    title = "This media type is not read here"


class NotAcceptable(InputError):
    """No answer of the wanted media type exists."""

    code = "not_acceptable"
    title = "No answer of this media type"


class InputTooLarge(InputError):
    """More bytes, pixels or cells than the limit."""

    code = "input_too_large"
    title = "The input is too large"


class BadParameter(InputError):
    """A parameter is unknown or out of range."""

    code = "bad_parameter"
    title = "A parameter is wrong"


class BadPicture(InputError):
    """A picture that cannot be explained rightly."""

    code = "bad_picture"
    title = "The picture cannot be used"


class BadTable(InputError):
    """A table that the model cannot take."""

    code = "bad_table"
    title = "The table cannot be used"


class InputRefusedByModel(InputError):
    """The model's runtime failed on these values."""

    code = "input_refused_by_model"
    title = "The model cannot run on this input"


class TooExpensive(InputError):
    """The work costs more than one request may."""

    code = "too_expensive"
    title = "The work is above the price limit"


class AccessError(ExplainError):
    """Something about the API key."""


class KeyMissing(AccessError):
    """No API key was sent."""

    code = "key_missing"
    title = "An API key is needed"


class KeyRefused(AccessError):
    """The API key does not allow this."""

    code = "key_refused"
    title = "The API key does not allow this"


class UploadsOff(AccessError):
    """This service does not let models be changed over HTTP."""

    code = "uploads_off"
    title = "Models cannot be changed here"


class HostRefused(AccessError):
    """The request names a host that is not this service."""

    code = "host_refused"
    title = "This host is not served here"


class EngineError(ExplainError):
    """Something about the running of the work."""


class Busy(EngineError):
    """No worker is free and the queue is full.

    Attributes:
        retry_after: whole seconds after which to try again.
    """

    code = "busy"
    title = "The service is busy"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(EngineError):
    """The answer was not ready in time."""

    code = "deadline_exceeded"
    title = "The deadline passed"


class Cancelled(EngineError):
    """The caller left, or the service is stopping."""

    code = "cancelled"
    title = "The work was cancelled"


class InputCrashedRuntime(EngineError):
    """This input made the native runtime crash; the worker was replaced and nothing else was lost."""

    code = "input_crashed_runtime"
    title = "The model's runtime crashed on this input"


class WorkerLost(EngineError):
    """A worker process died for a reason of its own, such as a lack of memory."""

    code = "worker_lost"
    title = "The worker was lost"
