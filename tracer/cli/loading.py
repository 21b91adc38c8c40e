"""MODEL and INPUT strings into objects: what a command line says, as `tracer.convert` takes it."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from passes.errors import InputError, LoadError
from passes.sizes.guards import Location
from passes.text.constraints import parse_constraint
from passes.values.spec import InputSpec
from tracer.inputs.specs import is_constraint

SHAPE_FORM = "[name=]DIMxDIMx...[:dtype], as in 2x20, Nx3x224x224, tokens=NxT:int64 or scalar"


def load_model(text: str, kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """The module that `path/to/file.py:name` or `package.module:name` stands for.

    The name is a module, a Module class, or a function that returns a module; `kwargs` go to the last two.
    While the file loads and the model is built, the file's folder can be imported from.

    Raises InputError where the text has another form, and LoadError where it leads to no module.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise InputError(
            f"{text!r} does not name a model",
            remedy="write path/to/file.py:NAME or package.module:NAME, with the name of a module, class or function",
        )
    is_file = place.endswith(".py") or os.sep in place
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    with _importable(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        module = _execute_file(Path(place)) if is_file else _import_module(place)
        return _build(_attribute(module, place, name), text, dict(kwargs or {}))


def source_files(text: str) -> list[Path]:
    """The file that the model which `text` stands for was loaded from."""
    place = text.rpartition(":")[0]
    found = getattr(sys.modules.get(place), "__file__", None) or place
    return [Path(found)]


def load_inputs(texts: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """INPUT strings as (args, kwargs) for `tracer.convert`: unnamed ones by position, named ones by keyword.

    Raises InputError where a string is malformed, and LoadError where a data file cannot be read.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, value = load_input(text)
        if not name:
            args.append(value)
        elif name in kwargs:
            raise InputError(f"the input {name} is given twice", remedy="give each input once")
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def load_samples(texts: Sequence[str]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """INPUT strings of several samples, each as (args, kwargs).

    A sample ends before the input whose name it already has. Unnamed ones have the same name, none: each begins a
    new sample.
    """
    samples: list[dict[str, Any]] = []
    for text in texts:
        name, value = load_input(text)
        if not samples or name in samples[-1]:
            samples.append({})
        samples[-1][name] = value
    return [
        (tuple(value for name, value in sample.items() if not name), {n: v for n, v in sample.items() if n})
        for sample in samples
    ]


def load_input(text: str) -> tuple[str, InputSpec | torch.Tensor]:
    """One INPUT string as its name (empty for none) and a spec, or a tensor where it names a file.

    Constraints may follow the shape, with commas between: `x=NxPx8,P>=0`.

    Raises InputError where the string is malformed, and LoadError where its file cannot be read.
    """
    head, _, constraints = text.partition(",")
    if is_constraint(constraints) and "@" not in head:
        parse_constraint(constraints)
        name, value = load_input(head)
        assert isinstance(value, InputSpec)
        return name, replace(value, constraints=(constraints.strip(),))
    name, separator, description = text.partition("=")
    if not separator or text.startswith("@"):
        name, separator, description = "", "", text
    if separator and not name.isidentifier():
        raise InputError(f"the input {text!r} has the name {name!r}, which is no word", remedy=f"write {SHAPE_FORM}")
    if description.startswith("@"):
        return name, _read_tensor(Path(description[1:]), name)
    shape, colon, dtype = description.partition(":")
    return name, InputSpec(_parse_shape(shape, text), _parse_dtype(dtype, text) if colon else torch.float32)


Samples = list[tuple[tuple[Any, ...], dict[str, Any]]]


def with_constraints(samples: Samples, texts: Sequence[str]) -> Samples:
    """The samples with constraints in the first spec of each; of several samples, each has those of its own names.

    Raises InputError where one cannot be read, or is of a size that no sample names.
    """
    known = list(dict.fromkeys(name for args, kwargs in samples for name in dimension_names(args, kwargs)))
    if texts and not known:
        raise InputError(
            f"--where {texts[0]!r} is of a dynamic dimension, but no input has one",
            remedy="name the dimension in an input, as in -i Nx3xHxW",
        )
    parsed = {
        text: {name for fact in parse_constraint(text, known) for name in fact.formula.symbols()} for text in texts
    }
    found: Samples = []
    for args, kwargs in samples:
        names = set(dimension_names(args, kwargs))
        own = tuple(text for text, of in parsed.items() if of <= names)
        places = [*range(len(args)), *kwargs]
        values = dict(zip(places, [*args, *kwargs.values()], strict=True))
        first = next((place for place, value in values.items() if isinstance(value, InputSpec)), None)
        if first is not None:
            values[first] = replace(values[first], constraints=(*values[first].constraints, *own))
        found.append((tuple(values[place] for place in range(len(args))), {key: values[key] for key in kwargs}))
    return found


def parse_assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """`K=V` strings as a dict. Raises InputError where one has no `=` or no key, or a key comes twice."""
    values: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise InputError(f"{option} {text!r} is not of the form K=V", remedy=f"write {option} name=value")
        if key in values:
            raise InputError(f"{option} gives {key} twice", remedy="give it once")
        values[key] = value
    return values


def parse_literals(texts: Sequence[str], option: str) -> dict[str, Any]:
    """`K=V` strings as a dict whose values are Python literals where they can be, else strings.

    Raises InputError as `parse_assignments` does, and where a key is no Python name.
    """
    values = parse_assignments(texts, option)
    for key in values:
        if not key.isidentifier():
            raise InputError(f"{option} names the argument {key!r}, which is no word", remedy=f"write {option} name=V")
    return {key: _literal(value) for key, value in values.items()}


def parse_sizes(texts: Sequence[str], option: str, known: Sequence[str]) -> dict[str, int]:
    """`N=4` strings as sizes of dynamic dimensions, of which `known` are the names.

    Raises InputError where a size is no whole number or the dimension is in no input.
    """
    sizes: dict[str, int] = {}
    for name, value in parse_assignments(texts, option).items():
        if not value.isdecimal():
            raise InputError(
                f"{option} {name}={value} has the size {value!r}", remedy=f"write a whole number: {option} {name}=4"
            )
        if name not in known:
            listed = f"the dynamic dimensions are {', '.join(known)}" if known else "no input has a dynamic dimension"
            raise InputError(
                f"{option} sets the size of {name}, but {listed}",
                remedy=f"name the dimension in an input, as in -i {name}x3x224x224",
            )
        sizes[name] = int(value)
    return sizes


def dimension_names(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the dynamic dimensions of loaded inputs, in order."""
    specs = [value for value in (*args, *kwargs.values()) if isinstance(value, InputSpec)]
    return list(dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str)))


