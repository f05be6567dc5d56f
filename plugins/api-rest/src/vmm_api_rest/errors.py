# SPDX-License-Identifier: Apache-2.0
"""Answers that are no success."""

from __future__ import annotations

from http import HTTPStatus

from vmmcore.errors import GuestError, UserError, VmmError


class ApiError(VmmError):
    """A request that fails with an HTTP status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotServed(ApiError):
    """Cloud Hypervisor's API has it, vmm has not yet."""

    def __init__(self, what: str) -> None:
        super().__init__(HTTPStatus.NOT_IMPLEMENTED, f"{what} is not served yet; it is left to a later plugin")


def status_of(error: BaseException) -> int:
    """The HTTP status that says what kind of error it is."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, UserError):
        taken = "already the id of another device" in error.problem
        return HTTPStatus.CONFLICT if taken else HTTPStatus.BAD_REQUEST
    if isinstance(error, GuestError) and error.refused:
        return HTTPStatus.TOO_MANY_REQUESTS if ": pending: " in str(error) else HTTPStatus.BAD_REQUEST
    return HTTPStatus.INTERNAL_SERVER_ERROR
