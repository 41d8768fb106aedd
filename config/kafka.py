"""Where Kafka is and how it is spoken to, as librdkafka and the broker know it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from config.addresses import split_address
from config.reading import Environment
from config.values import check_host

MAX_BROKERS = 16


def check_brokers(text: str) -> str:
    """Make sure that it names brokers: ``host:port``, with commas between.

    Raises:
        ValueError: it does not.
    """
    addresses = [part.strip() for part in text.split(",")]
    if len(addresses) > MAX_BROKERS:
        raise ValueError(f"must name at most {MAX_BROKERS} brokers")
    for address in addresses:
        try:
            host, _ = split_address(address)
        except ValueError:
            raise ValueError("must be like host:9092, or several of these with commas between") from None
        check_host(host)
    return ",".join(addresses)


def check_file(path: Path) -> Path:
    """Make sure that it is there.

    Raises:
        ValueError: it is not.
    """
    if not path.is_file():
        raise ValueError("names a file that is not there")
    return path


Brokers = Annotated[str, AfterValidator(check_brokers)]


class KafkaAccess(Environment):
    """How clients get into a cluster. The names are those of librdkafka's own settings, after ``KAFKA_``."""

    kafka_brokers: Brokers | None = None
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    # A PEM file of those who may vouch for the brokers. Without it: whom this machine trusts.
    kafka_ssl_ca: Annotated[Path, AfterValidator(check_file)] | None = None
    # "consumer" is KIP-848, for brokers from 4.0 on; "classic" for older ones.
    kafka_group_protocol: Literal["consumer", "classic"] = "consumer"
    # Of a topic that is made. What waits in a topic must be settled before anybody changes how many it has.
    kafka_partitions: int = Field(default=12, ge=1, le=1_000)

    @model_validator(mode="after")
    def _access_is_whole(self) -> Self:
        given = {
            "KAFKA_SASL_MECHANISM": self.kafka_sasl_mechanism,
            "KAFKA_SASL_USERNAME": self.kafka_sasl_username,
            "KAFKA_SASL_PASSWORD": self.kafka_sasl_password,
        }
        logs_in = self.kafka_security_protocol.startswith("SASL_")
        for name, value in given.items():
            if logs_in and value is None:
                raise ValueError(f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs {name}")
            if not logs_in and value is not None:
                raise ValueError(f"{name} needs KAFKA_SECURITY_PROTOCOL=SASL_SSL (or SASL_PLAINTEXT)")
        if self.kafka_ssl_ca is not None and not self.kafka_security_protocol.endswith("SSL"):
            raise ValueError("KAFKA_SSL_CA needs KAFKA_SECURITY_PROTOCOL=SSL (or SASL_SSL)")
        return self
