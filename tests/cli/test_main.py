"""The face of the command line: help, exit codes, and no traceback for what a user can put right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attar import cli
from attar.runtime.errors import DataError
from attar.runtime.version import __version__

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def doctor_that(monkeypatch):
    """Make `attar doctor` raise the given exception."""

    def install(error: BaseException):
        def run(args):
            raise error

        monkeypatch.setattr(cli.load_verb("doctor"), "run", run)

    return install


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb_has_its_line_and_an_example(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    module = cli.load_verb(verb)
    assert module.HELP and "\n" not in module.HELP
    assert module.EXAMPLE.lstrip().startswith(f"attar {verb}")
    out = capsys.readouterr().out
    assert "example:" in out and module.EXAMPLE.strip() in out


def test_top_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(cli.load_verb(verb).HELP in out for verb in cli.VERBS)


def test_no_verb_shows_the_help_and_exits_2(capsys):
    assert cli.main([]) == 2
    assert "usage: attar" in capsys.readouterr().out


def test_unknown_verb_exits_2_and_names_the_known(capsys):
    assert cli.main(["destil"]) == 2
    assert "distill" in capsys.readouterr().err


def test_unknown_and_abbreviated_arguments_exit_2(capsys):
    assert cli.main(["doctor", "--jsn"]) == 2
    assert cli.main(["doctor", "--js"]) == 2
    assert "--js" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"attar {__version__}"


def test_own_error_is_one_line_and_exit_2(doctor_that, capsys):
    doctor_that(DataError("dev.csv has no column 'label'"))
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "attar: error: dev.csv has no column 'label'\n"


def test_missing_extra_names_its_pip_command(doctor_that, capsys):
    doctor_that(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    assert cli.main(["doctor"]) == 2
    assert "'torch'" in (err := capsys.readouterr().err) and "pip install 'attar[train]'" in err


def test_a_module_of_no_extra_is_a_defect_and_shows_its_traceback(doctor_that):
    doctor_that(ModuleNotFoundError("No module named 'attar.cli.x'", name="attar.cli.x"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["doctor"])


def test_interrupt_exits_130(doctor_that):
    doctor_that(KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130


def attar(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "attar", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, timeout=60, **options)


def test_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        done = attar("doctor", stdout=stdout)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from attar.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'matplotlib', 'pyarrow', 'starlette'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
