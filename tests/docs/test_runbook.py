"""The documents point at things that exist: files, headings, settings, commands."""

import re
import shlex
from typing import Any

import pytest
import yaml

from custom_runtime.settings import ServingSettings
from tests.support.commands import unknown_options
from tests.support.programs import ROOT

DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Any) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{document.name} links to {target}"


def test_every_alert_has_its_place_in_the_runbook_and_no_place_is_left_over() -> None:
    files = [ROOT / "seldon" / folder / "prometheusrule.yaml" for folder in ("monitoring", "controller")]
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["spec"]["groups"]]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == {alert["alert"] for alert in alerts}
    for alert in alerts:  # seldon/runbook puts the address before it
        assert alert["annotations"]["runbook_url"] == f"runbook#{alert['alert'].lower()}"
        assert alert["alert"].lower() in anchors(text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_settings_that_are_named_exist(document: Any) -> None:
    known = {f"SERVING_{name.upper()}" for name in ServingSettings.model_fields}
    named = set(re.findall(r"\bSERVING_[A-Z_]+[A-Z]\b", document.read_text()))
    assert named - known <= {"SERVING_TEST_INSTALL_CRDS"}


def test_commands_of_the_runbook_have_the_options_that_it_gives_them() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    shorthand = 'P=".venv/bin/churn-serving rollout"'
    assert shorthand in text
    text = text.replace(shorthand, "").replace("$P ", "churn-serving rollout ")
    found = re.findall(r"churn-serving ([a-z][^`|\n#>]*)", text.replace("\\\n", " "))
    assert len(found) > 10
    for call in found:
        assert unknown_options(*shlex.split(call)) == [], call
