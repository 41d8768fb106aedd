"""gunicorn's entry: settings in, app out."""

import config
import logs
from api.app import create_app

settings = config.load_or_exit(config.Settings)
logs.configure(settings.log_level, service="api")
app = create_app(settings)
