"""The services of the Flask application that runs."""

from typing import cast

from flask import Flask, current_app

from api.services import Services

_EXTENSION = "wallet"


def install(app: Flask, made: Services) -> None:
    """Hand an application its services."""
    app.extensions[_EXTENSION] = made


def services() -> Services:
    """Return the running application's."""
    return services_of(current_app)


def services_of(app: Flask) -> Services:
    """Return an application's."""
    return cast("Services", app.extensions[_EXTENSION])
