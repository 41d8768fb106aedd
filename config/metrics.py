"""The setting of metrics that are counted by several processes together."""

from pydantic import DirectoryPath, field_validator
from pydantic_settings import SettingsConfigDict

from config.reading import Environment


class MetricsSettings(Environment):
    """What prometheus-client reads by itself, to which an empty name is one like any other."""

    model_config = SettingsConfigDict(env_ignore_empty=False)

    prometheus_multiproc_dir: DirectoryPath | None = None

    @field_validator("prometheus_multiproc_dir", mode="before")
    @classmethod
    def _check_folder(cls, value: object) -> object:
        if value == "":
            raise ValueError("must name a folder, or not be set")
        return value
