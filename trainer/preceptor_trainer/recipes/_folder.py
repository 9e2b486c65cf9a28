"""Recipes that lie in a folder, one file each: imported when they are asked for, anew when a file has changed."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from types import ModuleType

from preceptor_trainer.part import forget

_PREFIX = "preceptor_own_recipes"
_importing = Lock()


class BrokenRecipe(ValueError):
    """A recipe's file cannot be used."""


class Folder:
    """Files of recipes; None: there are none. A file whose name begins with `_` is no recipe."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise BrokenRecipe(f"{folder} is no folder; name the one that holds the recipes' files")
        self._folder = folder
        self._known: dict[str, tuple[bytes, ModuleType]] = {}

    @property
    def names(self) -> set[str]:
        """Of every file that is there now."""
        files = [] if self._folder is None else self._folder.glob("[!_.]*.py")
        return {file.stem for file in files if file.stem.isidentifier()}

    def path(self, name: str) -> Path:
        """Where a recipe lies."""
        return (self._folder or Path()) / f"{name}.py"

    def module(self, name: str) -> ModuleType:
        """The file as a module. Raises BrokenRecipe, with the line at fault."""
        return self._held(name)[1]

    def content(self, name: str) -> bytes:
        """What the module was made of. Raises as `module`: another thread may have found the file gone meanwhile."""
        return self._held(name)[0]

    def _held(self, name: str) -> tuple[bytes, ModuleType]:
        with _importing:
            try:
                content = self.path(name).read_bytes()
            except OSError as error:
                raise BrokenRecipe(f"{self.path(name)} cannot be read: {error.strerror}") from error
            self.forget(self._known.keys() - self.names)
            known = self._known.get(name)
            if known is None or known[0] != content:
                known = self._known[name] = content, self._imported(name, content)
            return known

    def forget(self, names: Collection[str] | None = None) -> None:
        """Free what the parts of these files are called; None: of all."""
        for name in list(self._known if names is None else names):
            forget(f"{_PREFIX}.{name}")
            del self._known[name]

    def _imported(self, name: str, content: bytes) -> ModuleType:
        path, qualified = self.path(name), f"{_PREFIX}.{name}"
        forget(qualified)  # parts of an earlier version of this file
        spec = spec_from_file_location(qualified, path)
        assert spec is not None, "it ends in .py"
        module = module_from_spec(spec)
        sys.modules[qualified] = module  # pydantic resolves annotations there
        try:
            exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
        except Exception as error:  # the boundary: whatever somebody else's file does wrong
            del sys.modules[qualified]
            forget(qualified)
            raise BrokenRecipe(f"{path}{_line(error, path)}: {type(error).__name__}: {_sentence(error)}") from error
        return module


def _line(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" line {lines[-1]}" if lines else ""


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
