"""A real Prometheus is let in as the document says, and is not where it shows too little."""

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.connectors.door import Door
from pipeline.endpoint import serve
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.prometheus import DEPLOY, PrometheusProcess
from tests.receiving import until


def test_prometheus_is_let_in(tmp_path: Path) -> None:
    section = (DEPLOY / "security.md").read_text().partition("\n## TLS and a password for metrics\n")[2]
    section = section.partition("\n## ")[0]
    authority = Authority(tmp_path)
    served, own = authority.sign("served", ["offkey"]), authority.sign("own", ["a"])
    password = tmp_path / "password"
    password.write_text("planted-4711\n")
    files = {"ca.crt": authority.certificate, "password": password, "tls.crt": served, "tls.key": served}
    files |= {"own.crt": own, "own.key": own}
    shown = "\n---\n".join(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    here = re.sub(r"/etc/[\w/]+/([\w.]+)", lambda found: str(files[found[1]]), shown)
    offkey, prometheus = yaml.safe_load_all(here)
    settings = MetricsSettings.model_validate(offkey["metrics"])
    assert settings.in_words() == "TLS, for clients with a certificate, for prometheus by password"
    port = serve("127.0.0.1", 0, Health(60.0), door=Door(settings))

    (written,) = prometheus["scrape_configs"]
    job: dict[str, Any] = {key: held for key, held in written.items() if not key.endswith("_sd_configs")}
    uncertified = {key: held for key, held in job["tls_config"].items() if key not in ("cert_file", "key_file")}
    jobs = {
        "offkey-worker": job,
        "offkey-recorder": {key: held for key, held in job.items() if key != "basic_auth"},
        "offkey-scheduler": job | {"tls_config": uncertified},
        "offkey-notify": {},
    }
    with PrometheusProcess(tmp_path, dict.fromkeys(jobs, port), jobs) as running:

        def errors() -> dict[str, str]:
            targets = running.ask("targets")["activeTargets"]
            return {each["labels"]["job"]: each["lastError"] for each in targets if each["health"] != "unknown"}

        until(lambda: len(errors()) == len(jobs))
        assert errors() == {
            "offkey-worker": "",
            "offkey-recorder": "server returned HTTP status 401 Unauthorized",
            "offkey-scheduler": "server returned HTTP status 403 Forbidden",
            "offkey-notify": "server returned HTTP status 400 Bad Request",
        }
        assert running.values('up{job="offkey-worker"}') == [1.0]
