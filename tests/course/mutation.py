"""Small changes of a function's code, one at a time: mutants, which a check must tell from the function."""

import ast
import copy
from collections.abc import Iterator

OPERATORS = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mult, ast.Mod),
    ast.Mod: (ast.FloorDiv, ast.Mult),
    ast.Pow: (ast.Mult, ast.Add),
    ast.MatMult: (ast.Mult,),
    ast.GtE: (ast.Gt, ast.LtE, ast.Lt, ast.Eq),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
}
NAMES = {
    "min": ("max",),
    "max": ("min",),
    "mean": ("sum", "std", "prod"),
    "sum": ("mean", "prod"),
    "floor": ("ceil", "round", "trunc"),
    "round": ("floor", "ceil", "trunc"),
    "sqrt": ("square", "exp"),
    "abs": ("neg", "square"),
    "log10": ("log", "log2", "exp"),
    "sigmoid": ("tanh", "relu"),
    "zeros": ("ones",),
    "cat": ("stack",),
    "quantile": ("median",),
    "randperm": ("arange",),
    "new_zeros": ("new_ones",),
    "int": ("char", "byte", "bool", "half"),
    "x_scale": ("w_scale",),
    "w_scale": ("x_scale",),
    "x_zero": ("w_zero",),
    "w_zero": ("x_zero",),
    "x_codes": ("w_codes",),
    "w_codes": ("x_codes",),
}


def mutants(code: str, function: str) -> dict[str, str]:
    """The mutants of a function: code of the whole cell, by what changed, as "old line  ->  new line"."""
    tree = ast.parse(code)
    body = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    spots = list(enumerate(ast.walk(tree)))
    inside = {id(node) for line in body.body[1:] for node in ast.walk(line)}  # [1:]: without the docstring
    names = sorted({argument.arg for argument in body.args.args})
    before, found = ast.unparse(tree).splitlines(), {}
    for spot, node in spots:
        if id(node) not in inside:
            continue
        for new in changed(node, names):
            after = ast.unparse(replaced(tree, spot, new)).splitlines()
            found.setdefault(difference(before, after), "\n".join(after))
    found.pop("", None)
    return found


def difference(before: list[str], after: list[str]) -> str:
    """The first line that differs, before and after; empty for equal code."""
    if before == after:
        return ""
    pairs = zip([*before, ""], [*after, ""], strict=False)
    old, new = next((old.strip(), new.strip()) for old, new in pairs if old != new)
    return f"{old}  ->  {new}" if len(before) == len(after) else f"{old}  ->  (dropped)"


def replaced(tree: ast.Module, spot: int, new: ast.AST | None) -> ast.Module:
    """A copy of the tree with another node at the place ``spot`` of ``ast.walk``; None: ``pass`` there."""
    tree = copy.deepcopy(tree)
    node = list(ast.walk(tree))[spot]
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(item is node for item in value):
                value[:] = [(new or ast.Pass()) if item is node else item for item in value]
    return ast.fix_missing_locations(tree)


def changed(node: ast.AST, names: list[str]) -> Iterator[ast.AST | None]:
    """The nodes that may stand in the place of ``node``. names: of the function's arguments."""
    for kind in OPERATORS.get(type(node), ()):
        yield kind()
    if isinstance(node, ast.Constant):
        yield from constants(node.value)
    elif isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
        if not isinstance(node.op, ast.Add | ast.Mult):  # these commute: the same number
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield from (ast.Attribute(node.value, name, node.ctx) for name in NAMES.get(node.attr, ()))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from (ast.Name(name, node.ctx) for name in NAMES.get(node.id, ()))
        if node.id in names:
            yield from (ast.Name(name, node.ctx) for name in names if name != node.id)
    elif isinstance(node, ast.Call):
        yield from calls(node)
    elif isinstance(node, ast.Slice):
        parts = [("lower", node.lower), ("upper", node.upper), ("step", node.step)]
        kept = {field: part for field, part in parts if part}
        yield from (ast.Slice(**{field: kept[field] for field in kept if field != gone}) for gone in kept)
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If):
        yield None
        if isinstance(node, ast.AugAssign):
            yield ast.Assign([node.target], node.value, lineno=0)


def constants(value: object) -> Iterator[ast.Constant]:
    """Other numbers near a number; nothing for other constants."""
    if type(value) in (int, float):
        near = [value + 1, value - 1] if type(value) is int else [value * 1.05, value / 1.05, value + 0.5]
        yield from (ast.Constant(other) for other in (*near, -value, 2 * value) if other != value)


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """A call without effect, with fewer arguments, with two arguments swapped."""
    if isinstance(node.func, ast.Attribute):
        yield node.func.value
    yield from node.args[:1]
    for i in range(len(node.args)):
        rest = node.args[:i] + node.args[i + 1 :]
        yield ast.Call(node.func, rest, node.keywords)
        if i and getattr(node.func, "id", "") not in ("min", "max"):  # these commute
            swapped = [*node.args[: i - 1], node.args[i], node.args[i - 1], *node.args[i + 1 :]]
            yield ast.Call(node.func, swapped, node.keywords)
    for keyword in node.keywords:
        if keyword.arg != "strict":
            yield ast.Call(node.func, node.args, [other for other in node.keywords if other is not keyword])
