"""From wire names to callables, with precise errors for names that lead nowhere."""

from __future__ import annotations

import importlib
import os
import sys

from snakepit import _registry

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

    from snakepit._errors import Failure

KIND_RAISED = 1
KIND_UNKNOWN_MODULE = 2
KIND_UNKNOWN_FUNCTION = 3

_looked_anew = False
_adapters: list[ModuleType] = []
_offered: dict[str, list[tuple[str, Callable[..., Any]]]] = {}


class Unresolved(Exception):
    """A name that stands for nothing; carries the parts of the error."""

    def __init__(
        self, kind: int, message: str, suggestions: Iterable[str] = (), cause: BaseException | None = None
    ) -> None:
        """Keeps the parts."""
        super().__init__(message)
        self.failure: Failure = (kind, message, list(suggestions), cause)


def resolve(name: str) -> Callable[..., Any]:
    """The callable a wire name stands for."""
    module_name, colon, qualname = name.partition(":")
    if not colon:
        return _bare(name)
    if not module_name or not qualname:
        raise Unresolved(
            KIND_UNKNOWN_FUNCTION, f"{name!r} is no function's name; it must be 'module:function'"
        )
    return _attribute(import_module(module_name), module_name, qualname)


def _bare(name: str) -> Callable[..., Any]:
    candidates = _offered.get(name, [])
    if len(candidates) == 1:
        return candidates[0][1]
    if candidates:
        modules = [module for module, _ in candidates]
        raise Unresolved(
            KIND_UNKNOWN_FUNCTION,
            f"{name!r} is offered by several adapters ({', '.join(modules)}); call it as 'module:function'",
            [f"{module}:{getattr(target, '__qualname__', name)}" for module, target in candidates],
        )
    if not _adapters:
        where = "this worker has no adapters; call a function of any module as 'module:function'"
    else:
        names = ", ".join(module.__name__ for module in _adapters)
        where = f"none of the adapters {names} offers {'it' if _offered else 'any function'}"
    raise Unresolved(KIND_UNKNOWN_FUNCTION, f"unknown function {name!r}: {where}", near(name, _offered))


def _attribute(module: ModuleType, module_name: str, qualname: str) -> Callable[..., Any]:
    target: Any = module
    for part in qualname.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            prefix = qualname[: -len(part)] if qualname.endswith(part) else ""
            names = [name for name in dir(target) if callable(getattr(target, name, None))]
            raise Unresolved(
                KIND_UNKNOWN_FUNCTION,
                f"module {module_name!r} has no function {qualname!r}",
                [f"{module_name}:{prefix}{name}" for name in near(part, names)],
            ) from None
    if not callable(target):
        raise Unresolved(
            KIND_UNKNOWN_FUNCTION,
            f"{module_name}:{qualname} is of type {type(target).__name__}, which cannot be called",
        )
    return target  # type: ignore[no-any-return]


def import_module(name: str) -> ModuleType:
    """Imports a module, and runs the start hooks it declares."""
    global _looked_anew
    if not _looked_anew and name not in sys.modules:
        # A template may have looked for modules before some of them were there. Not where it has imported
        # all that is asked for: each finder that this writes to is a page that is copied.
        importlib.invalidate_caches()
        _looked_anew = True
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        raise _import_failure(name, error) from None
    run_start_hooks()
    return module


def _import_failure(name: str, error: BaseException) -> BaseException:
    from snakepit._cancel import Cancelled

    if isinstance(error, (Cancelled, KeyboardInterrupt)):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and _is_prefix(error.name, name):
        if name.endswith(".py") or "/" in name:
            advice = "give the module's name, and its directory as a path"
        elif os.path.exists(f"{error.name}.py") or os.path.exists(f"{error.name}/__init__.py"):
            advice = "it is in the working directory, which is not on sys.path: give that as a path"
        else:
            message = f"no module named {error.name!r}"
            return Unresolved(KIND_UNKNOWN_MODULE, message, near_modules(error.name), error)
        return Unresolved(KIND_UNKNOWN_MODULE, f"no module named {error.name!r}; {advice}", (), error)
    if isinstance(error, SystemExit):
        message = f"module {name!r} failed to import: it called sys.exit({error.code!r})"
    else:
        from snakepit._errors import one_line

        message = f"module {name!r} failed to import: {one_line(error)}"
    return Unresolved(KIND_UNKNOWN_MODULE, message, (), error)


def _is_prefix(missing: str, name: str) -> bool:
    return missing == name or name.startswith(missing + ".")


def near(name: str, names: Iterable[str]) -> list[str]:
    """Names like this one, the best first."""
    import difflib

    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)


def near_modules(name: str) -> list[str]:
    """Importable modules with names like this one."""
    import pkgutil

    parent, _, last = name.rpartition(".")
    try:
        if parent:
            path = getattr(sys.modules.get(parent), "__path__", None)
            return [f"{parent}.{found}" for found in near(last, (m.name for m in pkgutil.iter_modules(path)))]
        names = (
            {module.name for module in pkgutil.iter_modules()} | sys.stdlib_module_names | set(sys.modules)
        )
        return near(last, sorted(names))
    except Exception:
        # Suggestions are a courtesy; a broken path entry must not hide the error itself.
        return []


def run_start_hooks() -> None:
    """Runs the start hooks that were declared and have not run."""
    while _registry.start_hooks:
        hook = _registry.start_hooks.pop(0)
        try:
            call_hook(hook)
        except Exception as error:
            from snakepit._errors import one_line

            name = f"{getattr(hook, '__module__', '?')}:{getattr(hook, '__qualname__', '?')}"
            raise Unresolved(KIND_RAISED, f"start hook {name} failed: {one_line(error)}", (), error) from None


def call_hook(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a hook, and awaits it if it is asynchronous."""
    import types

    result = hook(*arguments)
    if isinstance(result, types.CoroutineType):
        from snakepit import _aio

        return _aio.run(result)
    return result


def prepare(adapters: list[str], paths: list[str]) -> list[str]:
    """Imports adapters, runs their start hooks, and says what they offer."""
    if sys.path[: len(paths)] != paths:
        sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    for name in adapters:
        module = import_module(name)
        if module not in _adapters:
            _adapters.append(module)
            for bare, target in _registry.offered(module).items():
                _offered.setdefault(bare, []).append((name, target))
    return sorted(_offered)
