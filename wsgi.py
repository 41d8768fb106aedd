"""The entry of gunicorn and of ``flask``: settings in, app out."""

import sys

import config
from api.app import create_app
from api.commands import entry
from observe import logs

if entry.are_called():
    settings = config.load_for_command_or_exit(only_help=entry.only_help_is_wanted(sys.argv))
    # What a command prints is its answer, for the next program in the pipe.
    logs.configure(settings.log_level, service="command", stream=sys.stderr)
else:
    settings = config.load_or_exit(config.Settings)
    logs.configure(settings.log_level, service="api")
app = create_app(settings)
