"""The book's Sphinx extension: chapters in, pages out.

- a notebook's directives become tags, its stored outputs are put back, its prose goes through the plain-Markdown convention;
- each code cell says what it is (exported, test, solution), lines marked `# new` are highlighted, figures are numbered;
- a page is read again exactly when its source or its outputs changed.
"""

from __future__ import annotations

import configparser
import html
import json
import re
from pathlib import Path

from api import setup_api
from chapter import Cell, Chapter, Library
from convention import Convention
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

logger = logging.getLogger(__name__)
ROLES = {
    "test": ("ml-badge-test", "✓ test: it ran and passed"),
    "check": ("ml-badge-test", "✓ exercise check: the solution passes"),
}


class Fold(nodes.General, nodes.Element):
    "A <details> element."


class FoldDirective(SphinxDirective):
    "`{ml-fold} Title` with a body."

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {"class": directives.class_option, "name": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        fold = Fold(title=self.arguments[0], classes=["ml-fold", *self.options.get("class", [])])
        self.state.nested_parse(self.content, self.content_offset, fold)
        return [fold]


class NumberRole(SphinxRole):
    "A number that a cell or a record measured."

    def run(self) -> tuple[list[nodes.Node], list]:
        return [nodes.inline("", self.text, classes=["ml-measured"])], []


def visit_fold(writer, node: Fold) -> None:
    writer.body.append(f'<details class="{" ".join(node["classes"])}"><summary>{html.escape(node["title"])}</summary>\n')


def depart_fold(writer, node: Fold) -> None:
    writer.body.append("</details>\n")


def visit_fold_text(writer, node: Fold) -> None:
    writer.body.append(f"\n{node['title']}: ") if isinstance(getattr(writer, "body", None), list) else None


class State:
    "What is read once for a build: the library and what can be referred to."

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = Library(root)
        self.convention = Convention(root)
        settings = configparser.ConfigParser()
        settings.read(root / "settings.ini", encoding="utf-8")
        self.git_url = settings["DEFAULT"].get("git_url", "").strip()
        self.chapters: dict[str, tuple[str, Chapter]] = {}

    def chapter(self, docname: str) -> Chapter:
        "The chapter, parsed once for a build, and again only if its file changed."
        path = self.root / f"{docname}.ipynb"
        text = path.read_text(encoding="utf-8")
        if docname not in self.chapters or self.chapters[docname][0] != text:
            self.chapters[docname] = text, Chapter.read(path, self.library, text)
        return self.chapters[docname][1]


def is_chapter(docname: str) -> bool:
    return docname.startswith("nbs/")


def chapter_number(docname: str) -> str:
    "nbs/12_bpe → 12; nbs/a1_tensors → A1; nbs/00_opening → 0."
    return docname.split("/")[-1].split("_")[0].upper().lstrip("0") or "0"


def metadata_of(cell: Cell) -> dict:
    "Tags for MyST-NB, the role for us, and a name for the fold of a solution."
    tags = set(cell.tags) - {"skip-execution"}
    more: dict = {"ml_cell": cell.name, "ml_role": cell.role}
    if cell.role == "solution":
        tags.add("hide-input")
        more["mystnb"] = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
    elif "hide-input" in tags:
        more["mystnb"] = {"code_prompt_show": "Show the code that draws this", "code_prompt_hide": "Hide the code"}
    return {"tags": sorted(tags)} | more


def opening_line(chapter: Chapter, record: dict, git_url: str) -> str:
    "The line below the title: which module, how long it ran, how to run it."
    parts = []
    if chapter.module:
        parts.append(f"builds [`minillm.{chapter.module}`](../book/api/{chapter.module}.md)")
    parts.append(f"every cell was executed for this page, in {max(1, round(record['cpu_seconds']))} s of processor time")
    name = f"nbs/{chapter.path.name}"
    if match := re.match(r"https://github\.com/([^/]+/[^/.]+)(?:\.git)?$", git_url):
        parts.append(f"[open in Colab](https://colab.research.google.com/github/{match[1]}/blob/main/{name})")
    else:
        parts.append(f"run it yourself: `make lab`, then `{name}` (Colab: once the project has a public address)")
    return f"```{{div}} ml-opening\n{' · '.join(parts)}\n```"


def notebook_page(state: State, docname: str, warn) -> str:
    "The notebook that MyST-NB gets: transformed cells with the stored outputs."
    chapter = state.chapter(docname)
    record = chapter.executed()
    if record is None:
        raise RuntimeError(f"{docname} has no up-to-date outputs; run tools/execute.py first (make book does)")
    cells, count = [], 0
    referred = {name for cell in chapter.cells if cell.kind == "markdown" for name in re.findall(r"\(#see/cell/([\w-]+)\)", cell.source)}
    for cell in chapter.cells:
        if cell.kind == "markdown":
            prose, troubles = state.convention.prose(cell.source, record["numbers"])
            for trouble in troubles:
                warn(f"cell {cell.name!r}: {trouble}")
            if cell.name in referred:
                prose = f"(cell-{cell.name})=\n{prose}"
            if not cells:
                prose = re.sub(r"^> (.+)$", lambda m: f"```{{div}} ml-claim\n{m[1]}\n```", prose, count=1, flags=re.M)
                prose += "\n\n" + opening_line(chapter, record, state.git_url)
            cells.append({"cell_type": "markdown", "id": cell.name, "metadata": {}, "source": prose})
        else:
            outputs = record["outputs"].get(cell.name, [])
            count += 1
            meta = metadata_of(cell)
            cells.append(
                {"cell_type": "code", "id": cell.name, "metadata": meta, "source": cell.source, "outputs": outputs, "execution_count": count}
            )
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def read_source(app, docname: str, source: list[str]) -> None:
    state: State = app.minillm
    warn = lambda message: logger.warning(message, location=docname)
    if is_chapter(docname):
        source[0] = notebook_page(state, docname, warn)
        keys = getattr(app.env, "minillm_keys", {})
        app.env.minillm_keys = keys | {docname: state.chapter(docname).key}
    else:
        source[0], troubles = state.convention.prose(source[0])
        for trouble in troubles:
            warn(trouble)


def outdated(app, env, added, changed, removed) -> list[str]:
    "Chapters whose outputs are other ones than when their page was read."
    known = getattr(env, "minillm_keys", {})
    names = [name for name in known if (app.minillm.root / f"{name}.ipynb").exists()]
    return [name for name in names if known[name] != app.minillm.chapter(name).key]


def badge(app, docname: str, role: str, module: str) -> nodes.raw | None:
    "The label above a cell that says what it is."
    if role == "export":
        uri = app.builder.get_relative_uri(docname, f"book/api/{module}")
        text = f'<a class="ml-badge ml-badge-export" href="{uri}">→ goes to minillm.{module}</a>'
    elif role in ROLES:
        css, words = ROLES[role]
        text = f'<span class="ml-badge {css}">{words}</span>'
    else:
        return None
    return nodes.raw("", text, format="html")


def register(app, docname: str, name: str, title: str) -> None:
    "Make `name` a target that any page can refer to."
    data = app.env.domains["std"].data
    data["labels"][name] = (docname, name, title)
    data["anonlabels"][name] = (docname, name)


def mark_changed_lines(cell: nodes.Element) -> None:
    "Highlight the lines that end in `# new`."
    for block in cell.findall(nodes.literal_block):
        changed = [k for k, line in enumerate(block.astext().split("\n"), 1) if re.search(r"# new\b[^#]*$", line)]
        if changed:
            block["highlight_args"] = {"hl_lines": changed}
            block["classes"].append("ml-changed")


def number_figures(app, docname: str, doctree: nodes.document) -> None:
    "Count the figures of a page, name them, and make their labels targets."
    count = 0
    for raw in list(doctree.findall(nodes.raw)):
        text = raw.astext()
        if raw.get("format") != "html" or '<span class="ml-number">' not in text:
            continue
        count += 1
        title = f"Figure {chapter_number(docname)}.{count}"
        number = f'<span class="ml-number">{title}</span>'
        text = re.sub(r'<span class="ml-number">[^<]*</span>', lambda m, number=number: number, text, count=1)
        raw.children = [nodes.Text(text)]
        raw.rawsource = text
        if found := re.search(r'<figure[^>]*\bid="(fig-[a-z0-9-]+)"', text):
            register(app, docname, found[1], title)


def finish_page(app, doctree: nodes.document) -> None:
    "Badges, anchors, changed lines, numbers."
    docname = app.env.docname
    if not is_chapter(docname):
        return
    module = app.minillm.chapter(docname).module
    for cell in list(doctree.findall(nodes.container)):
        if cell.get("nb_element") != "cell_code":
            continue
        meta = cell.get("cell_metadata", {})
        mark_changed_lines(cell)
        if name := meta.get("ml_cell"):
            anchor = f"cell-{name}"
            cell["ids"].append(anchor)
            register(app, docname, anchor, name)
        if (label := badge(app, docname, meta.get("ml_role", ""), module)) is not None:
            cell.insert(0, label)
    number_figures(app, docname, doctree)


def without_thebe(app, config) -> None:
    "Jupyter Book always adds scripts for running cells in a remote kernel; this book needs no kernel and asks no other host."
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [
            one for one in listeners if getattr(one.handler, "__name__", "") not in ("init_thebe_core", "update_thebe_context")
        ]


def setup(app) -> dict[str, object]:
    app.minillm = State(Path(app.srcdir))
    app.add_node(Fold, html=(visit_fold, depart_fold), latex=(visit_fold_text, lambda *_: None), text=(visit_fold_text, lambda *_: None))
    app.add_directive("ml-fold", FoldDirective)
    app.add_role("ml-number", NumberRole())
    setup_api(app)
    app.connect("source-read", read_source)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", finish_page)
    app.connect("config-inited", without_thebe)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
