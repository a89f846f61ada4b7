"""The page of rights knows every command, and its lines grant what it lists."""

import os
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePatternFilter,
    ResourceType,
)

from deploy.rights import COMMANDS, NOTHING, OF_ITS_OWN, filled
from tests.commands import command_names
from tests.rights_page import page
from tests.secured import SecuredBroker


def test_every_command_is_told_of() -> None:
    listed = {command.name.partition(" --")[0] for command in COMMANDS}
    assert listed.isdisjoint(NOTHING)
    assert {*listed, *NOTHING, *OF_ITS_OWN} == set(command_names())


@pytest.mark.timeout(600)
def test_its_lines_grant_what_it_lists(
    secured_broker: SecuredBroker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By Kafka's own tool: those of the worker, with `--every-right` all."""
    text = page().replace("localhost:9092", secured_broker.open)
    own, *blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == len(COMMANDS)
    some = [(each, block) for each, block in zip(COMMANDS, blocks, strict=True) if each.name == "worker"]
    if request.config.getoption("every_right"):
        some = list(zip(COMMANDS, blocks, strict=True))
    tool = tmp_path / "kafka-acls.sh"
    java = f"java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '{os.environ['KAFKA_HOME']}/libs/*'"
    tool.write_text(f'#!/bin/sh\nexec {java} org.apache.kafka.tools.AclCommand "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "admin.properties").write_text("")
    script = "set -e\n" + own + "".join(block for _, block in some)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert granted(secured_broker) == {
        (right.resource, filled(right.name), right.operation, right.prefixed)
        for command, _ in some
        for right in command.rights
    }


def granted(broker: SecuredBroker) -> set[tuple[str, str, str, bool]]:
    """Return what the page's user may do: resource, name, operation, and whether to all names that begin so."""
    any_of = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    wanted = ACLFilter("User:offkey", "*", ACLOperation.ANY, ACLPermissionType.ALLOW, any_of)
    with closing(KafkaAdminClient(bootstrap_servers=broker.open)) as admin:
        rules, _ = admin.describe_acls(wanted)
    return {
        (
            rule.resource_pattern.resource_type.name.lower().replace("_", "-"),
            rule.resource_pattern.resource_name,
            "".join(word.title() for word in rule.operation.name.split("_")),
            rule.resource_pattern.pattern_type is ACLResourcePatternType.PREFIXED,
        )
        for rule in rules
    }
