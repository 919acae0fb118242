"""Versions of code: a hash of the definitions that a result can reach, and of nothing else.

A record is looked up by what decides its run. Of the code that is every function, class and constant that can be
reached, name by name, from the function that makes the result. Where a definition lives, imports, comments, docstrings,
annotations, the words of errors and the names of local variables change nothing; of an open table (``TABLES``) only the
entries count that the configuration names.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from capslib.errors import CapslibError

# Dictionaries by name of what a configuration can choose from: another entry does not make records old.
TABLES = ("KINDS", "LOSSES", "MODELS", "MULTI_LABEL", "OPTIMIZERS", "PERTURBATIONS", "ROUTINGS", "SCHEDULES")
# Fingerprints of the data stand for the corpora, the configuration in the key for its class; kernels and native code
# give the numbers of the plain formulations up to rounding, on devices that the provenance names; the others none.
NOT_CODE = (
    "capslib.corpora",
    "capslib.errors",
    "capslib.keys",
    "capslib.paths",
    "capslib.records",
    "capslib.layers.kernels",
    "capslib.layers.native",
)
NOT_DEFINITIONS = ("RunConfig",)
_IGNORED = ("annotation", "returns", "ctx", "kind", "type_comment", "type_ignores", "type_params")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_FUNCTIONS, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class _Module:
    """What a module binds: statements by name ("" for those that bind none), and (module, name) of each import."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)


@functools.cache
def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


@functools.cache
def _module(name: str) -> _Module:
    tree, module = ast.parse(_file(name).read_text(encoding="utf-8")), _Module()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement) or _is_main(statement):
            continue
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = [statement.name]
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            bound = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        else:
            bound = [""]
        for one in bound:
            module.definitions.setdefault(one, []).append(statement)
    for node in ast.walk(tree):
        bound: dict[str, tuple[str, str | None]] = {}
        if isinstance(node, ast.ImportFrom):
            if node.level or node.names[0].name == "*":
                raise CapslibError(
                    f"{name}: import names by the whole path of their module, so that keys can follow them"
                )
            bound = {a.asname or a.name: (node.module or "", a.name) for a in node.names}
        elif isinstance(node, ast.Import):  # `import a.b` binds a, `import a.b as c` binds a.b
            whole = [(a.asname, a.name) if a.asname else (a.name.split(".")[0],) * 2 for a in node.names]
            bound = {local: (path, None) for local, path in whole}
        twice = [local for local, target in bound.items() if module.imports.get(local, target) != target]
        if twice:
            raise CapslibError(f"{name} imports {twice[0]!r} from two modules: give one another name")
        module.imports.update(bound)
    return module


