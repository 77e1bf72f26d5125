"""What the README tells a user to type: every command parses, every file it names exists, its Python runs."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from attar.cli import VERBS, verb_parser
from attar.pipeline.recipe import parse
from tests.fixtures_bundle import make_tiny_bundle

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    attar ")]


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--help" not in c])
def test_every_command_parses(command: str) -> None:
    verb, *arguments = shlex.split(command)[1:]
    assert verb in VERBS
    parsed = verb_parser(verb).parse_intermixed_args(arguments)
    assert vars(parsed)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_bundle(tmp_path / "build" / "sentiment" / "bundle")
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code) == 2
    names: dict[str, object] = {}
    for block in code:
        exec(block, names)  # the README's own lines
    assert "model" in names


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert target.startswith("http") or (ROOT / target).exists()


def test_its_steps_are_a_recipe() -> None:
    (code,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    recipe = parse({"name": "x", "data": {"train": "x.csv"}, "teacher": {"model": "x"}, **tomllib.loads(code)})
    assert len(recipe.steps) == 2
