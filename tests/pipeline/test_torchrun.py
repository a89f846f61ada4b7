"""`offkey train --nproc N`: several processes train, and one that ends badly ends all."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.connectors.registry import StoredRegistry
from pipeline.errors import ConfigError
from pipeline.torchrun import check_count
from tests.commands import Running, configured, offkey, only_line, wait_for
from tests.pipeline.lasting import lasting_training


def ranks_of(running: Running) -> dict[str, psutil.Process]:
    """Return the processes of a training, by rank."""
    found = {}
    for process in psutil.Process(running.process.pid).children(recursive=True):
        if (rank := process.environ().get("RANK")) is not None:
            found[rank] = process
    return found


def test_a_process_that_is_killed_ends_all_and_the_same_command_goes_on(
    tmp_path: Path, embedded_broker: str, unique: Callable[[str], str]
) -> None:
    path, storage = lasting_training(tmp_path, embedded_broker, unique, 7)
    with Running(path, "warning", "train", "--nproc", "2") as first:
        wait_for(lambda: bool(storage.list("models/machines")), first)
        ranks = ranks_of(first)
        assert set(ranks) == {"0", "1"}
        # None of them listens to more than this machine.
        all_of_them = (*ranks.values(), psutil.Process(first.process.pid))
        open_ports = [each for one in all_of_them for each in one.net_connections() if each.status == "LISTEN"]
        assert all(each.laddr.ip in ("127.0.0.1", "::1") for each in open_ports)
        ranks["1"].kill()
        said = first.process.communicate(timeout=30)[1]
        assert only_line(said) == (
            "process 1 of the training was ended by SIGKILL, and the others with it; the same command goes on where"
            " the training was"
        )
        assert first.process.returncode == 128 + signal.SIGKILL
        assert not any(one.is_running() for one in ranks.values())
    assert storage.list("models/machines") == ["models/machines/unfinished/view0"]
    second = offkey("train", str(path), "--nproc", "2", "--json")
    assert second.returncode == 0, second.stderr
    assert "machines: goes on with the training that was interrupted, after " in second.stderr
    told = json.loads(second.stdout)
    champion = StoredRegistry(storage).champion("machines")
    assert champion is not None
    assert champion.version == told["version"]
    assert not storage.list("models/machines/unfinished")


def test_the_first_process_says_what_is_wrong_once(tmp_path: Path) -> None:
    done = offkey("train", str(configured(tmp_path)), "--nproc", "2")
    assert only_line(done.stderr).startswith("Kafka at 127.0.0.1:1")
    assert done.returncode == 1


def test_each_process_takes_a_gpu() -> None:
    there = torch.cuda.device_count()
    said = f"--nproc {there + 1}: each process takes a GPU, and torch finds {there}"
    with pytest.raises(ConfigError, match=said):
        check_count(there + 1, torch.device("cuda"))
    check_count(8, torch.device("cpu"))
