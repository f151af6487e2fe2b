"""What an installation brings, and what the commands import."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TESTS

from tfvit.options import EXTRAS

LIGHT = {
    "tfvit --help": "from tfvit.cli import main; args = ['--help']",
    "tfvit train --help": "from tfvit.cli import main; args = ['train', '--help']",
    "tfvit pretrain --help": "from tfvit.cli import main; args = ['pretrain', '--help']",
    "tfvit info": "from tfvit.cli import main; args = ['info', {model!r}]",
    "edge-demo --help": "from edge_demo.cli import main; args = ['--help']",
    "the runner's": "import edge_demo.measure.runner, edge_demo.tflite.delegation;"
    " main = lambda *a, **k: None; args = []",
    "import tfvit": "import tfvit; main = lambda *a, **k: None; args = []",
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_nothing_of_tensorflow_is_imported(code, exported):
    code = code.format(model=str(exported / "int8.tflite"))
    code += "\ntry: main(args, standalone_mode=False)\nexcept SystemExit: pass"
    code += "\nimport sys; print(sorted({'tensorflow', 'tf_keras', 'keras'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def requirements(extra):
    """Names of the distributions that `tfvit` or `tfvit[extra]` asks for."""
    names = set()
    for requirement in importlib.metadata.requires("tfvit"):
        needed_by = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if (needed_by[1] if needed_by else None) == extra:
            names.add(re.match(r"[\w.-]+", requirement)[0].lower())
    return names


def test_the_base_install_is_what_a_device_needs():
    assert requirements(None) == {"numpy", "pillow", "click", "ai-edge-litert", "flatbuffers"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_every_module_it_promises(extra):
    brought = set()
    for name in requirements(extra):
        brought |= {file.parts[0] for file in importlib.metadata.distribution(name).files}
    assert set(EXTRAS[extra]) <= brought


@pytest.mark.parametrize("command", ["tfvit", "edge-demo"])
def test_the_commands_are_installed_and_know_their_version(command, process):
    done = process(command, "--version")
    assert done.code == 0
    assert importlib.metadata.version("tfvit") in done.out


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What an installation copies, as `setup.py build` puts it together."""
    base = tmp_path_factory.mktemp("build")
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", base]
    subprocess.run(command, cwd=TESTS.parent, check=True, capture_output=True)
    return base / "lib"


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder) for path in files if "__pycache__" not in path.parts}


@pytest.mark.parametrize("package", ["tfvit", "convert", "edge_demo"])
def test_every_module_and_template_ships(built, package):
    kept, shipped = contents(TESTS.parent / package), contents(built / package)
    assert {p for p in shipped if p.parts[0] != "web"} == {p for p in kept if p.parts[0] != "web"}


def test_the_built_page_ships_and_its_sources_do_not(built):
    web = TESTS.parent / "edge_demo" / "web"
    found = contents(built / "edge_demo" / "web")
    assert found == {Path("dist") / path for path in contents(web / "dist")}
    assert Path("dist/index.html") in found and Path("dist/classifier.d.ts") in found
    sizes = {path: (built / "edge_demo" / "web" / path).stat().st_size for path in found}
    assert max(sizes.values()) < 4e6  # the engines are packed
    assert sum(sizes.values()) < 12e6
