"""The server of metrics and probes, as the commands that run until they are stopped begin it."""

from typing import TYPE_CHECKING, Literal

from pipeline.cli_who_when import now_ms

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.health import Health

_Section = Literal["metrics", "recorder", "scheduler", "notify"]


def open_endpoint(settings: "Settings", section: _Section, health: "Health") -> str:
    """Serve metrics and probes on `metrics.host`, and the port of a section; return the address of the metrics.

    From then on the certificates that this process shows are watched, on that port and to Kafka.

    Raises:
        ConfigError: the address cannot be bound, or a file of the settings holds something else than it should.
    """
    from pipeline.connectors.door import Door
    from pipeline.connectors.expiry import Expiry
    from pipeline.connectors.security import KEYS
    from pipeline.endpoint import serve

    metrics, port, expiry = settings.metrics, getattr(settings, section).port, Expiry()
    served = serve(metrics.host, port, health, Door(metrics, expiry), f"{section}.port")
    if settings.kafka.security.certificate_file is not None:
        expiry.note(KEYS, settings.kafka.security.certificate_file)
    expiry.begin(lambda: now_ms() / 1000)
    host = f"[{metrics.host}]" if ":" in metrics.host else metrics.host
    return f"{'http' if metrics.certificate_file is None else 'https'}://{host}:{served}/metrics"