# Models -----------------------------------------------------------------------------------------


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported inside the block."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _execute_file(path: Path) -> types.ModuleType:
    """The file as a module under a name of its own; compiled afresh, so that nothing is left beside it."""
    path = path.resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise LoadError(
            f"the model file {path.name} cannot be read: {error.strerror} ({path})",
            remedy=_close_name(path.name, _python_files(path.parent)) or "check the path before the colon",
        ) from error
    module = types.ModuleType(f"lazytracer_model_{path.stem}_{hashlib.blake2b(bytes(path), digest_size=4).hexdigest()}")
    module.__file__, module.__package__ = str(path), ""
    sys.modules[module.__name__] = module
    with _failures_of_user_code(path.name, "loading"):
        try:
            exec(compile(source, str(path), "exec"), module.__dict__)
        except BaseException:
            del sys.modules[module.__name__]
            raise
    return module


def _import_module(name: str) -> types.ModuleType:
    with _failures_of_user_code(name, "importing"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise LoadError(
                f"there is no module {error.name!r}",
                remedy="install it, run from the folder it is in, or name a file: path/to/file.py:NAME",
            ) from error
    raise AssertionError("unreachable")


def _attribute(module: types.ModuleType, place: str, name: str) -> Any:
    with _failures_of_user_code(place, f"taking {name} from"):
        try:
            return getattr(module, name)
        except AttributeError as error:
            names = _model_names(module)
            remedy = _close_name(name, names) or (
                f"it has {', '.join(names)}" if names else "define a module, a Module class or a function in it"
            )
            raise LoadError(f"{place} has nothing called {name!r}", remedy=remedy) from error


def _model_names(module: types.ModuleType) -> list[str]:
    """The names in a module that can stand for a model: modules, and the classes and functions of its own."""

    def is_model(value: Any) -> bool:
        own = getattr(value, "__module__", None) == module.__name__
        return isinstance(value, nn.Module) or (own and (_is_module_class(value) or inspect.isfunction(value)))

    return [name for name, value in vars(module).items() if not name.startswith("_") and is_model(value)]


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _build(found: Any, text: str, kwargs: dict[str, Any]) -> nn.Module:
    """The module that `found` is or makes."""
    if isinstance(found, nn.Module):
        if kwargs:
            raise InputError(
                f"{text} is a module already, so it takes no argument {next(iter(kwargs))}",
                remedy="leave --kwarg out, or name a class or a function",
            )
        return found
    if not _is_module_class(found) and (isinstance(found, type) or not callable(found)):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"of the type {type(found).__name__}"
        raise LoadError(
            f"{text} is {what}, which is no model",
            remedy="name a torch.nn.Module, a Module class or a function that returns a module",
        )
    _check_arguments(found, text, kwargs)
    with _failures_of_user_code(text, "building"):
        model = found(**kwargs)
    if not isinstance(model, nn.Module):
        raise LoadError(
            f"{text} returns a value of the type {type(model).__name__}, not a torch.nn.Module",
            remedy="return the module",
        )
    return model


def _check_arguments(factory: Callable[..., Any], text: str, kwargs: Mapping[str, Any]) -> None:
    """Raises LoadError unless `factory` can be called with `kwargs` alone."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    by_name = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in by_name]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in kwargs:
        if key not in names and not takes_any:
            listed = f"its arguments are {', '.join(names)}" if names else "it takes none"
            raise LoadError(
                f"{text} takes no argument {key!r}; {listed}",
                remedy=_close_name(key, names) or "leave this --kwarg out",
            )
    missing = [p.name for p in by_name if p.default is p.empty and p.name not in kwargs]
    if missing:
        raise LoadError(
            f"{text} needs values for {', '.join(missing)}",
            remedy=f"give them: {' '.join(f'--kwarg {name}=VALUE' for name in missing)}",
        )


@contextmanager
def _failures_of_user_code(subject: str, doing: str) -> Iterator[None]:
    """Whatever the block raises becomes a LoadError that shows the caller's own line."""
    try:
        yield
    except (LoadError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a script that exits while it loads
        said = str(error.msg if isinstance(error, SyntaxError) else error)
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        source, line = _raised_at(error)
        raise LoadError(f"{doing} it raises {what}", remedy=_load_remedy(error)).placed(
            Location(subject, source), chain=[line] if line else []
        ) from error


def _load_remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]}, or put it beside the model's file"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "the file is part of a package: name it as package.module:NAME, from the folder that holds the package"
    if isinstance(error, SystemExit):
        return 'put what runs on its own under `if __name__ == "__main__":`'
    return "make that line run; -v shows the whole traceback"