def _is_text(statement: ast.AST) -> bool:
    """A docstring, or other text that nothing reads."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant and isinstance(statement.value.value, str)


def _is_main(statement: ast.AST) -> bool:
    return isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test)


def _resolve(module: str, name: str | None) -> tuple[str, str | None]:
    """Where a name of one of our modules is defined: (module, name), or (module, None) where it is a module itself."""
    if name is None or module.startswith(NOT_CODE):
        return module, name
    bound = _module(module)
    if name in bound.definitions:
        return module, name
    if name in bound.imports:
        return _resolve(*bound.imports[name])
    return (f"{module}.{name}", None) if _file(f"{module}.{name}") is not None else (module, name)


def _own_names(scope: ast.AST) -> Iterator[str]:
    """Names that a function or comprehension binds itself, but for its parameters."""
    queue = list(ast.iter_child_nodes(scope))
    elsewhere = {name for node in ast.walk(scope) if isinstance(node, ast.Global) for name in node.names}
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in elsewhere:
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if not isinstance(node, (*_SCOPES, ast.ClassDef)):
            queue.extend(ast.iter_child_nodes(node))


class _Reader:
    """One definition as text that only what it does can change, and which definitions of ours it names."""

    def __init__(self, module: str, chosen: Collection[str]) -> None:
        self.module, self.chosen = module, chosen
        self.references: set[tuple[str, str]] = set()
        self.scopes: list[dict[str, str]] = []

    def text(self, node: object) -> str:
        if isinstance(node, list):
            return "[" + ",".join(self.text(one) for one in node if not _is_text(one)) + "]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Name | ast.Attribute):
            path = self.target(node)
            if path is not None:
                return path
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise):  # what a run says as it fails is in no record
            return type(node).__name__
        if isinstance(node, _SCOPES):
            return self.scope(node)
        return self.fields(node)

    def fields(self, node: ast.AST) -> str:
        parts = (
            f"{name}={(name == 'name' and self.local(value)) or self.text(value)}"
            for name, value in ast.iter_fields(node)
            if name not in _IGNORED and value not in (None, [])
        )
        return f"{type(node).__name__}({','.join(parts)})"

    def scope(self, node: ast.AST) -> str:
        """Parameters keep their names, which callers may use; other local names are numbered as they are used."""
        arguments = node.args if isinstance(node, _FUNCTIONS) else None
        outside = ""
        if arguments is not None:  # defaults and decorators belong to the scope around
            kinds = {"": [*arguments.posonlyargs, *arguments.args], "*": [arguments.vararg], "=": arguments.kwonlyargs}
            named = [
                (kind, one.arg) for kind, some in (*kinds.items(), ("**", [arguments.kwarg])) for one in some if one
            ]
            own, name = {argument: argument for _, argument in named}, getattr(node, "name", "")
            outside = [*arguments.defaults, *arguments.kw_defaults, *getattr(node, "decorator_list", [])]
            signature = ",".join(kind + argument for kind, argument in named)
            outside = f"{self.local(name) or name}({signature}){self.text(outside)}"
        else:  # what a comprehension goes through first is read outside of it
            own, outside = {}, self.text(node.generators[0].iter)
        own |= {name: "" for name in _own_names(node) if name not in own}
        self.scopes.append(own)
        body = node.body if arguments is not None else [getattr(node, "elt", None), *node.generators]
        if isinstance(node, ast.DictComp):
            body = [node.key, node.value, *node.generators]
        inside = self.text(body)
        self.scopes.pop()
        return f"{type(node).__name__}({outside},{inside})"

    def local(self, name: str) -> str | None:
        """How a local variable is called in the text; None for what is not local."""
        for depth, scope in reversed(list(enumerate(self.scopes))):
            if name in scope:
                scope[name] = scope[name] or f"local{depth}.{sum(map(bool, scope.values()))}"
                return scope[name]
        return None

    def target(self, node: ast.AST) -> str | None:
        """What a name, or a name of a module and its attributes, stands for; None for attributes of anything else."""
        if isinstance(node, ast.Attribute):
            base = self.target(node.value) if isinstance(node.value, ast.Name | ast.Attribute) else None
            if base is None or not base.startswith(("module:", "other:")):
                return None
            kind, _, path = base.partition(":")
            return f"other:{path}.{node.attr}" if kind == "other" else self.ours(path, node.attr)
        local = self.local(node.id)
        if local is not None:
            return local
        here = _module(self.module)
        if node.id in here.definitions:
            return self.ours(self.module, node.id)
        if node.id in here.imports:
            module, name = here.imports[node.id]
            if module.split(".")[0] == self.module.split(".")[0]:
                return self.ours(module, name)
            return f"other:{module}.{name}" if name else f"other:{module}"
        return node.id

    def ours(self, module: str, name: str | None) -> str:
        module, name = _resolve(module, name)
        if name is None:
            return f"module:{module}"
        if not module.startswith(NOT_CODE) and name not in NOT_DEFINITIONS:
            self.references.add((module, name))
        return f"ours:{name}"

    def definition(self, name: str) -> str:
        statements = _module(self.module).definitions.get(name)
        if statements is None:
            raise CapslibError(f"{self.module} defines no {name!r}, which decides results: is it made at run time?")
        return self.text([self.entries(name, statement) for statement in statements])

    def entries(self, name: str, statement: ast.stmt) -> ast.stmt | list:
        """Of an open table the chosen entries."""
        value = getattr(statement, "value", None)
        if name not in TABLES or not isinstance(value, ast.Dict):
            return statement
        return [
            one
            for key, entry in zip(value.keys, value.values, strict=True)
            if not isinstance(key, ast.Constant) or key.value in self.chosen
            for one in (key, entry)
        ]


@functools.cache
def reachable(roots: tuple[tuple[str, str], ...], chosen: frozenset[str] = frozenset()) -> dict[tuple[str, str], str]:
    """All definitions that can be reached from some, (module, name), each as text.

    ``roots``: (module, name) of those to start from; ``chosen``: words of the configuration, which select entries of
    ``TABLES``.
    """
    texts: dict[tuple[str, str], str] = {}
    homes: dict[str, str] = {}
    queue = list(roots)
    while queue:
        module, name = queue.pop()
        if (module, name) in texts:
            continue
        if name not in ("", *TABLES) and homes.setdefault(name, module) != module:
            raise CapslibError(
                f"{homes[name]} and {module} both define {name!r}: which one is called is in no key; rename one"
            )
        reader = _Reader(module, chosen)
        texts[module, name] = reader.definition(name)
        # Statements that bind no name are run whenever a module is imported, and its packages with it.
        parts = module.split(".")
        imported = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        queue.extend({*reader.references, *((one, "") for one in imported if "" in _module(one).definitions)})
    return texts


def code_version(roots: Iterable[tuple[str, str]], chosen: Iterable[str] = ()) -> str:
    """SHA-256 (16 digits) of all that ``reachable`` finds."""
    texts = reachable(tuple(roots), frozenset(chosen))
    return hashlib.sha256("\n".join(sorted(set(texts.values()))).encode()).hexdigest()[:16]


def words(value: object) -> Iterator[str]:
    """All text within a configuration: values, never names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (word for one in value.values() for word in words(one))
    elif isinstance(value, list | tuple):
        yield from (word for one in value for word in words(one))
