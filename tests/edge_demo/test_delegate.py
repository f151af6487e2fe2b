"""Delegates: a real one, made with the C compiler from delegate.c, and what is none."""

import json
import shutil
import subprocess
from pathlib import Path

import ai_edge_litert
import pytest
from test_edge_cli import check_one_line

from edge_demo import Classifier, Delegate, UserError

compiler = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(not compiler, reason="needs a C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("delegate") / "libanswer.so"
    source = Path(__file__).with_name("delegate.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    return path


@pytest.fixture()
def picture(digits, tmp_path):
    path = tmp_path / "digit.png"
    digits[0][0].save(path)
    return path


def answer(done) -> tuple[str, float]:
    assert done.code == 0, done.err
    found = json.loads(done.out)
    return found["label"], found["score"]


@needs_compiler
@pytest.mark.parametrize("label", "037")
def test_a_delegate_runs_the_model_and_its_options_arrive(edge_cli, int8, picture, library, label):
    options = ("--delegate", library, "--delegate-option", f"answer={label}")
    done = edge_cli(int8, "--source", picture, "--json", *options, "--delegate-option", "take=1")
    assert done.err == ""
    assert answer(done) == (label, pytest.approx(0.9988, abs=1e-3))  # e^9 / (e^9 + 9)


@needs_compiler
def test_a_library_in_the_folder_is_found_by_its_name(
    edge_cli, int8, picture, library, monkeypatch
):
    monkeypatch.chdir(library.parent)
    options = ("--delegate", library.name, "--delegate-option", "answer=5", "--strict-delegate")
    assert answer(edge_cli(int8, "--source", picture, "--json", *options))[0] == "5"


def no_delegates(library, tmp_path) -> dict:
    """What cannot run a model, and words of the reason."""
    text = tmp_path / "libtext.so"
    text.write_text("these are no instructions\n" * 9)
    litert = next(Path(ai_edge_litert.__file__).parent.glob("libLiteRt.*"))
    return {
        "missing": (("libnowhere.so",), "libnowhere.so: cannot open"),
        "a text": ((text,), "libtext.so: "),
        "a library of another kind": ((litert,), "no delegate"),
        "no chip": ((library, "refuse=1"), "there is no such chip"),
        "refuses the model": ((library, "refuse=2"), "too large for the chip"),
        "fails when it runs": ((library, "refuse=3"), "too hot"),
        "takes nothing": ((library, "take=0"), "takes none"),
    }


@needs_compiler
def test_where_a_delegate_cannot_the_cpu_runs_the_model(
    process, edge_cli, int8, picture, library, tmp_path
):
    alone = answer(edge_cli(int8, "--source", picture, "--json"))
    for name, (how, words) in no_delegates(library, tmp_path).items():
        options = [item for each in how[1:] for item in ("--delegate-option", each)]
        command = (int8, "--source", picture, "--json", "--delegate", how[0], *options)
        done = process("edge-demo", *command)
        assert answer(done) == alone, name
        assert len(done.err.splitlines()) == 1, done.err
        assert done.err.startswith(f"delegate {how[0]}: ")
        assert done.err.endswith("; running on the CPU\n")
        assert words in done.err
        check_one_line(edge_cli(*command, "--strict-delegate"), f"delegate {how[0]}: ", words[-9:])


def test_the_python_interface_warns_or_raises(int8, digits):
    with pytest.warns(UserWarning, match=r"delegate libnowhere\.so: .*; running on the CPU"):
        classifier = Classifier(int8, delegate=Delegate("libnowhere.so"))
    assert classifier.classify(digits[0][0]) == Classifier(int8).classify(digits[0][0])
    with pytest.raises(UserError, match=r"delegate libnowhere\.so"):
        Classifier(int8, delegate=Delegate("libnowhere.so", strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--delegate-option", "a=b"), "--delegate"),
        (("--strict-delegate",), "--delegate"),
        (("--delegate", "lib.so", "--delegate-option", "fast"), "'fast' is not like name=value"),
        (("--delegate", "lib.so", "--delegate-option", "=1"), "'=1' is not like name=value"),
    ],
)
def test_bad_options_are_one_line(edge_cli, int8, picture, options, words):
    check_one_line(edge_cli(int8, "--source", picture, *options), words)
