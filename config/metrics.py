"""The setting of metrics that are counted by several processes together."""

from pydantic import DirectoryPath, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class MetricsSettings(BaseSettings):
    """What prometheus-client reads by itself, to which an empty name is one like any other."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    prometheus_multiproc_dir: DirectoryPath | None = None

    @field_validator("prometheus_multiproc_dir", mode="before")
    @classmethod
    def _check_folder(cls, value: object) -> object:
        if value == "":
            raise ValueError("must name a folder, or not be set")
        return value
