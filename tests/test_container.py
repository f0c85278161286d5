# SPDX-License-Identifier: Apache-2.0
"""The container files agree with the wheel, with each other and with the workflow."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TARGETS = {"cpu", "cuda"}


def test_the_build_sees_everything_that_the_wheel_is_made_of():
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed, "nothing else is sent to the builder"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    files = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    assert {f"!{name}" for name in [*parts, *files]} <= set(allowed)


def test_both_targets_are_built_by_the_workflow_and_started_by_compose():
    assert set(re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.MULTILINE)) == TARGETS
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = " ".join(step.get("run", "") for step in jobs["container"]["steps"])
    assert set(re.findall(r"--target (\w+)", commands)) == TARGETS
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {name: each["build"]["target"] for name, each in services.items()} == {
        name: name for name in TARGETS
    }


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_served_container_has_few_rights_and_a_password(target):
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][target]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"]["FLAVR_PASSWORD"].startswith("${FLAVR_PASSWORD:?")
    assert service["ports"] == ["${FLAVR_ADDRESS:-127.0.0.1:8000}:8000"]
    stage = DOCKERFILE.split(f"FROM base AS {target}")[1].split("\nFROM ")[0]
    assert re.search(r"^USER 1000$", stage, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r"flavr-jax\[([^\]]+)\]", stage)[1].replace("${CUDA}", "cuda12")
    assert set(named.split(",")) <= set(extras["optional-dependencies"])
