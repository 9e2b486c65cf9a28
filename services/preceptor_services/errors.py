"""What keeps a service from starting. What goes wrong in a request is a `preceptor.errors.PreceptorError`."""

from __future__ import annotations


class ServiceError(Exception):
    """A service cannot start or go on. Its text is one sentence for whoever runs it."""


class BadSetting(ServiceError):
    """A setting (`PRECEPTOR_*`) is missing or cannot be used."""
