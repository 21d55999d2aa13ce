"""What can go wrong, classed by what happens next.

VisionmeshError
├── Reject              the input is at fault: error result, DEAD, the event is done
├── Expired             the deadline passed: expired result, DEAD, the event is done
├── Retry               not now: deliver it again after a delay
│   └── Miss            the arena no longer holds the pixels: compute the image again
├── Fatal               this worker is unfit: stop it, the supervisor starts another
├── Refused             the mesh did not accept a call: nothing was stored
└── ConfigurationError  settings, a model folder or a server are not as they must be
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum


class Code(StrEnum):
    """The stable codes that results, refusals and metrics carry."""

    EMPTY_BODY = "empty_body"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    BROKEN_IMAGE = "broken_image"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_EMPTY = "image_empty"
    INVALID_NAME = "invalid_name"
    INVALID_ID = "invalid_id"
    INVALID_EVENT = "invalid_event"
    INVALID_DEADLINE = "invalid_deadline"
    INVALID_PARAMS = "invalid_params"
    DEADLINE_PASSED = "deadline_passed"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_EXISTS = "model_exists"
    UNKNOWN_VERSION = "unknown_version"
    VERSION_EXISTS = "version_exists"
    INVALID_TRAFFIC = "invalid_traffic"
    MODEL_NOT_READY = "model_not_ready"
    MODEL_INVALID = "model_invalid"
    MODEL_FAILED = "model_failed"
    MODEL_UNSAFE = "model_unsafe"
    IMAGES_MISSING = "images_missing"
    AGREEMENT_LOST = "agreement_lost"
    VERIFICATION_FAILED = "verification_failed"
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_MEDIA = "unsupported_media"
    URL_REFUSED = "url_refused"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    REQUEST_TIMEOUT = "request_timeout"
    MESH_FULL = "mesh_full"
    MESH_UNREACHABLE = "mesh_unreachable"
    MESH_INCOMPATIBLE = "mesh_incompatible"
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    SETTINGS_INVALID = "settings_invalid"
    DEVICE_MISSING = "device_missing"
    INTERNAL = "internal"


class VisionmeshError(Exception):
    """The root of all errors of visionmesh: a stable code and a sentence that says what to do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message


class Reject(VisionmeshError):
    """The input is at fault and will be at fault again."""


class Expired(VisionmeshError):
    """The deadline of the event has passed; the work was dropped."""

    def __init__(self, message: str = "The deadline passed before the image was done.") -> None:
        super().__init__(Code.DEADLINE_PASSED, message)


class Retry(VisionmeshError):
    """The work could not be done now; it is to be delivered again after ``delay``."""

    def __init__(
        self, message: str, *, delay: timedelta = timedelta(0), code: Code = Code.INTERNAL
    ) -> None:
        super().__init__(code, message)
        self.delay = delay


class Miss(Retry):
    """The reference is stale: its slot was reused or its writer is gone."""


class Fatal(VisionmeshError):
    """This worker cannot go on; whoever supervises it starts another."""


class Refused(VisionmeshError):
    """The mesh did not accept the call; nothing was stored, and the caller may act on ``code``.

    ``wait`` says after how long it may accept it, where it knows.
    """

    def __init__(self, code: Code, message: str, *, wait: timedelta | None = None) -> None:
        super().__init__(code, message)
        self.wait = wait


class ConfigurationError(VisionmeshError):
    """Settings, a model folder or a server are not as they must be."""


OWN_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError),
)
"""What a user's own code raises when something is wrong with it, or with how it is called."""
