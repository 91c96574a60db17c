"""The documents' command blocks: shell that parses, commands and targets that exist, a short list of what cannot run.

tests/instructions runs them; this finds most mistakes in a second.
"""

import re
import shlex
import subprocess

import pytest

from tests.support.command_blocks import CANNOT_RUN, Block, every_block
from tests.support.commands import unknown_options
from tests.support.programs import ROOT

BLOCKS = every_block()
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHORTHAND = {"$P": "churn-serving rollout"}


def commands_of(block: Block) -> list[list[str]]:
    """Return the words of each simple command, shorthand replaced, quoted parts kept whole."""
    text = re.sub(r"(^| )#.*$", "", block.text.replace("\\\n", " "), flags=re.MULTILINE)
    for short, long in SHORTHAND.items():
        text = text.replace(f"{short} ", f"{long} ")
    words = shlex.shlex(text, posix=True, punctuation_chars="|&;<>()\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|&;()\n"):
            commands.append([])
        elif not (commands[-1] == [] and re.fullmatch(r"\w+=.*", word, re.DOTALL)):
            commands[-1].append(word)
    return [command for command in commands if command]


SHELL = [block for block in BLOCKS if block.language == "sh"]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_is_shell_that_parses(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_calls_commands_and_targets_that_exist(block: Block) -> None:
    for command in commands_of(block):
        program = command[0].rpartition("/")[2]
        if program == "churn-serving":
            until = next((place for place, word in enumerate(command) if word in ("<", ">", ">>")), len(command))
            assert unknown_options(*command[1:until]) == [], command
        elif program == "make":
            assert {word for word in command[1:] if "=" not in word and not word.startswith("-")} <= TARGETS, command


def test_what_cannot_run_is_listed_with_its_reason_and_counted() -> None:
    for (document, part), reason in CANNOT_RUN.items():
        assert [one for one in BLOCKS if one.document == document and part in one.text], f"{document} has no {part!r}"
        assert len(reason.split()) > 2
    not_run = [block for block in BLOCKS if block.reason is not None]
    print(f"{len(BLOCKS)} command blocks, {len(BLOCKS) - len(not_run)} are run, {len(not_run)} cannot run here:")
    for block in not_run:
        print(f"  {block}: {block.reason}")
    assert len(BLOCKS) - len(not_run) >= 20
    assert len(not_run) <= len(CANNOT_RUN)


def test_no_command_hides_in_a_block_without_a_language() -> None:
    """An indented block, or a fence without `sh`, would never be run."""
    for document in {block.document for block in BLOCKS}:
        text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
        hidden = re.findall(r"^ {4,}(?:make|churn-serving|kubectl|helm|\$[PS]|\.venv/bin/\S+) .*$", text, re.MULTILINE)
        assert hidden == [], f"{document}: put it into a block that begins with ```sh"
