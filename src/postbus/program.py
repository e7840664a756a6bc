"""From `module:attribute` to the bus of a program.  Loads the bus only when asked: who supervises must stay small."""

from __future__ import annotations

import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, PostbusError

if TYPE_CHECKING:
    from .bus import Bus

__all__ = ["Program", "is_place"]

_PACKAGE = str(Path(__file__).parent)
_MACHINERY = ("<frozen importlib", importlib.__file__)
_EXAMPLE = "expected module:attribute, such as shop:bus"


@dataclass(frozen=True, slots=True)
class Program:
    """Where a program's bus is.

    Attributes:
        place: `module:attribute`.
        app_dir: the directory that the module is imported from, beside the usual ones.
        factory: the attribute is a function that returns the bus.
    """

    place: str
    app_dir: str = "."
    factory: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError when `place` cannot be one."""
        file, suffix, _ = self.place.partition(".py")
        if suffix or not is_place(self.place):
            hint = f"; do you mean {file.replace('/', '.')}:bus?" if suffix else ""
            raise ConfigError(f"{self.place!r} is not an app: {_EXAMPLE}{hint}")

    def load(self) -> Bus:
        """Import the module and return its bus.

        Raises:
            ConfigError: when the module cannot be imported, the attribute is missing, or it is no bus.
        """
        module, _, path = self.place.partition(":")
        folder = str(Path(self.app_dir).absolute())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found: Any = importlib.import_module(module)
        except (Exception, SystemExit) as error:  # the user's program may raise anything when it is imported
            raise self._not_imported(module, error) from error
        for name in path.split("."):
            if not hasattr(found, name):
                raise ConfigError(f"{module} has no attribute {path!r}: {_EXAMPLE}{self._buses(module)}")
            found = getattr(found, name)
        return self._checked(self._made(found) if self.factory and callable(found) else found)

    def _not_imported(self, module: str, error: BaseException) -> ConfigError:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            return ConfigError(
                f"there is no module {missing!r} in {self.app_dir!r} or among the installed ones: {_EXAMPLE}, "
                f"or --app-dir"
            )
        return ConfigError(f"{module} cannot be imported:\n{_seen_by_its_author(error)}")

    def _made(self, factory: Any) -> Any:
        try:
            return factory()
        except (Exception, SystemExit) as error:  # as above
            raise ConfigError(f"{self.place}() failed:\n{_seen_by_its_author(error)}") from error

    def _checked(self, found: Any) -> Bus:
        if _is_bus(found):
            bus: Bus = found
            return bus
        hint = "; is it a function that returns one? Then add --factory" if callable(found) and not self.factory else ""
        raise ConfigError(f"{self.place} is a {type(found).__name__}, not a postbus.Bus{hint}")

    def _buses(self, module: str) -> str:
        names = [name for name, value in vars(sys.modules[module]).items() if _is_bus(value)]
        return f"; there is {module}:{names[0]}" if names else ""


def is_place(text: str) -> bool:
    """Whether `text` has the form `module:attribute`."""
    module, colon, path = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *path.split(".")))


def _seen_by_its_author(error: BaseException) -> str:
    """The traceback without the import machinery's frames, and without ours where the error is our answer."""
    hidden = (_PACKAGE if isinstance(error, PostbusError) else __file__, *_MACHINERY)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(hidden)]
    shown = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "".join(shown).rstrip()


def _is_bus(value: object) -> bool:
    return isinstance(value, importlib.import_module("postbus.bus").Bus)
