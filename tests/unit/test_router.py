"""The scheme router."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytest

from weightlift._router import Router
from weightlift.errors import RoutingError
from weightlift.types import ModelArtifacts


class Memory:
    """A handler that loads a constant."""

    def __init__(self, url: str = "") -> None:
        self.url = url

    def load(self) -> ModelArtifacts:
        return ModelArtifacts(format=self.url)


def memory_router(url: str, options: Mapping[str, Any]) -> Memory | None:
    return Memory(url) if url.startswith("mem://") else None


@pytest.fixture
def router() -> Router:
    return Router(entry_points=None)


def test_the_one_handler_is_found(router: Router) -> None:
    router.register_load(memory_router, schemes=["mem"])
    assert router.load_handler("mem://a").load().format == "mem://a"
    assert len(router.get_load_handlers("mem://a")) == 1
    assert router.get_load_handlers("other://a") == []


def test_options_reach_the_router(router: Router) -> None:
    seen: list[Mapping[str, Any]] = []
    router.register_load(lambda url, options: seen.append(options))
    router.get_load_handlers("mem://a", {"strict": False})
    assert seen == [{"strict": False}]


def test_none_lists_the_schemes_and_the_nearest(router: Router) -> None:
    router.register_load(memory_router, schemes=["mem", "memory"])
    with pytest.raises(RoutingError, match=r"no load handler .*mem, memory.*did you mean mem://\?") as caught:
        router.load_handler("men://a")
    assert caught.value.url == "men://a"
    with pytest.raises(RoutingError, match=r"no save handler .*none"):
        router.save_handler("mem://a")


def test_several_are_refused(router: Router) -> None:
    router.register_load(memory_router)
    router.register_load(lambda url, options: Memory())
    with pytest.raises(RoutingError, match=r"more than one \(2\) load handlers .*Memory, Memory"):
        router.load_handler("mem://a")


def test_a_handler_must_have_the_verb(router: Router) -> None:
    router.register_save(lambda url, options: Memory())  # type: ignore[arg-type, return-value]
    with pytest.raises(RoutingError, match="a Memory, cannot save"):
        router.save_handler("mem://a")


def test_registering_twice_counts_once_and_can_be_undone(router: Router) -> None:
    assert router.register_load(memory_router) is memory_router
    router.register_load(memory_router)
    assert len(router.get_load_handlers("mem://a")) == 1
    router.unregister_load(memory_router)
    assert router.get_load_handlers("mem://a") == []
    with pytest.raises(RoutingError, match="not registered"):
        router.unregister_load(memory_router)


def test_routers_do_not_share_their_lists() -> None:
    a, b = Router(entry_points=None), Router(entry_points=None)
    a.register_load(memory_router)
    assert b.get_load_handlers("mem://a") == []


def plug_in(monkeypatch: pytest.MonkeyPatch, register: Any) -> list[str]:
    """Install a package that serves ``plug://``; returns the schemes that were asked for."""
    module = types.ModuleType("weightlift_plug")
    module.register = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "weightlift_plug", module)
    asked: list[str] = []

    def entry_points(*, group: str, name: str) -> tuple[metadata.EntryPoint, ...]:
        asked.append(name)
        assert group == "weightlift.handlers"
        return (metadata.EntryPoint(name, "weightlift_plug:register", group),) if name == "plug" else ()

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return asked


def test_installed_packages_are_asked_once_and_only_for_their_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(router: Router) -> None:
        router.register_load(lambda url, options: Memory(url) if url.startswith("plug://") else None, schemes=["plug"])

    asked = plug_in(monkeypatch, register)
    router = Router()
    router.register_load(memory_router)
    router.load_handler("mem://a")
    assert asked == []
    assert router.load_handler("plug://a").load().format == "plug://a"
    assert router.get_load_handlers("none://a") == []
    assert router.get_load_handlers("none://a") == []
    assert asked == ["plug", "none"]


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(router: Router) -> None:
        raise ImportError("libfoo is missing")

    plug_in(monkeypatch, register)
    with pytest.raises(RoutingError, match=r"plug:// in 'weightlift_plug:register' .* libfoo is missing"):
        Router().load_handler("plug://a")
