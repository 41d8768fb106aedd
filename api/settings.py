"""The settings that the running application was made with."""

from typing import cast

from flask import Flask, current_app

from config import Settings

_EXTENSION = "wallet-settings"


def install(app: Flask, settings: Settings) -> None:
    """Let everything in the application find them."""
    app.extensions[_EXTENSION] = settings


def current_settings() -> Settings:
    """Return the running application's."""
    return settings_of(current_app)


def settings_of(app: Flask) -> Settings:
    """Return an application's."""
    return cast("Settings", app.extensions[_EXTENSION])
