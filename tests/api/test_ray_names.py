"""Names of Ray's that are not here say what to do instead; those of Ray 2.6 that are, are warned about."""

from __future__ import annotations

import copy
import importlib
import importlib.util

import pytest

import serve_rt as serve
from serve_rt import ray_names
from serve_rt.api.targets import prefix_of
from serve_rt.errors import ServeException
from serve_rt.handle import DeploymentHandle
from serve_rt.handle.response import DeploymentResponse
from serve_rt.ray_names import _AWAITED_TWICE, _NO_RAY
from serve_rt.replica.failures import users_traceback


class Model:
    pass


@pytest.mark.parametrize("module", sorted(ray_names.MODULES))
def test_a_submodule_of_ray_says_what_to_do_instead(module: str) -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        importlib.import_module(f"serve_rt.{module}")
    assert raised.value.name == f"serve_rt.{module}" and ray_names.MODULES[module] in str(raised.value)


def test_a_submodule_nobody_has_is_missing_as_any_other() -> None:
    assert importlib.util.find_spec("serve_rt.nobody_has_this") is None


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in ray_names.NAMES.items() if module for name in names]
)
def test_a_name_of_a_submodule_says_what_to_do_instead(module: str, name: str) -> None:
    with pytest.raises(ImportError) as raised:
        exec(f"from serve_rt.{module} import {name}")
    assert ray_names.NAMES[module][name] in str(raised.value)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = importlib.import_module(f"serve_rt.{module}").other


def test_a_function_of_the_face_says_what_to_do_instead() -> None:
    with pytest.raises(AttributeError, match="get_app_handle"):
        _ = serve.get_deployment
    assert not hasattr(serve, "list_deployments")


@pytest.mark.parametrize("name", ["deploy", "get_handle", "delete", "remote"])
def test_what_deployments_had_in_ray_1_says_what_to_do_instead(name: str) -> None:
    deployment = serve.deployment(Model)
    with pytest.raises(AttributeError, match=r"serve\.(run|delete|get_deployment_handle)"):
        getattr(deployment, name)
    assert not hasattr(deployment, "nothing") and copy.copy(deployment) == deployment


@pytest.mark.parametrize("name", ["RayServeHandle", "RayServeSyncHandle", "RayServeDeploymentHandle"])
def test_handles_of_ray_2_6_are_handles(name: str) -> None:
    with pytest.warns(DeprecationWarning, match="DeploymentHandle"):
        assert getattr(importlib.import_module("serve_rt.handle"), name) is DeploymentHandle


def test_the_route_prefix_of_a_deployment_is_the_applications_unless_the_program_asks_for_another() -> None:
    with pytest.warns(DeprecationWarning, match="route_prefix"):
        old = serve.deployment(route_prefix="/old")(Model).bind()
        hidden = serve.deployment(route_prefix=None)(Model).bind()
    assert prefix_of(old) == prefix_of(old, "/") == "/old" and prefix_of(old, "/new") == "/new"
    assert prefix_of(hidden) is None and prefix_of(serve.deployment(Model).bind()) == "/"
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="trailing"):
        serve.deployment(route_prefix="/x/")


def test_object_refs_are_refused_in_words() -> None:
    response: DeploymentResponse[int] = DeploymentResponse.__new__(DeploymentResponse)
    with pytest.raises(ServeException, match="await the response"):
        response._to_object_ref(_record_telemetry=False)


def test_what_only_ray_has_is_explained_in_the_traceback_once() -> None:
    async def twice() -> None:
        await "hello"  # type: ignore[misc]  # as programs for Ray 2.6 do with what a call gave

    for code, hint in ((lambda: exec("import ray"), _NO_RAY), (lambda: twice().send(None), _AWAITED_TWICE)):
        with pytest.raises((ModuleNotFoundError, TypeError)) as raised:
            code()
        users_traceback(raised.value)
        assert users_traceback(raised.value).count(hint) == 1
