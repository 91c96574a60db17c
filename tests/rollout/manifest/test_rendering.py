"""One model version's deployment, out of the manifests that kustomize applies."""

import json
from pathlib import Path

import pytest

from custom_runtime.active import load_contract
from rollout.errors import ManifestError
from rollout.manifest.parsing import parse, to_dict
from rollout.manifest.rendering import Rendering, bundle_version, render, rendered_objects, tagged
from rollout.manifest.seldon import SeldonDeployment
from rollout.manifest.service_checks import find_problems

BASE = Path(__file__).parents[3] / "seldon/base/seldondeployment.yaml"


@pytest.fixture
def template() -> SeldonDeployment:
    return parse(BASE.read_text())


def test_the_predictor_is_named_after_the_version_and_gets_all_traffic(template: SeldonDeployment) -> None:
    rendered = render(template, Rendering("7", image="churn-serving:7", namespace="shop"))
    assert rendered.traffic() == {"v7": 100}
    assert (rendered.stable.image, rendered.namespace) == ("churn-serving:7", "shop")
    assert find_problems(to_dict(rendered)) == ()


def test_nothing_else_differs_from_the_template(template: SeldonDeployment) -> None:
    assert render(template, Rendering("1", image=template.stable.image)) == template


def test_a_canary_of_the_template_is_not_rendered(template: SeldonDeployment) -> None:
    two = template.with_predictor(template.stable.for_version("v2")).with_traffic({"v1": 90, "v2": 10})
    assert render(two, Rendering("3")).traffic() == {"v3": 100}


def test_a_model_uri_goes_to_the_storage_initializer(template: SeldonDeployment) -> None:
    rendered = render(template, Rendering("7", model_uri="s3://models/churn/7"))
    assert rendered.stable.graph.model_uri == "s3://models/churn/7"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("churn-serving:1", "churn-serving:7"),
        ("churn-serving", "churn-serving:7"),
        ("registry.example:5000/team/churn-serving", "registry.example:5000/team/churn-serving:7"),
        ("registry.example:5000/churn-serving:1@sha256:ab", "registry.example:5000/churn-serving:7"),
    ],
)
def test_without_an_image_the_templates_is_tagged_with_the_version(image: str, expected: str) -> None:
    assert tagged(image, "7") == expected


def test_the_other_objects_of_an_overlay_stay_as_they_are(template: SeldonDeployment) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "churn"}}
    first, second = rendered_objects((account, to_dict(template)), Rendering("7"))
    assert first is account
    assert parse(second).stable.name == "v7"


def test_another_namespace_than_the_overlays_is_refused(template: SeldonDeployment) -> None:
    placed = template.but(metadata=template.metadata.but(namespace="churn"))
    with pytest.raises(ManifestError, match="the overlay is for namespace 'churn', not 'shop'"):
        rendered_objects((to_dict(placed),), Rendering("7", namespace="shop"))


def test_an_overlay_without_a_deployment_is_refused() -> None:
    with pytest.raises(ManifestError, match="has 0 SeldonDeployments"):
        rendered_objects((), Rendering("7"))


def test_a_bundle_tells_the_version(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "churn", "version": "7"}))
    assert bundle_version(tmp_path, model="churn") == "7"
    with pytest.raises(ManifestError, match="is a bundle of 'churn'; the deployment serves 'fraud'"):
        bundle_version(tmp_path, model="fraud")
    with pytest.raises(ManifestError, match=r"make it: churn-serving import models:/churn@champion"):
        bundle_version(tmp_path / "none", model="churn")


@pytest.fixture
def credit() -> str:
    """The name of the model of another contract."""
    return load_contract(str(BASE.parents[2] / "examples/credit/contract.py")).name


def test_another_contracts_model_names_container_graph_and_probes(template: SeldonDeployment, credit: str) -> None:
    document = to_dict(render(template, Rendering("1", image="credit-serving:1", model=credit, name="loans")))
    assert find_problems(document) == ()
    rendered = parse(document)
    container = rendered.stable.model_container
    assert (rendered.name, rendered.stable.graph.name, container.name) == ("loans", credit, credit)
    for probe in (container.readiness_probe, container.startup_probe):
        assert probe is not None
        assert probe.http_get is not None
        assert probe.http_get.path == "/v2/models/credit/ready"
    (spread,) = rendered.stable.component_specs[0].spec.topology_spread_constraints
    assert spread["labelSelector"]["matchLabels"] == {"seldon-deployment-id": "loans", "version": "v1"}
    # Objects that other files make, and the server's own liveness, keep their names.
    before = template.stable.model_container
    assert (container.liveness_probe, container.env) == (before.liveness_probe, before.env)


def test_a_probe_of_another_model_is_refused_with_both_names(template: SeldonDeployment, credit: str) -> None:
    text = BASE.read_text().replace("- name: churn\n                image", f"- name: {credit}\n                image")
    text = text.replace("graph:\n        name: churn", f"graph:\n        name: {credit}")
    found = find_problems(to_dict(parse(text)))
    assert [problem.path.rsplit("/", 3)[1] for problem in found] == ["readinessProbe", "startupProbe"]
    assert {problem.severity for problem in found} == {"error"}
    for problem in found:
        assert "asks for the model 'churn', and this container's model is 'credit'" in problem.message
        assert problem.message.endswith("allowed: /v2/models/credit/ready")


def test_a_bundle_of_another_model_is_refused_with_what_renders_it(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "credit", "version": "3"}))
    with pytest.raises(ManifestError, match=r"a bundle of 'credit'; the deployment serves 'churn'.*--model credit"):
        bundle_version(tmp_path, model="churn")
    assert bundle_version(tmp_path, model="credit") == "3"


def test_a_model_whose_name_no_container_can_have_is_served_under_a_label(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "Credit_default", "version": "3"}))
    with pytest.raises(ManifestError, match=r"--model credit-default"):
        bundle_version(tmp_path, model="churn")
    assert bundle_version(tmp_path, model="credit-default") == "3"
