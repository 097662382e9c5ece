"""Python's logging on its way to the host.

``logging`` takes longer to import than everything else of a worker's start, and many functions never log. So
nothing here imports it: a hook on its import puts the handler in place.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_level = 0
_installed = False


def set_level(level: int) -> None:
    """Records below this level are not made; 0 makes all."""
    global _level
    _level = level
    if _installed:
        _apply_level()


def install() -> None:
    """Puts the handler on the root logger, now or as soon as somebody imports ``logging``."""
    if "logging" in sys.modules:
        _install_handler()
    else:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport:
    """Finds ``logging`` as everybody would, and adds one step after its execution."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_install(module: ModuleType) -> None:
                execute(module)
                _install_handler()

            spec.loader.exec_module = execute_and_install  # type: ignore[method-assign]
        return spec


def _install_handler() -> None:
    global _installed
    import logging

    from snakepit._handler import HostHandler

    logging.getLogger().addHandler(HostHandler())
    _installed = True
    _apply_level()


def _apply_level() -> None:
    import logging

    logging.getLogger().setLevel(_level)
