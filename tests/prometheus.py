"""A real Prometheus on loopback, with offkey's rules."""

import json
import math
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from pipeline.connectors.embedded import free_port
from tests.programs import program
from tests.receiving import until_ready

DEPLOY = Path(__file__).parent.parent / "deploy"


class PrometheusProcess:
    """Scrapes as `deploy/prometheus/prometheus.yml` says, from other addresses and every half second."""

    def __init__(
        self, folder: Path, ports: Mapping[str, int], more: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """`ports`: of each of the configuration's jobs that is there, by name; `more`: what else a job says."""
        prometheus = program("prometheus", "apt-get install prometheus")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        written = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        written["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        written["rule_files"] = [str(DEPLOY / "prometheus" / "offkey.rules.yml")]
        del written["alerting"]
        written["scrape_configs"] = [
            {
                **(more or {}).get(job["job_name"], {}),
                "job_name": job["job_name"],
                "static_configs": [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}],
            }
            for job in written["scrape_configs"]
            if job["job_name"] in ports
        ]
        assert len(written["scrape_configs"]) == len(ports)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(written))
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        until_ready(self._process, self.url, folder / "prometheus.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
        self._log.close()

    def ask(self, path: str, **asked: Any) -> Any:
        """Return the data of an answer of its API."""
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}", timeout=10
        ) as answer:
            return json.loads(answer.read())["data"]

    def values(self, expression: str) -> list[float]:
        """Return the numbers that an expression has now, those that are none left out."""
        try:
            found = self.ask("query", query=expression)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        if found["resultType"] == "scalar":
            return [float(found["result"][1])]
        numbers = [float(each["value"][1]) for each in found["result"]]
        return [number for number in numbers if not math.isnan(number)]
