"""The ops that the compiler knows, one file per family. Importing this package registers them all."""

from __future__ import annotations

import pkgutil
from importlib import import_module

for _family in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_family.name}")
