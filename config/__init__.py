"""Everything that can be set, read once from the environment and frozen.

Nothing else in the project reads the environment. A wrong value stops the start with one line that names
the setting (:func:`load`), instead of surfacing hours later in the middle of a payment.
"""

from config.libpq import withhold_variables
from config.metrics import MetricsSettings
from config.reading import ConfigurationError, complain, load, load_or_exit
from config.service import LogLevel, PrepareSettings, Settings
from config.stack import STACK_STATE, BrokersSettings, StackSettings, find_local_grpc, load_for_command_or_exit
from config.values import Rate, is_loopback

__all__ = [
    "NOT_HEEDED",
    "STACK_STATE",
    "BrokersSettings",
    "ConfigurationError",
    "LogLevel",
    "MetricsSettings",
    "PrepareSettings",
    "Rate",
    "Settings",
    "StackSettings",
    "complain",
    "find_local_grpc",
    "is_loopback",
    "load",
    "load_for_command_or_exit",
    "load_or_exit",
]

# Here, since every process of ours comes by, and before it connects to anything.
NOT_HEEDED = withhold_variables()
