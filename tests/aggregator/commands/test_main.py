import importlib
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from aggregator.__main__ import COMMANDS, main
from tests.aggregator.commands.conftest import Catchment, environ


def all_commands() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = importlib.import_module(f"aggregator.commands.{name}").command
        if isinstance(command, click.Group):
            yield from ((f"{name} {child}", found) for child, found in command.commands.items())
        else:
            yield name, command


def test_the_help_names_every_command(catchment: Catchment) -> None:
    said = " ".join(catchment("--help").output.split())
    assert all(f"{name} " in said and sentence in said for name, sentence in COMMANDS.items())


def test_the_help_loads_nothing_that_takes_time() -> None:
    code = (
        "import sys\nfrom aggregator.__main__ import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(sorted({'sqlalchemy', 'astropy', 'numpy', 'httpx', 'rich', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_itself_says(name: str) -> None:
    command = importlib.import_module(f"aggregator.commands.{name}").command
    assert command.help.split("\n")[0] == COMMANDS[name]


@pytest.mark.parametrize("name", [name for name, _ in all_commands()])
def test_every_command_has_help_with_an_example_of_itself(name: str, catchment: Catchment) -> None:
    said = catchment(*name.split(), "--help").output
    assert "Example" in said
    assert f"catchment {name}" in said.partition("Example")[2]


@pytest.mark.parametrize(
    "command", [command for _, command in all_commands()], ids=[name for name, _ in all_commands()]
)
def test_every_option_is_explained(command: click.Command) -> None:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_an_unknown_command_is_a_misuse(catchment: Catchment) -> None:
    assert "No such command 'serv'" in catchment("serv", exit_code=2).output


def test_settings_that_cannot_be_used_are_all_listed(catchment: Catchment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATCHMENT_PORT", "many")
    monkeypatch.setenv("CATCHMENT_DRAIN_S", "-1")
    said = catchment("serve", exit_code=2).output
    assert "CATCHMENT_PORT: got 'many', expected a port" in said
    assert "CATCHMENT_DRAIN_S: got '-1', expected a number above 0" in said


def test_a_service_that_is_not_there_is_told_in_a_line(catchment: Catchment) -> None:
    said = catchment("search", "--url", "http://127.0.0.1:1", exit_code=1).output
    assert said.startswith("Error: no answer from http://127.0.0.1:1 ")
    assert said.count("\n") == 1


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", "--help"], capture_output=True, text=True, check=True, env=environ()
    )
    assert done.stdout.startswith("Usage: catchment ")
    assert isinstance(main, click.Group)
