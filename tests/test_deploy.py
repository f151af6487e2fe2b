"""What docs/deploy holds: the unit, the Dockerfile, and the wheels that a Raspberry Pi needs."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import BIN, TESTS

from edge_demo.cli import main

ROOT = TESTS.parent
DEPLOY = ROOT / "docs/deploy"
# Of Debian 12 and 13, which Raspberry Pi OS is made of: glibc 2.36 and 2.41.
PLATFORMS = [f"manylinux{suffix}_aarch64" for suffix in ("2014", "_2_17", "_2_27", "_2_28")]


def parsed(arguments):
    """What `edge-demo` would do with these arguments; UsageError if it has no such option."""
    with main.make_context("edge-demo", list(arguments)) as context:
        name, command, rest = main.resolve_command(context, context._protected_args + context.args)
        with command.make_context(name, rest, parent=context) as inner:
            return inner.params


def directive(name):
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.split(" ")[0] == name]
    return [line.partition(" ")[2].strip() for line in lines]


def test_the_unit_runs_a_command_that_there_is():
    unit = (DEPLOY / "edge-demo.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, *arguments = shlex.split(line.removeprefix("ExecStart="))
    assert Path(program).name == "edge-demo"
    found = parsed(arguments)
    assert found["source"] == "/dev/video0" and found["serve"]
    assert str(found["keep"]).startswith("/var/lib/edge-demo/")
    assert "StateDirectory=edge-demo" in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path):
    unit = (DEPLOY / "edge-demo.service").read_text().replace("/opt/tfvit/bin", str(BIN))
    (tmp_path / "edge-demo.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "edge-demo.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if "edge-demo.service" in line]
    assert mine == []


def test_the_image_has_all_that_the_package_is_made_of_and_no_tensorflow():
    copied = {word for line in directive("COPY") for word in line.split()[:-1]}
    packages = {"tfvit", "convert", "edge_demo"}
    assert packages | {"setup.py", "README.md", "constraints.txt"} <= copied
    (install,) = [line for line in directive("RUN") if "pip install" in line]
    assert "'/src[camera]'" in install and "tensorflow" not in install
    found = parsed(json.loads(directive("CMD")[0]))
    assert found["serve"] and "0.0.0.0" in str(found["serve"])
    assert json.loads(directive("ENTRYPOINT")[0]) == ["edge-demo"]


@pytest.mark.long  # asks PyPI
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_a_raspberry_pi_finds_a_wheel_of_everything(python, tmp_path):
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    needed = ["numpy", "pillow", "click", "ai-edge-litert", "av"]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
            *("--only-binary=:all:", "--target", tmp_path, "--python-version", python),
            *("--report", tmp_path / "report.json", "-c", ROOT / "constraints.txt"),
            *platforms,
            *needed,
        ],
        check=True,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    wheels = [item["download_info"]["url"].rsplit("/")[-1] for item in report["install"]]
    assert len(wheels) == 11
    assert all(w.endswith(("aarch64.whl", "none-any.whl")) for w in wheels)
