"""The examples for SLURM and Kubernetes: their form, and the commands that they run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from minit2i_deploy.cli.support.parser import parse

SCRIPTS = ("slurm_array.sh", "slurm_embed.sh")
# Source: man sbatch.
SBATCH = {
    "job-name", "array", "ntasks", "nodes", "ntasks-per-node", "gpus-per-task", "cpus-per-task",
    "time", "requeue",
}  # fmt: skip


@pytest.fixture
def folder(repository: Path) -> Path:
    return repository / "examples" / "cluster"


def commands(text: str) -> list[list[str]]:
    """The minit2i commands of a script, with words in place of its variables."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    plain = [re.sub(r'"\$(\w+)"', r"\1.txt", line) for line in lines if not line.startswith("#")]
    words = [shlex.split(line.removeprefix("srun ")) for line in plain if "minit2i" in line]
    return [each[1:] for each in words]


@pytest.mark.parametrize("name", SCRIPTS)
def test_slurm_scripts(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    subprocess.run(["bash", "-n", str(folder / name)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.MULTILINE)
    assert options and set(options) <= SBATCH
    parsed = [parse(words) for words in commands(text)]
    assert parsed and parsed[0].options.shard == "auto"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_the_indexed_job_names_its_number_of_pods(folder: Path) -> None:
    (job,) = documents(folder / "kubernetes_job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    # Without the mode a pod has no index; retries by index need it as well.
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] <= spec["completions"]
    (container,) = spec["template"]["spec"]["containers"]
    options = parse(container["args"]).options
    assert options.shard == f"auto/{spec['completions']}"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    check_volumes(spec["template"]["spec"])


def test_the_replicas_are_ready_when_they_answer(folder: Path) -> None:
    deployment, service = documents(folder / "kubernetes_serve.yaml")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = parse(container["args"]).options
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert options.drain < spec["terminationGracePeriodSeconds"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    check_volumes(spec)


def check_volumes(spec: dict[str, Any]) -> None:
    names = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= names