def _raised_at(error: BaseException) -> tuple[str | None, str | None]:
    """`net.py:12` and the text of that line: the innermost outside libraries, else the innermost."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}", (error.text or "").strip()
    libraries = (
        *{sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")},
        str(Path(__file__).parents[1]),
    )
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<", __file__))]
    frames = [f for f in frames if not f.filename.startswith(libraries)] or frames
    return (f"{Path(frames[-1].filename).name}:{frames[-1].lineno}", frames[-1].line) if frames else (None, None)


def _python_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.py")) if folder.is_dir() else []


def _close_name(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


# Inputs -----------------------------------------------------------------------------------------


def _parse_shape(shape: str, text: str) -> tuple[int | str, ...]:
    if shape == "scalar":
        return ()
    sizes: list[int | str] = []
    for size in shape.split("x"):
        if not re.fullmatch(r"[0-9]+|[^\W\d]\w*", size):
            fault = f"the dimension {size!r}" if size else "an empty dimension"
            raise InputError(f"the input {text!r} has {fault}", remedy=f"write {SHAPE_FORM}")
        sizes.append(int(size) if size.isdecimal() else size)
    return tuple(sizes)


def _parse_dtype(name: str, text: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if isinstance(dtype, torch.dtype):
        return dtype
    known = [key for key, value in vars(torch).items() if isinstance(value, torch.dtype)]
    raise InputError(
        f"the input {text!r} has the dtype {name!r}, which torch does not know",
        remedy=_close_name(name, known) or "use one such as float32, float16, int64 or bool",
    )


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    readers: dict[str, Callable[[Path, str], torch.Tensor]] = {
        ".npy": lambda path, _: _from_numpy(np.load(path, allow_pickle=False)),
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise InputError(
            f"the input file {path} has {f'the suffix {path.suffix}' if path.suffix else 'no suffix'}",
            remedy=f"give a {', '.join(readers)} file",
        )
    try:
        return readers[path.suffix](path, name)
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(
            f"the input file {path} cannot be read: {error.strerror or error}", remedy="check the path after the @"
        ) from error
    except Exception as error:  # each format has its own errors for damaged files
        raise LoadError(f"the input file {path} holds no tensor: {error}", remedy="write the file again") from error


def _read_npz(path: Path, name: str) -> torch.Tensor:
    if not zipfile.is_zipfile(path) and path.exists():
        raise LoadError(f"the input file {path} is no .npz archive", remedy="write it with numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        return _from_numpy(archive[_entry(path, name, list(archive.files))])


def _read_safetensors(path: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        tensor = archive.get_tensor(_entry(path, name, list(archive.keys())))
        assert isinstance(tensor, torch.Tensor)
        return tensor


def _entry(path: Path, name: str, entries: list[str]) -> str:
    """The entry of a data file that an input takes: the one of its name, or the only one."""
    if name in entries:
        return name
    if len(entries) == 1:
        return entries[0]
    raise LoadError(
        f"the input file {path} holds {', '.join(entries) or 'nothing'}, but nothing called {name!r}"
        if name
        else f"the input file {path} holds {', '.join(entries) or 'nothing'}, and the input has no name",
        remedy="name the input after an entry: name=@file",
    )


def _from_numpy(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
