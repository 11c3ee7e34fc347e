"""The `minillm-api` directive: a module's public names, from its syntax tree alone, each linked to the cell that defines it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

CELL = re.compile(r"^# %% (?:\.\./)+(?P<doc>nbs/\w+)\.ipynb #(?P<cell>[\w-]+)", re.M)


def label(module: str, name: str) -> str:
    "The anchor of a name; upper and lower case differ, as in Python."
    return f"api-{module}-{name}".replace("_", "-").replace(".", "-")


def link_target(anchor: str) -> str:
    "What a link looks for: MyST looks links up in lower case, where `prefetch` and `Prefetch` would be one."
    return anchor.lower() + ("" if anchor == anchor.lower() else "-upper")


def comments_by_line(source: str) -> dict[int, str]:
    "Line number → comment text."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}


def arguments(function: ast.FunctionDef, comments: dict[int, str]) -> list[tuple[str, str, str, str]]:
    "(name, type, default, comment) of each argument."
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    rows = list(zip(positional, defaults)) + ([(a.vararg, None)] if a.vararg else []) + list(zip(a.kwonlyargs, a.kw_defaults))
    rows += [(a.kwarg, None)] if a.kwarg else []
    show = lambda node: ast.unparse(node) if node is not None else ""
    return [
        (arg.arg, show(arg.annotation), show(default), comments.get(arg.end_lineno or arg.lineno, ""))
        for arg, default in rows
        if arg.arg not in ("self", "cls")
    ]


def signature(function: ast.FunctionDef, name: str) -> str:
    "The signature, one argument a line when it is long."
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    text = re.sub(r"\b(self|cls)(, )?", "", ast.unparse(function.args), count=1)
    line = f"{name}({text}){returns}"
    if len(line) <= 88:
        return line
    depth, parts, current = 0, [], ""
    for char in text:
        depth += char in "([{"
        depth -= char in ")]}"
        if char == "," and not depth:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return f"{name}(\n" + "".join(f"    {part},\n" for part in [*parts, current.strip()]) + f"){returns}"


def with_code(text: str) -> list[nodes.Node]:
    "Text in which what stands between backticks is code."
    return [nodes.literal("", part) if k % 2 else nodes.Text(part) for k, part in enumerate(text.split("`")) if part]


class Api(SphinxDirective):
    "`{minillm-api} bpe` lists the public names of minillm.bpe."

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        path = Path(self.env.srcdir) / "minillm" / f"{module}.py"
        self.env.note_dependency(str(path))
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        self.comments = comments_by_line(source)
        self.cells = [(source.count("\n", 0, m.start()) + 1, m["doc"], m["cell"]) for m in CELL.finditer(source)]
        public = next(
            (ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"), []
        )
        out: list[nodes.Node] = [nodes.paragraph("", ast.get_docstring(tree) or "")]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public:
                out.append(self.entry(module, node))
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id in public:
                    out.append(self.constant(module, target.id, node))
        return out

    def home(self, node: ast.AST) -> nodes.paragraph:
        "A link to the cell a definition comes from."
        line = getattr(node, "decorator_list", None) and node.decorator_list[0].lineno or node.lineno
        doc, cell = next(((doc, cell) for start, doc, cell in reversed(self.cells) if start <= line), ("", ""))
        if not doc:
            return nodes.paragraph()
        uri = self.env.app.builder.get_relative_uri(self.env.docname, doc) + f"#cell-{cell}"
        link = nodes.reference("", "", nodes.Text(f"where it is built: chapter {doc.split('/')[1]}"), refuri=uri, internal=True)
        return nodes.paragraph("", "", link, classes=["ml-home"])

    def section(self, module: str, name: str, title: str) -> nodes.section:
        anchor = label(module, name)
        section = nodes.section(ids=[anchor], names=[anchor])
        section += nodes.title("", "", nodes.literal("", title))
        domain = self.env.domains["std"].data
        target = link_target(anchor)
        domain["labels"][target] = (self.env.docname, anchor, title)
        domain["anonlabels"][target] = (self.env.docname, anchor)
        return section

    def constant(self, module: str, name: str, node: ast.AST) -> nodes.section:
        section = self.section(module, name, name)
        code = ast.unparse(node)
        section += nodes.literal_block(code, code, language="python")
        section += self.home(node)
        return section

    def entry(self, module: str, node: ast.FunctionDef | ast.ClassDef) -> nodes.section:
        section = self.section(module, node.name, node.name)
        init = node if isinstance(node, ast.FunctionDef) else None
        methods: list[ast.FunctionDef] = []
        if isinstance(node, ast.ClassDef):
            every = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            init = next((item for item in every if item.name == "__init__"), None)
            methods = [item for item in every if not item.name.startswith("_") or item.name == "__call__"]
        if init is not None:
            section += self.described(init, node.name, ast.get_docstring(node))
        else:
            section += self.prose(ast.get_docstring(node))
        for method in methods:
            box = nodes.container(classes=["ml-method"])
            box += self.described(method, f"{node.name}.{method.name}", ast.get_docstring(method))
            section += box
        section += self.home(node)
        return section

    def described(self, function: ast.FunctionDef, name: str, doc: str | None) -> list[nodes.Node]:
        "Signature, what it does, its arguments."
        code = signature(function, name)
        marks = [ast.unparse(mark) for mark in function.decorator_list if ast.unparse(mark) in ("property", "classmethod", "staticmethod")]
        out: list[nodes.Node] = [nodes.literal_block(code, "".join(f"@{m}\n" for m in marks) + code, language="python")]
        out += self.prose(doc)
        rows = [row for row in arguments(function, self.comments) if row[3]]
        if rows:
            listing = nodes.definition_list(classes=["ml-arguments"])
            for argument, kind, default, comment in rows:
                term = nodes.term("", "", nodes.literal("", argument), nodes.Text(f"  {kind}" + (f", default {default}" if default else "")))
                listing += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", "", *with_code(comment))))
            out.append(listing)
        return out

    @staticmethod
    def prose(doc: str | None) -> list[nodes.Node]:
        return [nodes.paragraph("", "", *with_code(" ".join(part.split()))) for part in (doc or "").split("\n\n") if part.strip()]


def setup_api(app) -> None:
    app.add_directive("minillm-api", Api)
