"""The server of metrics and probes, as the commands that run until they are stopped begin it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.health import Health
    from pipeline.metrics_settings import MetricsSettings


def open_endpoint(settings: "MetricsSettings", port: int, health: "Health", key: str = "metrics.port") -> str:
    """Serve metrics and probes on a port of `metrics.host`; return the address of the metrics.

    Raises:
        ConfigError: the address cannot be bound, or a file of the settings holds something else than it should.
    """
    from pipeline.connectors.door import Door
    from pipeline.endpoint import serve

    served = serve(settings.host, port, health, key, Door(settings))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'http' if settings.certificate_file is None else 'https'}://{host}:{served}/metrics"
